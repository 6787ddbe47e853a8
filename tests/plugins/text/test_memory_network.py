import pytest
import torch
from story_samples import SPEC, batch, encoded
from toolkit_text.data.story import StorySpec
from toolkit_text.models.memory_network import MemoryNetwork
from toolkit_text.models.sentences import SentenceVectors
from toolkit_text.models.story_transformer import StoryTransformer

from toolkit.choice import Choice
from toolkit.errors import CapabilityError, RecipeError

STORIES = StorySpec.of(SPEC)


def network(attention="dot", seed=1, **options):
    chosen = None if attention is None else Choice("attention", attention, options.pop("of", {}))
    torch.manual_seed(seed)
    return MemoryNetwork(classes=3, stories=STORIES, attention=chosen, **{"dim": 8, **options}).eval()


def transformer(attention="scaled_dot_product", **options):
    torch.manual_seed(1)
    chosen = Choice("attention", attention)
    return StoryTransformer(
        classes=3, stories=STORIES, attention=chosen, dim=8, heads=2, num_layers=2, **options
    ).eval()


# Sentences ----------------------------------------------------------------------------------------------------------


def test_position_encoding_is_the_papers_formula():
    vectors = SentenceVectors(rows=9, width=4, dim=6, sets=2, encoding="position")
    words, sizes = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 8, 0]]), torch.tensor([4, 2, 3])
    found = vectors(words, sizes)
    for sentence, size in enumerate(sizes.tolist()):
        for k in range(1, 7):
            wanted = torch.zeros(2)
            for j in range(1, size + 1):
                if word := int(words[sentence, j - 1]):
                    factor = (1 - j / size) - (k / 6) * (1 - 2 * j / size)
                    wanted += factor * vectors.words[:, word, k - 1]
            torch.testing.assert_close(found[sentence, :, k - 1], wanted)


def test_a_bag_has_no_order_and_the_others_have():
    words, back = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 2, 1]])
    size = torch.tensor([3])
    for encoding, alike in (("bag", True), ("position", False), ("learned", False)):
        vectors = SentenceVectors(rows=4, width=2, dim=6, sets=1, encoding=encoding)
        if vectors.places is not None:
            torch.testing.assert_close(vectors(words, size)[0, 0], vectors.words[0, 1:].sum(0))  # ones at first
            torch.nn.init.normal_(vectors.places)
            torch.testing.assert_close(  # a third word shares the second's place
                vectors(words, size)[0, 0],
                vectors.words[0, 1] * vectors.places[0]
                + (vectors.words[0, 2] + vectors.words[0, 3]) * vectors.places[1],
            )
        assert torch.allclose(vectors(words, size), vectors(back, size), atol=1e-6) == alike


def test_nothing_stays_nothing():
    vectors = SentenceVectors(rows=4, width=3, dim=6, sets=1, encoding="position")
    vectors(torch.tensor([[1, 0, 2]]), torch.tensor([3])).sum().backward()
    assert not vectors.words.grad[:, 0].any()


# The network --------------------------------------------------------------------------------------------------------


def by_hand(made, told, place, softmax=True):
    """Answer one question as the paper's equations say, sentence by sentence; also the weights of each hop."""
    sentences = made.sentences(told.words, told.sizes)
    adjacent = made.tie == "adjacent"
    u = sentences[told.question[place], 0 if adjacent else 2]
    seen = []
    for hop in range(made.hops):
        a, c = (hop, hop + 1) if adjacent else (0, 1)
        keys, values = [], []
        for number in range(int(told.lengths[place])):
            sentence, time = told.memory[place, number], told.time[place, number]
            keys.append(sentences[sentence, a] + made.times[a, time])
            values.append(sentences[sentence, c] + made.times[c, time])
        scores = torch.stack([u @ key for key in keys])
        weights = scores.softmax(0) if softmax else scores
        seen.append(weights)
        u = sum(w * v for w, v in zip(weights, values, strict=True)) + (u if adjacent else made.turn.weight @ u)
        u = u.relu() if made.nonlinear else u
    if adjacent:
        return torch.stack([u @ made.sentences.words[-1, row] for row in STORIES.answers]), seen
    return made.answer.weight @ u, seen


