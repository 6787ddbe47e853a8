"""Query rows in chunks, recomputed in the backward pass: nothing L x L, and nothing (L, L, D), outlives a chunk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from toolkit.attention.backends import reference
from toolkit.attention.call import Call
from toolkit.attention.need import Weights

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise

_ELEMENTS = 1 << 21  # in the largest tensor of a chunk


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    if call.layout != "dense":
        return "it has no edge layout"
    if call.need is not None and call.need.gradient:
        return "its weights carry no gradient"
    return None


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    batch, heads, queries, _ = call.q.shape
    step = max(1, _ELEMENTS // max(1, batch * heads * call.k.shape[2] * mechanism.pair_width))
    chunks = torch.arange(queries, device=call.q.device).split(step)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
        weights, _ = reference.weigh(mechanism, replace(call, q=q, k=k, v=v, bias=bias), rows)
        return (F.dropout(weights, call.dropout) if call.dropout else weights) @ v

    parts = []
    for rows in chunks:
        some = call.rows(rows)
        inputs = (some.q, call.k, call.v, some.bias, rows)
        parts.append(attend(*inputs) if len(chunks) == 1 else checkpoint(attend, *inputs, use_reentrant=False))
    return torch.cat(parts, 2), None, None
