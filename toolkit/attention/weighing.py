"""Exact weights on demand, without an L x L tensor unless every row is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.attention.backends import reference
from toolkit.attention.call import Call
from toolkit.attention.need import Weights
from toolkit.errors import CapabilityError

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise

_STEP = 1 << 22  # scores held at a time while mass is summed


@torch.no_grad()
def weigh(mechanism: Pairwise, call: Call) -> tuple[Weights | None, Tensor | None]:
    """Recompute the weights that `call.need` asks for from the scores of its rows, without gradients."""
    need = call.need
    assert need is not None
    if call.layout == "edges":
        weights, lse = reference.weigh(mechanism, call)
        wanted = need.weights or need.received
        return (reference.select(weights, call, need) if wanted else None), _required(
            mechanism, lse
        ) if need.lse else None
    lse = None
    if need.lse:
        rows = torch.arange(call.queries, device=call.q.device)
        parts = [
            _required(mechanism, reference.weigh(mechanism, call.rows(some), some)[1]) for some in _few(call, rows)
        ]
        lse = torch.cat(parts, 2) if parts else None
    return gather(call, lambda some: reference.weigh(mechanism, call.rows(some), some)[0]), lse


def gather(call: Call, weigh_some: Callable[[Tensor], Tensor]) -> Weights | None:
    """Collect the weights that `call.need` asks of a dense call, a few rows at a time; None if it asks for none.

    Shapes: weigh_some takes positions (R,) of queries and gives their weights (B, H, R, Lk).
    """
    need = call.need
    if need is None or not (need.weights or need.received):
        return None
    heads = slice(None) if need.heads is None else list(need.heads)
    device = call.q.device
    rows = torch.arange(call.queries, device=device) if need.rows is None else torch.as_tensor(need.rows, device=device)
    parts: list[Tensor] = []
    masses: list[Tensor] = []
    for some in _few(call, rows):
        part = weigh_some(some)[:, heads]
        if need.weights:
            parts.append(part)
        if need.received:
            masses.append(part.sum(2))
    return Weights(
        pattern=call.pattern,
        values=torch.cat(parts, 2) if parts else None,
        received=torch.stack(masses).sum(0) if masses else None,
        rows=None if need.rows is None else rows,
        heads=None if need.heads is None else tuple(need.heads),
    )


def _few(call: Call, rows: Tensor) -> tuple[Tensor, ...]:
    batch, heads = call.q.shape[:2]
    return rows.split(max(1, _STEP // max(1, batch * heads * call.k.shape[2])))


def _required(mechanism: Pairwise, lse: Tensor | None) -> Tensor:
    if lse is None:
        raise CapabilityError(
            f"{mechanism.name} normalises by {mechanism.normalize!r}, which has no log-sum-exp; softmax has one"
        )
    return lse
