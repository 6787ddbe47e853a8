"""Segment operations over edges sorted by target, forward and backward; differentiable once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from toolkit.attention.call import Call
from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.need import Weights
from toolkit.attention.segment import bag_sum, edge_dot, gather, once, softmax_sum

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise

_CHUNK = 1 << 20  # elements of one gathered end, or of what its scores are made from, held at a time


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    if call.layout != "edges":
        return "it has no dense layout"
    if call.need is not None and call.need.gradient:
        return "its weights carry no gradient"
    return None if mechanism.normalize == "softmax" else f"it has softmax only, not {mechanism.normalize}"


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    edges, scores = call.edges, edge_scores(mechanism, call)
    if call.bias is not None:
        scores = scores + call.bias.index_select(0, edges.by_target.perm)
    kind = torch.promote_types(scores.dtype, call.v.dtype)  # under autocast scores and values differ
    kind = torch.promote_types(kind, torch.float32)  # sums over many edges want more than half precision
    values = softmax_sum(scores.to(kind), call.v.to(kind), edges, call.dropout)
    return values.to(call.v.dtype), None, None


def edge_scores(mechanism: Pairwise, call: Call) -> Tensor:
    """Score every edge. Shapes: (E, H) in target order."""
    from toolkit.attention.pairwise import InnerProduct, Separable

    edges = call.edges
    if isinstance(mechanism, Separable):
        query, key = mechanism.query_term(call.q), mechanism.key_term(call.k)
        return mechanism.link(gather(query, edges, "target") + gather(key, edges, "source"))
    if isinstance(mechanism, InnerProduct):
        query, key = mechanism.query_factor(call.q) * mechanism.scale, mechanism.key_factor(call.k)
        kind = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
        return mechanism.link(edge_dot(query.to(kind), key.to(kind), edges))
    parameters = [parameter for parameter in mechanism.parameters() if parameter.requires_grad]
    scores: Tensor = _Scores.apply(mechanism, edges, call.q, call.k, *parameters)
    return scores


class _Scores(Function):
    """Any pairwise score, a chunk of edges at a time; the chunk is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, mechanism: Pairwise, edges: EdgePattern, q: Tensor, k: Tensor, *parameters: Tensor) -> Tensor:
        ctx.mechanism, ctx.edges = mechanism, edges
        ctx.save_for_backward(q, k, *parameters)
        kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
        order, out = edges.by_target, q.new_empty(edges.num_edges, q.shape[1], dtype=kind)
        for some in _chunks(edges, mechanism):
            out[some] = mechanism.score(q.index_select(0, order.near[some]), k.index_select(0, order.far[some]))
        return out

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, *parameters = ctx.saved_tensors
        # Sums over thousands of edges stand still in half precision: a gradient is added up in single and then rounded.
        dq, dk, *totals = (torch.zeros_like(x, dtype=_wide(x)) for x in (q, k, *parameters))
        order = ctx.edges.by_target
        steps = order.place
        for some in _chunks(ctx.edges, ctx.mechanism):
            near, far = order.near[some], order.far[some]
            with torch.enable_grad():
                ends = [x.index_select(0, end).requires_grad_() for x, end in ((q, near), (k, far))]
                scores = ctx.mechanism.score(*ends)
            query, key, *others = torch.autograd.grad(
                scores,
                [*ends, *parameters],
                grad[some].to(scores.dtype),
                allow_unused=True,
                materialize_grads=True,  # a score may leave one of them out
            )
            first, last = int(near[0]), int(near[-1])  # near is sorted: the chunk's targets follow one another
            bounds = order.pointer[first : last + 2].clamp(some.start, some.start + len(near)) - some.start
            dq[first : last + 1] += bag_sum(query.flatten(1).to(dq.dtype), steps[: len(near)], bounds).view(
                -1, *q.shape[1:]
            )
            dk.index_add_(0, far, key.to(dk.dtype))
            for total, other in zip(totals, others, strict=True):
                total += other
        rounded = (total.to(x.dtype) for total, x in zip((dq, dk, *totals), (q, k, *parameters), strict=True))
        return None, None, *rounded


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _chunks(edges: EdgePattern, mechanism: Pairwise) -> list[slice]:
    step = max(1, _CHUNK // (mechanism.heads * max(mechanism.dim, mechanism.pair_width)))
    return [slice(start, start + step) for start in range(0, edges.num_edges, step)]
