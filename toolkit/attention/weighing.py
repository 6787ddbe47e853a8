"""Exact weights on demand, without an L x L tensor unless every row is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.attention.backends import reference
from toolkit.attention.call import Call
from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.need import Need, Weights
from toolkit.attention.pattern import Lengths
from toolkit.errors import CapabilityError

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise

_STEP = 1 << 21  # numbers in the largest tensor of a chunk; a few such are held
_STEP_ELSEWHERE = 1 << 22  # where starting a kernel costs more than a chunk does


@torch.no_grad()
def weigh(mechanism: Pairwise, call: Call) -> tuple[Weights | None, Tensor | None]:
    """Recompute the weights that `call.need` asks for from the scores of its rows, without gradients."""
    need = call.need
    assert need is not None
    if call.layout == "edges":
        return _weigh_edges(mechanism, call, need)
    lse: Tensor | None = None
    if need.lse:
        rows = torch.arange(call.queries, device=call.q.device)
        at = 0
        for some in _few(call, rows, mechanism.pair_width):
            part = _required(mechanism, reference.weigh(mechanism, call.rows(some), some)[1])
            # written in place: kept apart, parts would lie between the scores of chunks and leave holes in memory
            lse = part.new_empty(*part.shape[:2], len(rows)) if lse is None else lse
            lse[:, :, at : at + len(some)] = part
            at += len(some)
    if need.received and not need.weights:
        return _received(mechanism, call, need), lse
    return gather(
        call, lambda some: reference.weigh(mechanism, call.rows(some), some)[0], width=mechanism.pair_width
    ), lse


def gather(call: Call, weigh_some: Callable[[Tensor], Tensor], *, width: int = 1) -> Weights | None:
    """Collect the weights that `call.need` asks of a dense call, a few rows at a time; None if it asks for none.

    width: how many numbers a pair holds while it is weighed.
    Shapes: weigh_some takes positions (R,) of queries and gives their weights (B, H, R, Lk).
    """
    need = call.need
    if need is None or not (need.weights or need.received):
        return None
    heads = slice(None) if need.heads is None else list(need.heads)
    rows = _rows(call, need)
    shown = received = None
    at = 0
    for some in _few(call, rows, width):
        part = weigh_some(some)[:, heads]
        if need.weights:
            # written in place: joined at the end, all weights would be held twice
            shown = part.new_empty(*part.shape[:2], len(rows), part.shape[3]) if shown is None else shown
            shown[:, :, at : at + len(some)] = part
        if need.received:
            mass = part.sum(2, dtype=torch.promote_types(part.dtype, torch.float32))
            received = mass if received is None else received + mass
        at += len(some)
    kind = call.q.dtype if shown is None else shown.dtype
    return _dense(call, need, rows, shown, None if received is None else received.to(kind))


@torch.no_grad()
def push(mechanism: Pairwise, call: Call, mass: Tensor) -> Tensor:
    """Return A^T mass, a few rows or edges at a time; rows without mass are left out.

    Shapes: mass dense (B, H or 1, Lq, R) -> (B, H, Lk, R); edges (Nt, H or 1, R) -> (Ns, H, R).
    """
    call, looked = call.quarantined()
    if call.layout == "edges":
        return _push_edges(mechanism, call, mass, looked)
    rows = mass.ne(0).flatten(0, 1).any(0).any(-1).nonzero()[:, 0]
    found = _summed(mechanism, call, rows, mass)
    if looked is not None:
        found = found.masked_fill((looked[..., None] & (mass != 0)).any(2)[:, :, None], float("nan"))
    return found.to(mass.dtype)


def _received(mechanism: Pairwise, call: Call, need: Need) -> Weights:
    rows = _rows(call, need)
    found = _summed(mechanism, call, rows, call.q.new_ones(1, 1, call.queries, 1))[..., 0].to(call.q.dtype)
    return _dense(call, need, rows, None, found if need.heads is None else found[:, list(need.heads)])


def _dense(call: Call, need: Need, rows: Tensor, shown: Tensor | None, received: Tensor | None) -> Weights:
    return Weights(
        pattern=call.pattern,
        values=shown,
        received=received,
        rows=None if need.rows is None else rows,
        heads=None if need.heads is None else tuple(need.heads),
    )


def _summed(mechanism: Pairwise, call: Call, rows: Tensor, mass: Tensor) -> Tensor:
    """Sum the mass of some rows by their weights. Shapes: rows (R',), mass (B, H or 1, Lq, R) -> (B, H, Lk, R)."""
    kind = torch.promote_types(torch.promote_types(call.q.dtype, mass.dtype), torch.float32)
    found = torch.zeros(*call.k.shape[:3], mass.shape[-1], dtype=kind, device=call.q.device)
    for some in _few(call, rows, mechanism.pair_width):
        keys = _span(mechanism, call, some)
        part = _weigh_near(mechanism, call, some, keys)
        found[:, :, keys] += part.mT.to(kind) @ mass.index_select(2, some).to(kind)
    return found


def _weigh_near(mechanism: Pairwise, call: Call, rows: Tensor, keys: slice) -> Tensor:
    """Weigh the only keys that some rows could look at. Shapes: (B, H, R, S)."""
    some = call.rows(rows)
    if keys == slice(None):
        return reference.weigh(mechanism, some, rows)[0]
    mask, bias = call.mask(rows), mechanism.bias(some, rows)
    bias = bias if bias is None or bias.shape[3] == 1 else bias[..., keys]
    scores = mechanism.scores(some.q, call.k[:, :, keys])
    return reference.normalized(scores, None if mask is None else mask[..., keys], mechanism.normalizer, bias)[0]


def _span(mechanism: Pairwise, call: Call, rows: Tensor) -> slice:
    """Return which keys some rows could look at."""
    from toolkit.attention.pairwise import InnerProduct, Pairwise

    whole = type(mechanism).scores not in (Pairwise.scores, InnerProduct.scores)
    if call.pattern is None or whole or type(mechanism).reweigh is not Pairwise.reweigh:
        return slice(None)
    keys = call.k.shape[2]
    reach = call.pattern.reach(Lengths(call.queries, keys))
    if reach.columns or reach.rows or reach.scattered:
        return slice(None)
    first, last = (int(end) + keys - call.queries for end in (rows.min(), rows.max()))
    start = 0 if reach.left is None else first // reach.grain * reach.grain - reach.left
    stop = keys if reach.right is None else (last // reach.grain + 1) * reach.grain + reach.right
    return slice(max(0, min(start, keys - 1)), max(1, min(stop, keys)))


def _weigh_edges(mechanism: Pairwise, call: Call, need: Need) -> tuple[Weights | None, Tensor | None]:
    rows = None if need.rows is None else torch.as_tensor(need.rows, device=call.q.device)
    chosen = None if rows is None else torch.isin(call.edges.index[1], rows).nonzero()[:, 0]
    if chosen is None or need.lse:
        weights, lse = _edge_weights(mechanism, call)
        weights = weights if chosen is None else weights[chosen]
    else:
        edges = EdgePattern(call.edges.index[:, chosen], call.edges.num_targets, call.edges.num_sources)
        bias = None if call.bias is None else call.bias[chosen]
        weights, lse = _edge_weights(mechanism, replace(call, pattern=edges, bias=bias))
    lse = _required(mechanism, lse) if need.lse else None
    if not (need.weights or need.received):
        return None, lse
    weights = weights if need.heads is None else weights[:, list(need.heads)]
    source = call.edges.index[0] if chosen is None else call.edges.index[0, chosen]
    received = weights.new_zeros(len(call.k), weights.shape[1]).index_add(0, source, weights) if need.received else None
    heads = None if need.heads is None else tuple(need.heads)
    shown = weights if need.weights else None
    return Weights(pattern=call.pattern, values=shown, received=received, rows=rows, heads=heads, edges=chosen), lse


def _edge_weights(mechanism: Pairwise, call: Call) -> tuple[Tensor, Tensor | None]:
    """Weigh edges, scored a few at a time. Shapes: (E, H) in the caller's order, (Nt, H) or None."""
    width = mechanism.heads * max(mechanism.dim, mechanism.pair_width)
    ends = zip(*(end.split(max(1, _STEP // width)) for end in call.edges.index), strict=True)
    scores = [mechanism.score(call.q.index_select(0, near), call.k.index_select(0, far)) for far, near in ends]
    weights, lse = reference.normalized_call(torch.cat(scores), call, mechanism.normalizer, call.bias)
    return mechanism.reweigh(weights, call), lse


def _push_edges(mechanism: Pairwise, call: Call, mass: Tensor, looked: Tensor | None) -> Tensor:
    weights = _edge_weights(mechanism, call)[0]
    weights = weights if looked is None else weights.masked_fill(looked[call.edges.index[1]], float("nan"))
    kind = torch.promote_types(mass.dtype, torch.float32)
    found = torch.zeros(*call.k.shape[:2], mass.shape[-1], dtype=kind, device=mass.device)
    step = max(1, _STEP // max(1, mechanism.heads * mass.shape[-1]))
    for (source, target), weight in zip(call.edges.index.split(step, 1), weights.split(step), strict=True):
        given = mass.index_select(0, target)
        carried = (weight[..., None] * given).masked_fill(given == 0, 0)  # where nothing is, not even NaN carries it
        found.index_add_(0, source, carried.to(kind))
    return found.to(mass.dtype)


def _rows(call: Call, need: Need) -> Tensor:
    device = call.q.device
    return torch.arange(call.queries, device=device) if need.rows is None else torch.as_tensor(need.rows, device=device)


def _few(call: Call, rows: Tensor, width: int) -> tuple[Tensor, ...]:
    batch, heads = call.q.shape[:2]
    step = _STEP if call.q.device.type == "cpu" else _STEP_ELSEWHERE
    return rows.split(max(1, step // max(1, batch * heads * call.k.shape[2] * width)))


def _required(mechanism: Pairwise, lse: Tensor | None) -> Tensor:
    if lse is None:
        raise CapabilityError(
            f"{mechanism.name} normalises by {mechanism.normalize!r}, which has no log-sum-exp; softmax has one"
        )
    return lse
