"""The two translators: writing step by step is what training computes at once, with any mechanism."""

from __future__ import annotations

import pytest
import torch
from pair_samples import batch_of, encoded, pair_spec
from toolkit_text.models.recurrent_translator import RecurrentTranslator, gated
from toolkit_text.models.transformer_translator import TransformerTranslator

from toolkit.attention import Need
from toolkit.choice import Choice
from toolkit.errors import CapabilityError, RecipeError

SIZES = ((5, 4), (2, 6), (7, 1), (1, 3))

RECURRENT = [
    pytest.param(options, mechanism, id=f"{name}-{mechanism[0]}-{'-'.join(map(str, mechanism[1].values()))}")
    for name, options in {
        "before": {"looks": "before"},
        "after": {"looks": "after"},
        "feeding": {"looks": "after", "input_feeding": True},
    }.items()
    for mechanism in (
        ("additive", {}),
        ("luong", {"score": "dot"}),
        ("luong", {"score": "general"}),
        ("luong", {"score": "concat"}),
        ("luong", {"local": "monotonic", "window": 2}),
        ("luong", {"local": "predictive", "window": 2}),
        ("location_aware", {"width": 3}),
        ("scaled_dot_product", {}),
        ("linear", {}),
        ("none", {}),
    )
]


def recurrent(options, mechanism, **more):
    torch.manual_seed(0)
    name, chosen = mechanism
    attention = None if name == "none" else Choice("attention", name, chosen)
    return RecurrentTranslator(
        tokens=pair_spec(), attention=attention, dim=8, hidden=12, heads=2, **options, **more
    ).eval()


def transformer(name="scaled_dot_product", **options):
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, "num_layers": 2, "hidden": 24, **options}
    return TransformerTranslator(tokens=pair_spec(), attention=Choice("attention", name), **sizes).eval()


def stepwise(model, batch):
    """Return the scores of every token, written one after another. Shapes: (S, V)."""
    writing = model.begin(batch, batch.previous.shape[1])
    steps = [writing.advance(batch.previous[:, step : step + 1]) for step in range(batch.previous.shape[1])]
    return torch.stack(steps, 1)[batch.written]


@pytest.mark.parametrize(("options", "mechanism"), RECURRENT)
def test_a_recurrent_network_writes_as_it_was_trained(toolkit, options, mechanism):
    model, batch = recurrent(options, mechanism), batch_of(*SIZES)
    with torch.no_grad():
        torch.testing.assert_close(stepwise(model, batch), model(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"order": "post"}, {"tied": False}, {"positions": "learned"}])
@pytest.mark.parametrize("name", ["scaled_dot_product", "additive", "talking_heads", "linear"])
def test_a_transformer_writes_as_it_was_trained(toolkit, name, options):
    model, batch = transformer(name, **options), batch_of(*SIZES)
    with torch.no_grad():
        torch.testing.assert_close(stepwise(model, batch), model(batch), rtol=1e-4, atol=1e-5)


def test_other_mechanisms_for_the_decoder_are_named(toolkit):
    model = transformer("scaled_dot_product", writing="rotary", crossing="additive")
    names = [tuple(part.mechanism.name for part in (layer.attention, layer.cross)) for layer in model.decoder.layers]
    assert names == [("rotary", "additive")] * 2
    assert model.encoder.layers[0].attention.mechanism.name == "scaled_dot_product"
    batch = batch_of(*SIZES)
    with torch.no_grad():
        torch.testing.assert_close(stepwise(model, batch), model(batch), rtol=1e-4, atol=1e-5)


def both():
    return [
        pytest.param(lambda: recurrent({"looks": "before"}, ("additive", {})), id="before"),
        pytest.param(lambda: recurrent({"looks": "after"}, ("luong", {})), id="after"),
        pytest.param(lambda: recurrent({}, ("location_aware", {"width": 3})), id="location_aware"),
        pytest.param(lambda: recurrent({}, ("none", {})), id="none"),
        pytest.param(transformer, id="transformer"),
    ]


