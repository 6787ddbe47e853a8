"""A stack of layers writes token by token what it gives all at once, for every kind of state."""

import pytest
import torch

from toolkit import attention
from toolkit.attention import Need, TransformerStack, causal, padding
from toolkit.attention.transformer import TransformerLayer
from toolkit.choice import Choice
from toolkit.errors import CapabilityError, ShapeError


def stack(**options):
    torch.manual_seed(3)
    return TransformerStack(**{"dim": 16, "heads": 4, "num_layers": 2, "dropout": 0.0, **options}).double().eval()


def tokens(length=6, seed=0, batch=3):
    return torch.randn(batch, length, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["scaled_dot_product", "rotary", "alibi", "sliding_window", "linear", "additive"])
@pytest.mark.parametrize("prompt", [1, 4])
def test_token_by_token_is_the_whole(name, prompt):
    made = stack(attention=Choice("attention", name), num_layers=3)
    x = tokens()
    whole = made(x, causal()).x
    with torch.no_grad():
        state = made.begin(batch=3, capacity=6)
        found = [made(x[:, :prompt], causal(), state=state).x]
        found += [made(x[:, step : step + 1], causal(), state=state).x for step in range(prompt, 6)]
    assert state.length == 6
    torch.testing.assert_close(torch.cat(found, 1), whole)


@pytest.mark.parametrize("name", ["scaled_dot_product", "linear"])
@pytest.mark.parametrize("cross", ["scaled_dot_product", "location_aware", "luong"])
@pytest.mark.parametrize("order", [[2, 0, 0], [1], [2, 1]])
def test_texts_go_on_from_others_or_leave(name, cross, order):
    options = {"local": "monotonic", "window": 2} if cross == "luong" else {}
    made = stack(attention=name, cross=Choice("attention", cross, options))
    x, encoded, lengths = tokens(), tokens(5, 1), torch.tensor([5, 3, 4])
    place = torch.tensor(order)
    longer = torch.cat([x[place, :3], tokens(6, 7)[: len(order), 3:]], 1)
    wanted = made(longer, causal(), context=encoded[place], context_pattern=padding(lengths[place])).x
    with torch.no_grad():
        state = made.begin(batch=3, capacity=6, context=encoded)
        for step in range(3):
            made(x[:, step : step + 1], causal(), context_pattern=padding(lengths), state=state)
        state.reorder(place)
        for step in range(3, 6):
            found = made(longer[:, step : step + 1], causal(), context_pattern=padding(lengths[place]), state=state).x
            torch.testing.assert_close(found[:, 0], wanted[:, step])


def test_it_is_its_layers_and_hands_on_their_weights():
    made = stack(cross="scaled_dot_product")
    x, encoded = tokens(), tokens(5, 1)
    output = made(x, causal(), context=encoded, need=Need())
    walked, seen, crossed = x, [], []
    for layer in made.layers:
        assert isinstance(layer, TransformerLayer)
        each = layer(walked, causal(), context=encoded, need=Need())
        walked = each.x
        seen.append(each.attention.weights.values)
        crossed.append(each.cross.weights.values)
    torch.testing.assert_close(output.x, made.norm(walked))
    assert [each.values.shape for each in output.attention] == [(3, 4, 6, 6)] * 2
    assert all(torch.equal(one.values, two) for one, two in zip(output.attention, seen, strict=True))
    assert all(torch.equal(one.values, two) for one, two in zip(output.cross, crossed, strict=True))
    assert made(x, causal(), context=encoded).attention == []


def test_layers_that_normalise_sums_have_no_norm_behind_them():
    assert isinstance(stack(order="post").norm, torch.nn.Identity)
    assert isinstance(stack().norm, torch.nn.LayerNorm)


def test_what_does_not_fit_is_told():
    with pytest.raises(ShapeError, match="one layer or more"):
        stack(num_layers=0)
    with pytest.raises(ShapeError, match="a mechanism of its own"):
        stack(attention=attention.build("scaled_dot_product", heads=4, dim=4))
    with pytest.raises(CapabilityError, match="cannot write token by token"):
        stack(attention="location_aware").begin(batch=1, capacity=2)
    made = stack(cross="scaled_dot_product")
    state = made.begin(batch=3, capacity=6, context=tokens(5, 1))
    with pytest.raises(ShapeError, match="holds its context"):
        made(tokens(), causal(), context=tokens(5, 1), state=state)
    with pytest.raises(ShapeError, match="have attention to a context, but one was not given to `begin`"):
        made.begin(batch=3, capacity=6)
    with pytest.raises(ShapeError, match="have no attention to a context, but one was given to `begin`"):
        stack().begin(batch=3, capacity=6, context=tokens(5, 1))
