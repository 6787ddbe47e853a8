"""Persistent and external memory and memory hops: each against its formula, and what memory must not do."""

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
    check_weights,
    drawn,
    filled,
    graph,
    nodes,
    qkv,
)

from toolkit.attention import Need, Request, build, causal, dense, edges, padding, to_edges
from toolkit.attention.external_memory import ExternalMemory, Memory
from toolkit.attention.memory_hops import MemoryHops
from toolkit.attention.persistent_memory import PersistentMemory
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, ShapeError


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


def external(**options):
    return filled(ExternalMemory(heads=H, dim=D, **{"capacity": 8, "top": 3, **options}))


def by_hand(attend, q, k, v, past, allowed):
    """One sample: top-k of its past joined to its context by the gate. Shapes: q (H, Lq, D), past lists of (H, D)."""
    values = torch.zeros(H, q.shape[1], v.shape[-1]).double()
    for h in range(H):
        gate = torch.sigmoid(attend.gate[h]) if past else 0
        for i in range(q.shape[1]):
            seen = allowed[i].nonzero()[:, 0]
            if not len(seen):
                continue
            local = (k[h, seen] @ q[h, i] / math.sqrt(D)).softmax(0) @ v[h, seen]
            if past:
                scores = torch.stack([q[h, i] @ key[h] / math.sqrt(D) for key, _ in past])
                best = scores.topk(min(attend.top, len(past))).indices
                read = scores[best].softmax(0) @ torch.stack([past[int(place)][1][h] for place in best])
                local = gate * read + (1 - gate) * local
            values[h, i] = local
    return values


@pytest.mark.parametrize("chunk", [1, 1 << 22])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_external_memory_equals_the_formula_over_calls(chunk, backend, monkeypatch):
    monkeypatch.setattr("toolkit.attention.external_memory._ELEMENTS", chunk)
    attend, state = external(backend=backend), None
    past = [[], []]
    for call, lengths in enumerate([[4, 2], [0, 4], [3, 3], [4, 4]]):
        q, k, v = (drawn(2, H, 4, size, seed=10 * call + place) for place, size in enumerate((D, D, 5)))
        pattern = causal() & padding(torch.tensor(lengths))
        for b in range(2):  # what no query sees may be anything
            k[b, :, lengths[b] :], v[b, :, lengths[b] :] = float("nan"), float("inf")
        if call == 3:
            state = state.reset(torch.tensor([True, False]))
            past[0] = []
        output = attend(q, k, v, pattern, state=state)
        state = output.state
        allowed = pattern.mask(4, 4, batch=2)[:, 0]
        for b in range(2):
            wanted = by_hand(attend, q[b], k[b], v[b], past[b], allowed[b])
            torch.testing.assert_close(output.values[b], wanted)
            past[b] = (past[b] + [(k[b, :, j], v[b, :, j]) for j in range(lengths[b])])[-attend.capacity :]
            assert int(state.filled[b].sum()) == len(past[b])
            stored = state.key[b][:, state.filled[b]]
            torch.testing.assert_close(stored, torch.stack([key for key, _ in past[b]], 1))
    assert torch.isfinite(state.key).all()
    assert state.key.shape[2] <= attend.capacity


def test_external_memory_gets_no_gradient_and_queries_do():
    attend = external()
    first = qkv(grad=True)
    fresh = attend(*first)
    assert not torch.autograd.grad(fresh.values.sum(), attend.gate)[0].any()
    state = fresh.state
    assert not state.key.requires_grad
    inputs = [drawn(*x.shape, seed=30 + place, grad=True) for place, x in enumerate(first)]
    values = attend(*inputs, state=state).values
    grads = torch.autograd.grad(values.sum(), [*first, *inputs, attend.gate], allow_unused=True)
    assert all(grad is None for grad in grads[:3])
    assert all(grad.any() for grad in grads[3:])
    small = [drawn(1, H, 2, D, seed=40 + place, grad=True) for place in range(3)]
    old = attend(*qkv(2, 5, batch=1)).state
    check_gradients(attend, causal(), small, state=old)


def test_external_memory_shows_where_it_looked():
    attend = external()
    state = attend(*qkv()).state
    q, k, v = (drawn(2, H, 4, D, seed=50 + place) for place in range(3))
    output = attend(q, k, v, causal(), state=state, need=Need(received=True, lse=True))
    weights, place = output.aux["memory_weights"], output.aux["memory_places"]
    picked = torch.stack([torch.stack([state.value[b, h][place[b, h]] for h in range(H)]) for b in range(2)])
    mixed = output.weights.values @ v + (weights[..., None] * picked).sum(-2)
    torch.testing.assert_close(mixed, output.values)
    torch.testing.assert_close(output.weights.values.sum(-1) + weights.sum(-1), torch.ones(2, H, 4).double())
    torch.testing.assert_close(output.weights.received, output.weights.values.sum(2))
    some = attend(q, k, v, causal(), state=state, need=Need(rows=[2, 0], heads=[1]))
    torch.testing.assert_close(some.weights.values, output.weights.values[:, [1]][:, :, [2, 0]])
    torch.testing.assert_close(some.aux["memory_weights"], weights[:, [1]][:, :, [2, 0]])


