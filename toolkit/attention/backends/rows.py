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

_BYTES = 1 << 25
"""At least as much is in the largest tensor of a chunk, where all rows hold more. From 32 MiB the GNU allocator always
gives memory back that is freed. It keeps what is smaller, and the outputs of chunks, which lie between, leave holes in
it that no later chunk fits into: in training that came to several tensors of L x L."""


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    if call.layout != "dense":
        return "it has no edge layout"
    if call.need is not None and call.need.gradient:
        return "its weights carry no gradient"
    return None


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    batch, heads, queries, _ = call.q.shape
    row = max(1, batch * heads * call.k.shape[2] * mechanism.pair_width * _width(call.q))
    chunks = torch.arange(queries, device=call.q.device).split(-(-_BYTES // row))

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
        weights, _ = reference.weigh(mechanism, replace(call, q=q, k=k, v=v, bias=bias), rows)
        return (F.dropout(weights, call.dropout) if call.dropout else weights) @ v

    parts, whole, at = [], None, 0
    for rows in chunks:
        some = call.rows(rows)
        inputs = (some.q, call.k, call.v, some.bias, rows)
        if len(chunks) == 1:
            return attend(*inputs), None, None
        if torch.is_grad_enabled():
            parts.append(checkpoint(attend, *inputs, use_reentrant=False))
            continue
        part = attend(*inputs)
        whole = part.new_empty(*part.shape[:2], queries, part.shape[3]) if whole is None else whole
        whole[:, :, at : at + len(rows)] = part  # joined at the end, all values would be held twice
        at += len(rows)
    return torch.cat(parts, 2) if whole is None else whole, None, None


def _width(x: Tensor) -> int:
    """Return how many bytes a score has: scores are products, which autocast takes in half precision."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind).itemsize if torch.is_autocast_enabled(kind) else x.element_size()
