"""Persistent memory against its formula, on sequences and on graphs."""

import math

import pytest
import torch
from contract_checks import (
    D,
    H,
    check_dense,
    check_empty_rows,
    check_gradients,
    check_half,
    check_poison,
    drawn,
    filled,
    graph,
    nodes,
    qkv,
)

from toolkit.attention import Need, Request, build, causal, dense, edges, padding, to_edges
from toolkit.attention.persistent_memory import PersistentMemory
from toolkit.errors import ShapeError


def persistent(**options):
    return filled(PersistentMemory(heads=H, dim=D, **{"memory": 3, **options}))


@pytest.mark.parametrize("backend", ["sdpa", "rows", "reference"])
@pytest.mark.parametrize("width", [None, 5])
def test_persistent_memory_equals_the_formula(backend, width):
    attend = persistent(value_dim=width, backend=backend)
    q, k, v = qkv(width=width)
    bias, pattern = drawn(1, H, 4, 6, seed=6), causal() & padding(torch.tensor([4, 6]))
    output = attend(q, k, v, pattern, bias=bias, need=Need(received=True))
    allowed = pattern.mask(4, 6, batch=2)[:, 0]
    for b in range(2):
        for h in range(H):
            key, value = attend.key[h] * math.sqrt(D), attend.value[h] * math.sqrt(3)
            for i in range(4):
                seen = allowed[b, i].nonzero()[:, 0]
                context = k[b, h, seen] @ q[b, h, i] / math.sqrt(D) + bias[0, h, i, seen]
                weights = torch.cat([context, key @ q[b, h, i] / math.sqrt(D)]).softmax(0)
                torch.testing.assert_close(output.values[b, h, i], weights @ torch.cat([v[b, h, seen], value]))
                torch.testing.assert_close(output.weights.values[b, h, i, seen], weights[:-3])
                torch.testing.assert_close(output.aux["memory_weights"][b, h, i], weights[-3:])
    torch.testing.assert_close(output.weights.received, output.weights.values.sum(2))
    assert output.weights.pattern is pattern


@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_persistent_memory_on_edges_equals_dense(backend):
    attend = persistent(backend=backend)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[2] = False
    listed = to_edges(dense(mask), 4, 6)
    q, k, v = qkv(batch=1, grad=True)
    bias = drawn(listed.num_edges, H, seed=4)
    full = torch.zeros(4, 6, H).double().index_put((listed.index[1], listed.index[0]), bias).permute(2, 0, 1)[None]
    need = Need(received=True)
    sparse = attend(*(x[0].transpose(0, 1) for x in (q, k, v)), listed, bias=bias, need=need)
    attend.backend = "reference"
    wanted = attend(q, k, v, dense(mask), bias=full, need=need)
    torch.testing.assert_close(sparse.values.transpose(0, 1)[None], wanted.values)
    torch.testing.assert_close(sparse.weights.received.T[None], wanted.weights.received)
    where = wanted.weights.values[0][:, listed.index[1], listed.index[0]].T
    torch.testing.assert_close(sparse.weights.values, where)
    torch.testing.assert_close(sparse.aux["memory_weights"].transpose(0, 1)[None], wanted.aux["memory_weights"])
    inputs = [q, k, v, *attend.parameters()]
    for one, other in zip(
        torch.autograd.grad(sparse.values.square().sum(), inputs),
        torch.autograd.grad(wanted.values.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    some = attend(*(x[0].transpose(0, 1) for x in (q, k, v)), listed, bias=bias, need=Need(rows=[1], heads=[1]))
    chosen = (listed.index[1] == 1).nonzero()[:, 0]
    assert torch.equal(some.weights.edges, chosen)
    torch.testing.assert_close(some.weights.values, where[chosen][:, [1]])
    torch.testing.assert_close(some.aux["memory_weights"][1], sparse.aux["memory_weights"][1, [1]])


def test_persistent_memory_keeps_the_contract():
    attend = persistent()
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_half(attend)
    check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))
    q, k, v = qkv()
    total = attend(q, k, v, need=Need()).weights.values.sum(-1)
    assert total.max() < 1
    assert attend(q, k, v).weights is None
    assert not attend(q, k, v).aux
    only = attend(q, k, v, need=Need(weights=False, received=True))
    assert not only.aux
    assert only.weights.received.shape == (2, H, 6)
    nothing = edges(torch.empty(2, 0, dtype=torch.long), 3, 3)
    assert not attend(*nodes(nothing), nothing).values.any()
    with pytest.raises(ShapeError, match="value_dim sets it"):
        attend(*qkv(width=5))
    with pytest.raises(ValueError, match="1 pair"):
        PersistentMemory(heads=1, dim=2, memory=0)
    assert build("persistent_memory", heads=2, dim=3).key.shape == (2, 16, 3)
    assert attend.explain(Request(q=q, k=k, v=v)).name == "sdpa"


def test_the_memory_of_a_graph_is_added_to_its_edges_once():
    attend, pattern = persistent(), graph()
    attend(*nodes(pattern), pattern)
    kept = dict(pattern.cache)
    attend(*nodes(pattern), pattern)
    assert pattern.cache == kept
