"""Exact weights on demand, without an L x L tensor unless every row is asked for."""

from __future__ import annotations

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
    wanted = need.weights or need.received
    if call.layout == "edges":
        weights, lse = reference.weigh(mechanism, call)
        return (reference.select(weights, call, need) if wanted else None), _required(
            mechanism, lse
        ) if need.lse else None
    batch, num_heads, queries, _ = call.q.shape
    heads = slice(None) if need.heads is None else list(need.heads)
    device = call.q.device
    rows = torch.arange(queries, device=device)
    chosen = rows if need.rows is None else torch.as_tensor(need.rows, device=device)
    parts: list[Tensor] = []
    masses: list[Tensor] = []
    lses: list[Tensor] = []
    step = max(1, _STEP // max(1, batch * num_heads * call.k.shape[2]))
    if wanted:
        for some in chosen.split(step):
            part = reference.weigh(mechanism, call.rows(some), some)[0][:, heads]
            if need.weights:
                parts.append(part)
            if need.received:
                masses.append(part.sum(2))
    if need.lse:
        for some in rows.split(step):
            lses.append(_required(mechanism, reference.weigh(mechanism, call.rows(some), some)[1]))
    found = Weights(
        pattern=call.pattern,
        values=torch.cat(parts, 2) if parts else None,
        received=torch.stack(masses).sum(0) if masses else None,
        rows=None if need.rows is None else chosen,
        heads=None if need.heads is None else tuple(need.heads),
    )
    return found if wanted else None, torch.cat(lses, 2) if lses else None


def _required(mechanism: Pairwise, lse: Tensor | None) -> Tensor:
    if lse is None:
        raise CapabilityError(
            f"{mechanism.name} normalises by {mechanism.normalize!r}, which has no log-sum-exp; softmax has one"
        )
    return lse
