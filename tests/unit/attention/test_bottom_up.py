"""bottom_up: against its formula on sequences and graphs, on every backend, and how it relates to plain attention."""

import math

import pytest
import torch
from contract_checks import (
    D,
    H,
    check_dense,
    check_edges_equal_dense,
    check_empty_rows,
    check_gradients,
    check_half,
    check_poison,
    check_weights,
    filled,
    graph,
    nodes,
    qkv,
)

from toolkit.attention import Need, Request, build, causal, window
from toolkit.attention.bottom_up import BottomUp
from toolkit.attention.scaled_dot_product import ScaledDotProduct

MADE = {
    "tanh": {},
    "tanh, hidden": {"hidden": 3},
    "linear": {"saliency": "linear"},
    "fixed": {"strength": 0.5, "learned": False},
}
every = pytest.mark.parametrize("options", MADE.values(), ids=MADE)


def made(**options):
    return filled(BottomUp(heads=H, dim=D, **options))


def formula(attend, q, k, h):
    """The score of one query and one key of head h. Shapes: q (D,), k (D,)."""
    strength = 0.5 if attend.strength is None else attend.strength[h]
    hidden = k if attend.weight is None else torch.tanh(attend.weight[h].T @ k + attend.offset[h])
    return q @ k / math.sqrt(D) + strength * sum(attend.context[h] * hidden)


@every
@pytest.mark.parametrize("normalize", ["softmax", "sigmoid"])
def test_dense_equals_the_formula(options, normalize):
    attend = made(normalize=normalize, **options)
    for width in (D, 5):
        q, k, v = qkv(3, 4, width=width)
        output = attend(q, k, v, causal(), need=Need())
        for b in range(2):
            for h in range(H):
                for i in range(3):
                    scores = torch.stack([formula(attend, q[b, h, i], k[b, h, j], h) for j in range(i + 2)])
                    weights = scores.softmax(0) if normalize == "softmax" else scores.sigmoid()
                    torch.testing.assert_close(output.weights.values[b, h, i, : i + 2], weights)
                    torch.testing.assert_close(output.values[b, h, i], weights @ v[b, h, : i + 2])


@every
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_edges_equal_the_formula(options, backend):
    attend, pattern = made(backend=backend, **options), graph()
    q, k, v = nodes(pattern, width=3)
    output = attend(q, k, v, pattern, need=Need())
    source, target = pattern.index
    for i in range(1, 5):
        entering = (target == i).nonzero()[:, 0]
        for h in range(H):
            scores = torch.stack([formula(attend, q[i, h], k[j, h], h) for j in source[entering].tolist()])
            torch.testing.assert_close(output.weights.values[entering, h], scores.softmax(0))
            torch.testing.assert_close(output.values[i, h], scores.softmax(0) @ v[source[entering], h])


@every
def test_contract(options):
    attend = made(**options)
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_weights(attend, width=5)
    check_half(attend)
    check_edges_equal_dense(attend)


@every
def test_gradients(options):
    attend = made(**options)
    check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))
    pattern = graph(3, 4, 6)
    check_gradients(attend, pattern, nodes(pattern, grad=True))


@pytest.mark.parametrize("backend", ["sdpa", "chunked", "rows"])
def test_fast_backends_equal_the_reference(backend):
    attend, pattern = made(backend=backend), window(2, 0)
    q, k, v = qkv(9, 9)
    assert attend.explain(Request(q=q, k=k, v=v, pattern=pattern)).name == backend
    fast = attend(q, k, v, pattern).values
    attend.backend = "reference"
    torch.testing.assert_close(fast, attend(q, k, v, pattern).values)
    attend.backend = "auto"
    assert attend.explain(Request(q=q, k=k, v=v, pattern=causal())).name == "sdpa"


def test_without_strength_it_is_scaled_dot_product():
    q, k, v = qkv()
    wanted = ScaledDotProduct(heads=H, dim=D)(q, k, v).values
    torch.testing.assert_close(made(strength=0.0, learned=False)(q, k, v).values, wanted)
    assert not torch.allclose(made(strength=1.0, learned=False)(q, k, v).values, wanted)


def test_salience_is_what_a_bias_would_add_and_needs_no_query():
    attend, (q, k, v) = made(), qkv()
    bias = attend.salience(k.transpose(1, 2)).transpose(1, 2)[:, :, None]  # (B, H, 1, Lk)
    plain = ScaledDotProduct(heads=H, dim=D)(q, k, v, bias=bias).values
    torch.testing.assert_close(attend(q, k, v).values, plain)
    none = torch.zeros_like(q)
    alone = attend(none, k, v, need=Need()).weights.values
    torch.testing.assert_close(alone, bias.softmax(-1).expand_as(alone))


def test_registered_and_its_mistakes():
    attend = build("bottom_up", heads=2, dim=3, strength=0.25)
    torch.testing.assert_close(attend.strength, torch.full((2,), 0.25))
    assert "strength" not in build("bottom_up", heads=2, dim=3, learned=False).state_dict()
    with pytest.raises(ValueError, match="linear or tanh saliency"):
        BottomUp(heads=1, dim=2, saliency="mlp")
    for options in ({"hidden": 0}, {"hidden": 2, "saliency": "linear"}):
        with pytest.raises(ValueError, match="hidden units, one or more, with saliency='tanh'"):
            BottomUp(heads=1, dim=2, **options)
