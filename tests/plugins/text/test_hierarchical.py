"""Hierarchical attention: where sentences end, that padding is never read, and what it learns."""

import pytest
import torch
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.tokens import TokenSpec, encode, train_tokenizer
from toolkit_text.models.hierarchical import HierarchicalClassifier, sentence_ends

from toolkit.attention import Need
from toolkit.choice import Choice

TEXTS = [
    "One is here. Two is here! Is three?! Four",
    "No end in this one at all",
    "First line\nsecond line. Third",
    "A",
]


def spec_of(texts, kind="word"):
    made = train_tokenizer(texts, kind=kind, vocabulary=400, min_count=1)
    return TokenSpec(made.get_vocab_size(), made.token_to_id("[PAD]"), 64, tokenizer=made.to_str())


def batch_of(texts, spec):
    sequences = encode(spec.tokenizer, texts, 64, "truncate").sequences
    lengths = torch.tensor([len(each) for each in sequences])
    tokens = torch.full((len(texts), int(lengths.max())), spec.pad)
    for row, each in enumerate(sequences):
        tokens[row, : len(each)] = torch.tensor(each)
    places = torch.arange(len(texts))
    return TextBatch(target=places % 2, tokens=tokens, lengths=lengths, owner=places, row=places)


def model(spec, attention="saliency_pooling", **options):
    torch.manual_seed(0)
    chosen = None if attention is None else Choice("attention", attention)
    made = HierarchicalClassifier(classes=2, tokens=spec, attention=chosen, dim=8, hidden=4, **options)
    torch.nn.init.normal_(made.classify.weight)
    return made.eval()


def sentences(made, batch):
    found = made.split(batch)
    words = torch.full((len(found.lengths), int(found.lengths.max())), -1)
    words[found.sentence[batch.mask], found.within[batch.mask]] = batch.tokens[batch.mask]
    by_document = [[] for _ in batch.row]
    for row, length, document in zip(words, found.lengths.tolist(), found.document.tolist(), strict=True):
        assert (row[:length] >= 0).all()
        assert (row[length:] < 0).all()
        by_document[document].append(row[:length].tolist())
    return found, by_document


def test_sentences_end_at_their_marks_and_leave_nothing_out():
    spec = spec_of(TEXTS)
    batch = batch_of(TEXTS, spec)
    found, by_document = sentences(model(spec), batch)
    assert [len(each) for each in by_document] == [4, 1, 2, 1]  # words know no ends of lines
    assert found.counts.tolist() == [4, 1, 2, 1]
    for row, each in enumerate(by_document):
        assert [token for part in each for token in part] == batch.tokens[row, : int(batch.lengths[row])].tolist()


def test_bytes_know_the_end_of_a_line():
    spec = spec_of(TEXTS, "bpe")
    _, by_document = sentences(model(spec), batch_of(TEXTS, spec))
    assert [len(each) for each in by_document] == [4, 1, 3, 1]


def test_long_sentences_are_cut():
    spec = spec_of(TEXTS)
    batch = batch_of(TEXTS, spec)
    found, by_document = sentences(model(spec, sentence_length=3), batch)
    assert max(found.lengths.tolist()) == 3
    for row, each in enumerate(by_document):
        assert [token for part in each for token in part] == batch.tokens[row, : int(batch.lengths[row])].tolist()


def test_only_marks_end_sentences():
    spec = spec_of(["yes . no ? 中。 end... 3.5"])
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(spec.tokenizer)
    ends = {made.id_to_token(int(token)) for token in sentence_ends(spec).nonzero().flatten()}
    assert ends == {".", "?", "。"}
    assert not sentence_ends(TokenSpec(vocabulary=9, pad=0, max_length=4)).any()


@pytest.mark.parametrize("attention", ["saliency_pooling", "scaled_dot_product", None])
def test_padding_and_other_texts_change_no_answer(attention):
    spec = spec_of(TEXTS)
    made = model(spec, attention)
    together = made(batch_of(TEXTS, spec))
    for place, text in enumerate(TEXTS):
        torch.testing.assert_close(made(batch_of([text], spec))[0], together[place], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_sentences_are_read_apart_and_in_their_order():
    """The same words in other sentences are another document, and so are the same sentences in another order."""
    texts = ["a b . c", "a . b c", "c . a b .", "a b . c ."]
    spec = spec_of(texts)
    found = model(spec)(batch_of(texts, spec))
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[2], found[3])


@pytest.mark.parametrize("attention", ["saliency_pooling", "scaled_dot_product"])
def test_weights_of_tokens_are_those_of_words_times_those_of_sentences(attention):
    spec = spec_of(TEXTS)
    made, batch = model(spec, attention), batch_of(TEXTS, spec)
    (weights,) = made.attention_weights(batch, Need())
    assert weights.values.shape == (4, 1, 1, batch.tokens.shape[1])
    torch.testing.assert_close(weights.values.sum(-1), torch.ones(4, 1, 1))
    assert not weights.values[~batch.mask[:, None, None]].any()
    _, _, words, document = made._read(batch, Need())
    assert torch.allclose(weights.values[0, 0, 0, 1], words.values[0, 0, 0, 1] * document.values[0, 0, 0, 0])
    assert made.attention_weights(batch)[0].values.equal(weights.values)
    assert model(spec, None).attention_weights(batch) == []


def test_every_weight_learns():
    spec = spec_of(TEXTS)
    made = model(spec).train()
    made(batch_of(TEXTS, spec)).logsumexp(-1).sum().backward()
    for name, weight in made.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
