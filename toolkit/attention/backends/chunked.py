"""Queries in chunks, each with the few keys that its pattern can reach: windows and blocks in linear time.

A pattern's `reach` bounds which keys a chunk needs; what is allowed among them is asked of the pattern itself, so that
padding, segments and per-head patterns stay exact. Queries that look everywhere (global tokens) are answered apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from toolkit.attention.backends import chunk_plan, reference, sdpa
from toolkit.attention.backends.chunk_plan import Plan, make_plan
from toolkit.attention.call import Call
from toolkit.attention.need import Weights
from toolkit.attention.pattern import describe

if TYPE_CHECKING:
    from toolkit.attention.pairwise import InnerProduct, Pairwise

_ELEMENTS = 1 << 21  # in the largest tensor of a group of chunks whose scores are written out
# Fitted to paired timings of training on one core, D = 64, windows of 16 to 1024 keys, lengths to 4096:
_LEAST = 1 << 20  # scores, of all heads and samples, below which a mask is as fast
_GAIN = 2.0  # how many times fewer scores chunks must have: then they take 0.4 to 0.8 of the time of a mask, or less


@dataclass(frozen=True)
class _Chunks:
    """Shapes: q (B, H, N, C, D), k (B, H, N, S, D), v (B, H, N, S, Dv), mask (B or 1, H or 1, N, C, S), bias likewise.

    Without the chunks' N, the same for queries that see all keys.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    bias: Tensor | None

    def chunks_first(self) -> _Chunks:
        """Put the chunks among the samples, (B * N, H, C, ...)."""
        batch = len(self.q)
        return self._each(lambda x: x.transpose(1, 2).expand(batch, *[-1] * (x.dim() - 1)).flatten(0, 1))

    def part(self, start: int, stop: int) -> _Chunks:
        """Take some of the chunks that were put first."""
        return self._each(lambda x: x[start:stop])

    def _each(self, change: Callable[[Tensor], Tensor]) -> _Chunks:
        mask, bias = (None if x is None else change(x) for x in (self.mask, self.bias))
        return _Chunks(change(self.q), change(self.k), change(self.v), mask, bias)


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    from toolkit.attention.pairwise import InnerProduct, Pairwise

    if call.layout != "dense":
        return "it has no edge layout"
    if call.need is not None and call.need.gradient:
        return "its weights carry no gradient"
    if 0 in call.q.shape or 0 in call.k.shape:
        return "there is no key to look at"
    if call.bias is not None:
        return "it cannot cut a bias tensor; a mechanism's own position_bias it can"
    if type(mechanism).scores not in (Pairwise.scores, InnerProduct.scores):
        return "its scores are made from all keys together"
    if type(mechanism).reweigh is not Pairwise.reweigh:
        return "it cannot change weights after they are normalised"
    return None if make_plan(call) else f"its pattern, {describe(call.pattern)}, looks without limit"


def hesitation(mechanism: Pairwise, call: Call) -> str | None:
    """Say why another backend is likely to be faster."""
    plan = make_plan(call)
    assert plan is not None
    pairs = call.queries * call.k.shape[2]
    if call.q.shape[0] * call.q.shape[1] * pairs < _LEAST:
        return "so few scores are faster masked than cut up"
    return None if plan.cost * _GAIN <= pairs else "its pattern reaches so far that chunks save too little"


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    from toolkit.attention.pairwise import InnerProduct

    plan = make_plan(call)
    assert plan is not None
    q, k, v = call.q, call.k, call.v
    slow = mechanism.refusal("sdpa", call) or sdpa.refusal(mechanism, call)
    fast = mechanism if isinstance(mechanism, InnerProduct) and slow is None else None
    if fast is not None:  # factors once a token, not once a chunk
        q, k = fast.factors(q, k)
    chunks = _cut(mechanism, call, plan, q, k, v)
    values = chunk_plan.join_queries(
        plan, _slow(mechanism, call, chunks) if fast is None else _fast(fast, call, chunks)
    )
    rows = chunk_plan.far_rows(plan, q.device)
    if len(rows):
        apart = _Chunks(q.index_select(2, rows), k, v, call.mask(rows), mechanism.bias(call, rows))
        answer = _weighed(mechanism, call, apart) if fast is None else _attend(fast, call, apart)
        values = values.index_copy(2, rows, answer.to(values.dtype))
    return values, None, None