@pytest.mark.parametrize("tie", ["adjacent", "layerwise"])
@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("encoding", ["bag", "position", "learned"])
def test_the_network_is_the_papers(tie, nonlinear, encoding):
    made, told = network(tie=tie, nonlinear=nonlinear, encoding=encoding), batch()
    if tie == "layerwise":
        torch.nn.init.normal_(made.turn.weight)
    logits, weights = made(told), made.sentence_weights(told)
    for place, length in enumerate(told.lengths.tolist()):
        wanted, seen = by_hand(made, told, place)
        torch.testing.assert_close(logits[place], wanted)
        torch.testing.assert_close(weights[place, :, :length], torch.stack(seen))
        assert not weights[place, :, length:].any()


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_memory_hops_of_the_registry_compute_the_same_as_layerwise_tying(hops):
    ours, told = network(tie="layerwise", hops=hops), batch()
    torch.nn.init.normal_(ours.turn.weight, std=0.5)
    theirs = network("memory_hops", of={"hops": hops, "residual": True}, tie="layerwise", hops=1)
    state = {name: value for name, value in ours.state_dict().items() if name != "turn.weight"}
    theirs.load_state_dict(state | {"mechanism.transition": ours.turn.weight.T[None]})
    torch.testing.assert_close(theirs(told), ours(told))
    torch.testing.assert_close(theirs.sentence_weights(told), ours.sentence_weights(told))


def test_answers_that_are_no_words_have_a_row_of_their_own():
    assert STORIES.answers[0] == SPEC["words"].index("home") + 1
    assert STORIES.answers[2] == SPEC["words"].index("wim") + 1
    assert STORIES.answers[1] == len(SPEC["words"]) + 1 == STORIES.rows - 1