def test_external_memory_keeps_the_contract():
    attend = external()
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_half(attend)
    q, k, v = qkv()
    state = attend(q, k, v).state
    mask = torch.ones(4, 6).bool()
    mask[1] = False
    assert not attend(q, k, v, dense(mask), state=state).values[:, :, 1].any()
    other = attend(
        torch.cat([q[:1], q[1:] * 3]),
        k,
        v,
        state=Memory(torch.cat([state.key[:1], state.key[1:] * 2]), state.value, state.filled),
    )
    torch.testing.assert_close(other.values[0], attend(q, k, v, state=state).values[0])
    plain = ScaledDotProduct(heads=H, dim=D)(q, k, v).values
    torch.testing.assert_close(attend(q, k, v).values, plain)
    torch.testing.assert_close(attend(q, k, v, state=state.reset(torch.tensor([True, True]))).values, plain)
    half = attend.to(torch.bfloat16)
    state = half(*(x.bfloat16() for x in qkv())).state
    assert half(*(x.bfloat16() for x in qkv()), state=state.to("cpu")).values.dtype == torch.bfloat16
    noisy = external(dropout=0.5)
    state = noisy(q, k, v).state
    assert not torch.allclose(noisy(q, k, v, state=state).values, noisy.eval()(q, k, v, state=state).values)


def test_external_memory_refuses_what_does_not_fit():
    attend, (q, k, v) = external(), qkv()
    state = attend(q, k, v).state
    with pytest.raises(CapabilityError, match="the Memory it returned"):
        attend(q, k, v, state=3)
    with pytest.raises(ShapeError, match="only the third size"):
        attend(q[:1], k[:1], v[:1], state=state)
    with pytest.raises(ShapeError, match="as many booleans"):
        state.reset(torch.tensor([True]))
    with pytest.raises(CapabilityError, match="runs on dense"):
        attend(*nodes(graph()), graph())
    with pytest.raises(ValueError, match="capacity and top"):
        ExternalMemory(heads=1, dim=2, top=0)
    assert build("external_memory", heads=2, dim=3).capacity == 8192


def hops(**options):
    return filled(MemoryHops(heads=H, dim=D, **options))


@pytest.mark.parametrize("tie", ["layerwise", "adjacent"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layout", ["dense", "edges"])
def test_hops_equal_the_formula(tie, residual, count, layout):
    attend = hops(tie=tie, residual=residual, hops=count, scale=0.7)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[2] = False
    q, k, v = qkv(batch=1)
    if layout == "dense":
        output = attend(q, k, v, dense(mask), need=Need())
        values = output.values[0]
    else:
        output = attend(*(x[0].transpose(0, 1) for x in (q, k, v)), to_edges(dense(mask), 4, 6), need=Need())
        values = output.values.transpose(0, 1)
    for h in range(H):
        u, keys, worth = q[0, h], k[0, h], v[0, h]
        for hop in range(count):
            if hop and tie == "adjacent":
                keys, worth = worth, v[0, h] @ attend.embeddings[hop - 1, h]
            p = (0.7 * u @ keys.T).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
            if layout == "dense":
                torch.testing.assert_close(output.aux["hop_weights"][hop, 0, h], p)
            read = p @ worth
            u = (u @ attend.transition[h] if hasattr(attend, "transition") else u) + read
        wanted = (u if residual else read).clone()
        wanted[2] = 0
        torch.testing.assert_close(values[h], wanted)
    assert len(output.aux["hop_weights"]) == count
    shown = output.aux["hop_weights"][-1]
    torch.testing.assert_close(output.weights.values, shown)


@pytest.mark.parametrize("tie", ["layerwise", "adjacent"])
def test_hops_keep_the_contract(tie):
    for residual in (False, True):
        attend = hops(tie=tie, residual=residual)
        check_dense(attend)
        check_empty_rows(attend)
        check_poison(attend)
        check_half(attend)
        check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))
        assert attend.capabilities.weights == "proxy"
    one = hops(tie=tie, hops=1)
    assert one.capabilities.weights == "exact"
    check_weights(one)
    plain = ScaledDotProduct(heads=H, dim=D, scale=1.0)
    torch.testing.assert_close(one(*qkv()).values, plain(*qkv()).values)


def test_hops_take_grouped_heads_and_check_options():
    attend, (q, k, v) = hops(tie="adjacent"), qkv()
    grouped = attend(q, k[:, :1], v[:, :1]).values
    torch.testing.assert_close(grouped, attend(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v)).values)
    with pytest.raises(ShapeError, match="of size 4"):
        attend(*qkv(width=5))
    for options in ({"hops": 0}, {"tie": "layer"}):
        with pytest.raises(ValueError, match="memory_hops wants"):
            MemoryHops(heads=1, dim=2, **options)
    assert build("memory_hops", heads=1, dim=2, hops=2).transition.shape == (1, 2, 2)
    assert torch.equal(MemoryHops(heads=1, dim=2).transition, torch.eye(2)[None])
    assert not attend(q, k, v).aux
