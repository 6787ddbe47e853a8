"""External memory against its formula over calls, and what memory must not do."""

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

from toolkit.attention import Need, build, causal, dense, padding
from toolkit.attention.external_memory import ExternalMemory, Memory
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, ShapeError


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