def _cut(mechanism: Pairwise, call: Call, plan: Plan, q: Tensor, k: Tensor, v: Tensor) -> _Chunks:
    pattern, shape, device = call.pattern, plan.shape, q.device
    assert pattern is not None
    batch, heads = q.shape[:2]
    pattern.check(batch, heads, shape)
    drawn = [chunk_plan.draw_blocks(plan, scattered, device) for scattered in plan.reach.scattered]
    i, j = chunk_plan.places(plan, drawn, device)
    real = ((i >= 0) & (i < shape.queries))[:, :, None] & (j >= 0)[:, None]
    query, key = i.clamp(0, shape.queries - 1)[None, None, :, :, None], j.clamp_min(0)[None, None, :, None]
    sample = torch.arange(batch if pattern.per_sample else 1, device=device)[:, None, None, None, None]
    head = torch.arange(heads, device=device)[None, :, None, None, None]
    mask = pattern.allowed(sample, head if pattern.per_head else head[:, :1], query, key, shape) & real
    bias = mechanism.position_bias(head, query + (shape.keys - shape.queries), key)
    k, v = (chunk_plan.gather_keys(plan, each, drawn) for each in (k, v))
    return _Chunks(chunk_plan.cut_queries(plan, q), k, v, mask, bias)


def _fast(mechanism: InnerProduct, call: Call, chunks: _Chunks) -> Tensor:
    """Attend in all chunks by one call of a kernel. Shapes: (B, H, N, C, Dv)."""
    batch, heads = chunks.q.shape[:2]
    if chunks.mask is not None and chunks.mask.shape[:2] == (1, 1) and chunks.bias is None:
        # chunks in the place of heads: then views of overlapping keys stay views, and all heads share one mask
        q, k, v = (each.flatten(0, 1) for each in (chunks.q, chunks.k, chunks.v))
        return _attend(mechanism, call, _Chunks(q, k, v, chunks.mask[0], None)).unflatten(0, (batch, heads))
    return _attend(mechanism, call, chunks.chunks_first()).unflatten(0, (batch, -1)).transpose(1, 2)


def _slow(mechanism: Pairwise, call: Call, chunks: _Chunks) -> Tensor:
    """Attend in groups of chunks, whose scores are computed again in the backward pass. Shapes: (B, H, N, C, Dv)."""
    batch, heads, _, size, _ = chunks.q.shape
    step = max(1, _ELEMENTS // (heads * size * chunks.k.shape[3] * mechanism.pair_width))
    first = chunks.chunks_first()
    groups = [first.part(start, start + step) for start in range(0, len(first.q), step)]
    if len(groups) == 1:
        parts = [_weighed(mechanism, call, groups[0])]
    else:
        parts = [checkpoint(_weighed, mechanism, call, group, use_reentrant=False) for group in groups]
    return torch.cat(parts).unflatten(0, (batch, -1)).transpose(1, 2)


def _attend(mechanism: InnerProduct, call: Call, one: _Chunks) -> Tensor:
    return sdpa.attend(one.q, one.k, one.v, one.mask, one.bias, dropout=call.dropout, scale=mechanism.scale)


def _weighed(mechanism: Pairwise, call: Call, one: _Chunks) -> Tensor:
    weights, _ = reference.normalized(mechanism.scores(one.q, one.k), one.mask, mechanism.normalizer, one.bias)
    return (F.dropout(weights, call.dropout) if call.dropout else weights) @ one.v
