"""For mechanisms that are not one pairwise softmax: the answer from weights that are held, and who looks at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolkit.attention.backends import reference
from toolkit.attention.call import Call
from toolkit.attention.mechanism import AttentionOutput, Mechanism
from toolkit.attention.pattern import Full
from toolkit.errors import CapabilityError


def answer(
    mechanism: Mechanism,
    call: Call,
    weights: Tensor,
    lse: Tensor | None = None,
    looked: Tensor | None = None,
    *,
    state: Any = None,
    aux: dict[str, Tensor] | None = None,
) -> AttentionOutput:
    """Sum the values by weights, and show those that `call.need` asks for.

    Shapes: weights dense (B, H, Lq, Lk), edges (E, H) in the caller's order; looked as `Call.quarantined` gives it.
    Raises: CapabilityError if a log-sum-exp is needed and there is none.
    """
    values, need = reference.mix(weights, call), call.need
    shown = None
    if need is not None and (need.weights or need.received):
        shown = reference.select(weights if need.gradient else weights.detach(), call, need)
    if need is not None and need.lse and lse is None:
        raise CapabilityError(f"{mechanism.name} has no log-sum-exp; ask for weights or received mass")
    lse = lse if need is not None and need.lse else None
    values, shown, lse = call.spoiled(looked, values, shown, lse)
    return AttentionOutput(values=values, weights=shown, lse=lse, state=state, aux=aux or {})


def looking(call: Call) -> tuple[Tensor, Tensor]:
    """Say which queries may look at something, and which keys some query may look at.

    Shapes: dense (B or 1, H or 1, Lq) and (B or 1, H or 1, Lk), edges (Nt, 1) and (Ns, 1), bool.
    """
    device = call.q.device
    if call.layout == "edges":
        ends = [torch.zeros(size, 1, dtype=torch.bool, device=device) for size in (call.q.shape[0], call.k.shape[0])]
        for end, places in zip(ends, (call.edges.index[1], call.edges.index[0]), strict=True):
            end[places] = True
        return ends[0], ends[1]
    keys = call.k.shape[2]
    if call.pattern is None or isinstance(call.pattern, Full):
        ones = torch.ones(1, 1, max(call.queries, keys), dtype=torch.bool, device=device)
        return ones[..., : call.queries] & (keys > 0), ones[..., :keys] & (call.queries > 0)
    parts, seen = [], None
    for rows in torch.arange(call.queries, device=device).split(256):
        mask = call.mask(rows)
        assert mask is not None
        parts.append(mask.any(-1))
        seen = mask.any(2) if seen is None else seen | mask.any(2)
    if seen is None:
        return torch.ones(1, 1, 0, dtype=torch.bool, device=device), torch.zeros(
            1, 1, keys, dtype=torch.bool, device=device
        )
    return torch.cat(parts, 2), seen