@pytest.mark.parametrize("made", both())
def test_a_pair_scores_the_same_whatever_stands_beside_it(toolkit, made):
    model, pairs = made(), encoded(list(SIZES))
    with torch.no_grad():
        together = model(pairs.batch(torch.arange(len(SIZES)))).split([size + 1 for _, size in SIZES])
        for place, scores in enumerate(together):
            torch.testing.assert_close(model(pairs.batch(torch.tensor([place]))), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made", both())
def test_writing_goes_on_from_other_texts(toolkit, made):
    """After `reorder`, each text is where the one it was taken from stood, in a larger or smaller batch."""
    model, pairs = made(), encoded(list(SIZES))
    for places in ([3, 0, 0, 2, 1, 1], [2, 0], [1]):
        batch, chosen = pairs.batch(torch.arange(len(SIZES))), torch.tensor(places)
        with torch.no_grad():
            writing = model.begin(batch, 3)
            writing.advance(batch.previous[:, :1])
            writing.reorder(chosen)
            found = writing.advance(batch.previous[chosen, 1:2])
            for place, scores in zip(places, found, strict=True):
                alone = pairs.batch(torch.tensor([place]))
                own = model.begin(alone, 3)
                own.advance(alone.previous[:, :1])
                torch.testing.assert_close(
                    own.advance(batch.previous[place : place + 1, 1:2])[0], scores, rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize("made", [each for each in both() if each.id != "none"])
def test_weights_are_those_of_each_written_token(toolkit, made):
    model, batch = made(), batch_of(*SIZES)
    for found in model.attention_weights(batch):
        assert found.values.shape[0] == len(SIZES)
        assert found.values.shape[2:] == (batch.previous.shape[1], batch.source.shape[1])
        torch.testing.assert_close(found.values.sum(-1), torch.ones(found.values.shape[:3]))
        for place, length in enumerate(batch.source_lengths.tolist()):
            assert (found.values[place, :, :, length:] == 0).all()
    whole = model.attention_weights(batch)[0].values
    (part, *_) = model.attention_weights(batch, Need(rows=[2, 0], heads=[1], received=True))
    torch.testing.assert_close(part.values, whole[:, [1]][:, :, [2, 0]])
    torch.testing.assert_close(part.received, whole[:, [1]][:, :, [2, 0]].sum(2))


@pytest.mark.parametrize("made", both())
def test_every_weight_learns_and_a_share_of_nothing_has_gradients(toolkit, made):
    model, pairs = made(), encoded(list(SIZES))
    batch = pairs.batch(torch.arange(len(SIZES)))
    torch.nn.functional.cross_entropy(model(batch), batch.tokens).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        # a bias on keys moves all scores of a query alike
        assert weight.grad.abs().sum() > 0 or name.endswith("key.bias"), name
    model.zero_grad(set_to_none=True)
    scores = model(pairs.batch(torch.arange(0)))
    assert scores.shape == (0, 30)
    (scores.sum() * 0).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad == 0).all(), name


def test_gates_are_those_of_torch():
    torch.manual_seed(0)
    cell, x, hidden = torch.nn.GRUCell(3, 4), torch.randn(5, 3), torch.randn(5, 4)
    of_input = torch.nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    of_hidden = torch.nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(gated(of_input, of_hidden, hidden), cell(x, hidden))


def test_tokens_are_shared_where_they_can_be(toolkit):
    for joint, tied in ((True, True), (False, True), (True, False)):
        model = TransformerTranslator(
            tokens=pair_spec(joint=joint), attention=Choice("attention", "scaled_dot_product"), dim=16, tied=tied
        )
        assert (model.embedding.source is model.embedding.target) == (joint and tied)
        assert (model.embedding.output is None) == tied
        assert model.embedding.target.tokens.num_embeddings == (30 if joint else 23)
        assert model.embedding.source.tokens.num_embeddings == 30


def test_what_cannot_be_is_refused(toolkit):
    with pytest.raises(RecipeError, match=r"model\.hidden=12 is shared"):
        RecurrentTranslator(tokens=pair_spec(), hidden=12, heads=5)
    with pytest.raises(RecipeError, match=r"belongs to model\.looks=after"):
        RecurrentTranslator(tokens=pair_spec(), input_feeding=True)
    with pytest.raises(CapabilityError, match="same weights"):
        RecurrentTranslator(tokens=pair_spec(), attention=Choice("attention", "gat"), hidden=8)
    for name, told in (("rotary", "places the last query"), ("deformable", "no attention between queries and keys")):
        with pytest.raises(CapabilityError, match=told):
            RecurrentTranslator(tokens=pair_spec(), attention=Choice("attention", name), hidden=8)
    for name in ("rotary", "location_aware", "deformable"):
        with pytest.raises(CapabilityError, match=r"model\.crossing|between queries and keys"):
            transformer(name)
