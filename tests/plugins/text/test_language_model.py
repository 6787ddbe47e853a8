"""The language model: GPT-2's numbers with GPT-2's weights, and token by token what the whole text gives."""

import pytest
import torch
from toolkit_text.data.stream import WindowBatch, nothing
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models import language_decoder
from toolkit_text.models.language_decoder import LanguageDecoder, room
from toolkit_text.models.language_model import LanguageModel
from torch.nn import functional as F

from toolkit.choice import Choice
from toolkit.decoding.sampling import Sampling, sample
from toolkit.errors import CapabilityError, ShapeError

WORDS, CONTEXT = 37, 24


def build(attention="scaled_dot_product", positions="learned", options=None, **model):
    torch.manual_seed(0)
    sizes = {"dim": 32, "heads": 4, "num_layers": 2, **model}
    tokens = TokenSpec(vocabulary=WORDS, pad=0, max_length=CONTEXT)
    chosen = Choice("attention", attention, options=options or {})
    return LanguageModel(tokens=tokens, attention=chosen, positions=positions, **sizes).eval()


def text(batch=2, length=CONTEXT, seed=1):
    return torch.randint(1, WORDS, (batch, length), generator=torch.Generator().manual_seed(seed))


def batch_of(tokens):
    return WindowBatch(tokens=tokens[:, :-1], target=tokens[:, 1:].flatten(), row=torch.arange(len(tokens)))