@pytest.mark.parametrize("made", [network, transformer, lambda: network(None)], ids=["network", "transformer", "mean"])
def test_padding_and_other_stories_change_no_answer(made):
    model = made()
    together, weights = model(batch()), model.sentence_weights(batch())
    for place in range(3):
        alone = batch([place])
        torch.testing.assert_close(model(alone)[0], together[place], atol=1e-5, rtol=1e-5)
        own = model.sentence_weights(alone)[0]
        torch.testing.assert_close(own, weights[place, :, : own.shape[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["dot", "scaled_dot_product", "additive", "cosine", "gatv2", "soft_capped"])
def test_any_mechanism_looks_with_any_number_of_heads(attention):
    made = network(attention, heads=2)
    made.train()(batch()).sum().backward()
    assert all(weight.grad is not None for weight in made.parameters())
    weights = made.eval().sentence_weights(batch())
    assert weights.shape == (3, 3, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3))


def test_without_attention_it_takes_the_mean():
    made = network(None, hops=1)
    told = batch()
    vectors = made.sentences(told.words, told.sizes)
    u = vectors[told.question[0], 0]
    read = sum(vectors[told.memory[0, n], 1] + made.times[1, told.time[0, n]] for n in range(3)) / 3
    wanted = torch.stack([(u + read) @ made.sentences.words[-1, row] for row in STORIES.answers])
    torch.testing.assert_close(made(told)[0], wanted)
    assert made.sentence_weights(told).shape == (3, 0, 6)


@pytest.mark.parametrize(
    ("attention", "options", "error", "what"),
    [
        ("rotary", {}, CapabilityError, "places matter to attention 'rotary'"),
        ("memory_hops", {"of": {"residual": True}}, RecipeError, r"model\.tie=layerwise model\.hops=1"),
        ("memory_hops", {"tie": "layerwise", "hops": 1}, RecipeError, r"attention\.residual=true"),
        ("dot", {"of": {"normalize": "sparsemax"}, "linear_start": 1}, CapabilityError, "attention 'dot' has none"),
        ("linear", {"linear_start": 1}, CapabilityError, "attention 'linear' has none"),
        (None, {"linear_start": 1}, CapabilityError, "no attention has none"),
        ("dot", {"heads": 3}, RecipeError, r"model\.dim=8 is no multiple of model\.heads=3"),
    ],
)
def test_what_does_not_go_together_is_refused(attention, options, error, what):
    with pytest.raises(error, match=what):
        network(attention, **options)


# Linear start -------------------------------------------------------------------------------------------------------


def test_at_first_there_is_no_softmax_and_then_there_is():
    made, told = network(linear_start=2), batch()
    for softmax in (False, True):
        for place in range(3):
            torch.testing.assert_close(made(told)[place], by_hand(made, told, place, softmax)[0])
        made.validated()
        assert made.linear != softmax
        made.validated()
    assert made.mechanism.normalize == "softmax"


def test_where_the_start_stands_is_part_of_the_weights():
    made, other = network(linear_start=2), network(linear_start=2)
    made.validated()
    other.load_state_dict(made.state_dict())
    other.validated()
    assert (made.linear, other.linear) == (True, False)
    assert not network().linear


# Batches ------------------------------------------------------------------------------------------------------------


def test_sentences_stand_once_in_a_batch_and_the_latest_last():
    told = batch()
    assert told.lengths.tolist() == [3, 1, 6]
    assert told.time.tolist() == [[3, 2, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [6, 5, 4, 3, 2, 1]]
    assert len(told.words) == 1 + 4 + 4 + 3  # nothing; stories of 3 and 1; 4 different ones of 6; questions
    assert told.support.tolist()[:2] == [[True, False, True, False, False, False], [True] + [False] * 5]
    assert told.target.tolist() == [0, 2, 1]
    assert told.task.tolist() == [0, 0, 1]
    words = ["", *SPEC["words"]]
    assert [words[word] for word in told.words[told.memory[0, 1]]] == ["vera", "took", "the", "red", "box"]


def test_words_that_are_not_known_keep_their_place():
    found = encoded(words=[word for word in SPEC["words"] if word != "took"])
    assert found.unknown == {"took": 1}
    told = found.batch(torch.tensor([0]))
    assert (told.words[told.memory[0, 1]] > 0).tolist() == [True, False, True, True, True]
    assert int(told.sizes[told.memory[0, 1]]) == 5


def test_noise_puts_empty_times_between_sentences():
    found = encoded(memory=50)
    longest = 0
    for seed in range(200):
        time = found.batch(torch.tensor([0, 2]), seed=seed, noise=0.5).time
        for row, length, most in ((time[0], 3, 5), (time[1], 7, 11)):
            assert (row[:length].diff() < 0).all()
            assert row[:length].min() >= 1
            assert row[:length].max() <= most
            assert not row[length:].any()
        longest = max(longest, int(time.max()))
        assert torch.equal(time, found.batch(torch.tensor([0, 2]), seed=seed, noise=0.5).time)
    assert longest == 11
    assert torch.equal(found.batch(torch.tensor([0]), seed=3).time, torch.tensor([[3, 2, 1]]))
    assert encoded().batch(torch.tensor([2]), seed=5, noise=1.0).time.max() <= 6  # as many times as sentences are kept


def test_a_share_without_questions_has_gradients_of_zero():
    for model in (network(), network(tie="layerwise"), transformer()):
        nobody = batch([])
        logits = model(nobody)
        assert logits.shape == (0, 3)
        (logits.sum() * 0).backward()
        assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


# The transformer ----------------------------------------------------------------------------------------------------


def test_a_question_and_its_story_become_one_sequence_the_latest_sentence_first():
    made = transformer()
    laid = made.laid(batch([0, 1]))
    words = ["", *SPEC["words"], "[", "."]
    tokens = [
        [words[token] for token in row[:length]]
        for row, length in zip(laid.batch.tokens, laid.batch.lengths, strict=True)
    ]
    assert " ".join(tokens[0]) == "[ where is ugo . ugo left . vera took the red box . ugo went home ."
    assert " ".join(tokens[1]) == "[ who slept . wim slept ."
    assert laid.sentence[0].tolist() == [3] * 5 + [2] * 3 + [1] * 6 + [0] * 4
    assert laid.sentence[1, :7].tolist() == [3] * 4 + [0] * 3


def test_the_transformers_weights_are_summed_over_the_words_of_each_sentence():
    made, told = transformer(), batch([0])
    whole = torch.stack([weights.values.mean(1)[:, 0] for weights in made.attention_weights(told)], 1)
    found, sentence = made.sentence_weights(told), made.laid(told).sentence
    for place in range(3):
        torch.testing.assert_close(found[0, :, place], whole[0][:, sentence[0] == place].sum(-1))
    assert (found.sum(-1) < 1).all()