@pytest.fixture
def both():
    """Our model, and Hugging Face's with our weights, all of them away from where they start."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = build()
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1
    )
    theirs = GPT2LMHeadModel(config).eval()
    state = {
        "transformer.wte.weight": ours.embedding.tokens.weight,
        "transformer.wpe.weight": ours.embedding.positions.weight,
        "transformer.ln_f.weight": ours.stack.norm.weight,
        "transformer.ln_f.bias": ours.stack.norm.bias,
        "lm_head.weight": ours.embedding.tokens.weight,
    }
    for place, layer in enumerate(ours.stack.layers):
        at = layer.attention
        wide, narrow = layer.feedforward[0], layer.feedforward[3]
        joined = torch.cat([at.query.weight, at.key.weight, at.value.weight])
        biases = torch.cat([at.query.bias, at.key.bias, at.value.bias])
        for name, weight, bias in (
            ("ln_1", layer.norms[0].weight, layer.norms[0].bias),
            ("ln_2", layer.norms[1].weight, layer.norms[1].bias),
            ("attn.c_attn", joined.T, biases),
            ("attn.c_proj", at.out.weight.T, at.out.bias),
            ("mlp.c_fc", wide.weight.T, wide.bias),
            ("mlp.c_proj", narrow.weight.T, narrow.bias),
        ):
            state[f"transformer.h.{place}.{name}.weight"] = weight
            state[f"transformer.h.{place}.{name}.bias"] = bias
    missing = theirs.load_state_dict({name: each.detach().clone() for name, each in state.items()}, strict=False)
    assert not missing.unexpected_keys
    assert not missing.missing_keys
    return ours, theirs


def test_logits_loss_and_gradients_are_gpt2s(both):
    ours, theirs = both
    tokens = text(length=CONTEXT)
    torch.testing.assert_close(ours.logits(ours.states(tokens)), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
    loss, nats = ours(batch_of(tokens))
    expected = theirs(tokens, labels=tokens).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nats.mean(), loss.detach())
    loss.backward()
    expected.backward()
    torch.testing.assert_close(
        ours.embedding.tokens.weight.grad, theirs.transformer.wte.weight.grad, rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(
        ours.stack.layers[0].feedforward[0].weight.grad,
        theirs.transformer.h[0].mlp.c_fc.weight.grad.T,
        rtol=1e-3,
        atol=1e-5,
    )


def test_greedy_text_is_gpt2s(both):
    ours, theirs = both
    prompt = text(batch=3, length=5)
    decoder = LanguageDecoder(ours, batch=3, length=CONTEXT)
    steps = list(sample(decoder, prompt, tokens=CONTEXT - 5, sampling=Sampling(temperature=0)))
    wanted = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=CONTEXT - 5,
        min_new_tokens=CONTEXT - 5,
        eos_token_id=None,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.tensor(steps).T.tolist() == wanted[:, 5:].tolist()


def test_weights_start_as_gpt2s():
    model = build(dim=128, num_layers=8, hidden=512)
    assert model.embedding.tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.embedding.positions.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for layer in model.stack.layers:
        assert layer.attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.feedforward[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert layer.feedforward[3].weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert not layer.feedforward[3].bias.any()


MECHANISMS = [
    ("scaled_dot_product", "learned", {}),
    ("scaled_dot_product", "sinusoidal", {}),
    ("rotary", "none", {}),
    ("alibi", "none", {}),
    ("t5_relative", "none", {}),
    ("linear", "learned", {}),
    ("sliding_window", "none", {"window": 3}),
    ("differential", "learned", {}),
]


@pytest.mark.parametrize(("attention", "positions", "options"), MECHANISMS, ids=lambda each: str(each))
def test_nothing_ahead_is_seen_and_token_by_token_is_the_whole(attention, positions, options):
    model = build(attention, positions, options)
    tokens = text()
    whole = model.logits(model.states(tokens))
    changed = tokens.clone()
    changed[:, 15:] = (changed[:, 15:] + 5) % WORDS
    torch.testing.assert_close(model.logits(model.states(changed))[:, :15], whole[:, :15])
    assert not torch.allclose(model.logits(model.states(changed))[:, 15:], whole[:, 15:])
    with torch.no_grad():
        decoder = LanguageDecoder(model, batch=2, length=CONTEXT)
        torch.testing.assert_close(decoder.advance(tokens[:, :7]), whole[:, 6], rtol=1e-4, atol=1e-5)
        for place in range(7, CONTEXT):
            found = decoder.advance(tokens[:, place : place + 1])
            torch.testing.assert_close(found, whole[:, place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("attention", "positions", "options"), MECHANISMS, ids=lambda each: str(each))
def test_texts_go_on_from_others(attention, positions, options):
    model = build(attention, positions, options)
    tokens, order = text(batch=3), torch.tensor([2, 0])
    with torch.no_grad():
        decoder = LanguageDecoder(model, batch=3, length=CONTEXT)
        decoder.advance(tokens[:, :9])
        decoder.reorder(order)
        mixed = tokens[order]
        found = decoder.advance(mixed[:, 9:10])
        torch.testing.assert_close(found, model.logits(model.states(mixed[:, :10]))[:, -1], rtol=1e-4, atol=1e-5)


def test_grouped_keys():
    model, tokens = build(kv_heads=2), text()
    assert model.stack.layers[0].attention.key.out_features == 16
    with torch.no_grad():
        decoder = LanguageDecoder(model, batch=2, length=CONTEXT)
        decoder.advance(tokens[:, :4])
        torch.testing.assert_close(decoder.advance(tokens[:, 4:5]), model.logits(model.states(tokens[:, :5]))[:, -1])


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_sliding_window_keeps_what_it_reaches_and_gives_what_the_whole_gives(dilation, monkeypatch):
    monkeypatch.setattr(language_decoder, "PIECE", 5)
    model = build("sliding_window", "none", {"window": 3, "dilation": dilation})
    tokens = text(length=90)
    whole = model.logits(model.states(tokens))
    with torch.no_grad():
        decoder = LanguageDecoder(model, batch=2, length=90)
        assert {layer.capacity for layer in decoder.state.layers} == {3 * dilation + 6}
        torch.testing.assert_close(decoder.advance(tokens[:, :33]), whole[:, 32], rtol=1e-4, atol=1e-5)
        for place in range(33, 90):
            found = decoder.advance(tokens[:, place : place + 1])
            torch.testing.assert_close(found, whole[:, place], rtol=1e-4, atol=1e-5)


def test_linear_attention_has_no_end_and_keeps_a_state_of_one_size():
    model = build("linear", "none")
    tokens = text(length=5 * CONTEXT)
    whole = model.logits(model.states(tokens))
    with torch.no_grad():
        decoder = LanguageDecoder(model, batch=2, length=5 * CONTEXT)
        decoder.advance(tokens[:, :-1])
        size = [each.sums.numel() for each in decoder.state.layers]
        torch.testing.assert_close(decoder.advance(tokens[:, -1:]), whole[:, -1], rtol=1e-4, atol=1e-5)
        assert [each.sums.numel() for each in decoder.state.layers] == size


@pytest.mark.parametrize("length", [10, 3 * CONTEXT])
def test_past_the_context_the_first_and_the_newest_keys_are_kept(length):
    model = build("rotary", "none")
    tokens = text(length=length)
    with torch.no_grad():
        decoder = LanguageDecoder(model, batch=2, length=length + CONTEXT)
        decoder.advance(tokens)
        for place in range(CONTEXT):
            assert decoder.advance(text(length=1, seed=place)).isfinite().all()
    cache = decoder.state.layers[0]
    newest = length + CONTEXT
    assert cache.positions.tolist() == [0, 1, 2, 3, *range(newest - CONTEXT + 4, newest)]


def test_a_prompt_that_fits_goes_in_at_once(monkeypatch):
    model = build("rotary", "none")
    taken = []
    decoder = LanguageDecoder(model, batch=1, length=3 * CONTEXT)
    monkeypatch.setattr(decoder, "_take", lambda tokens: taken.append(tokens.shape[1]) or torch.zeros(1, 1, 32))
    decoder.advance(text(batch=1, length=2 * CONTEXT))
    assert taken == [24, 6, 6, 6, 6]


def test_learned_positions_end():
    model = build()
    assert room(model, 20) == 4
    with pytest.raises(ShapeError, match="has learned 24 positions, but a text of 25 tokens was asked for"):
        LanguageDecoder(model, batch=1, length=25)
    assert room(build("rotary", "none"), 20) > 10**9


@pytest.mark.parametrize(
    ("attention", "options"), [("linformer", {"max_length": CONTEXT, "projected_length": 8}), ("nystrom", {})]
)
def test_a_mechanism_that_is_not_causal_is_refused_before_training(attention, options, toolkit):
    told = rf"attention '{attention}' does not support causal=True. What can: .*rotary"
    with pytest.raises(CapabilityError, match=told):
        build(attention, options=options)


def test_scored_places_alone_count():
    model, tokens = build(), text(length=9)
    scored = torch.rand(2, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    batch = WindowBatch(tokens=tokens[:, :-1], target=tokens[:, 1:][scored], row=torch.arange(2), scored=scored)
    logits = model.logits(model.states(tokens[:, :-1]))
    loss, nats = model(batch)
    torch.testing.assert_close(loss, F.cross_entropy(logits[scored], tokens[:, 1:][scored]))
    assert len(nats) == int(scored.sum())


def test_a_batch_of_nothing_gives_every_weight_a_gradient_of_0():
    model = build().train()
    loss, nats = model(nothing(8))
    (loss + nats.sum() * 0).backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_weights_are_shown():
    model, batch = build(), batch_of(text())
    shown = model.attention_weights(batch)
    assert [tuple(each.values.shape) for each in shown] == [(2, 4, 23, 23)] * 2
    torch.testing.assert_close(shown[0].values.sum(-1), torch.ones(2, 4, 23))
    assert not shown[0].values.triu(1).any()
