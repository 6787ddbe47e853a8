"""Segment operations over sorted edges, each with the backward pass that is again a segment operation.

Every sum over edges is a bag sum in compressed-sparse-row order: nothing is scattered, so the result does not depend on
threads, and forward and backward read memory in order. Shapes: N nodes, E edges, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from toolkit.attention.dropout import keep_mask
from toolkit.attention.edge_pattern import EdgePattern, Order
from toolkit.errors import CapabilityError

Side = Literal["target", "source"]
_CHUNK = 1 << 19  # elements of the gathered rows held at a time: they stay in cache


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a backward pass that is to be differentiated itself.

    torch's own `once_differentiable` drops the second derivative without a word when the incoming gradient is constant.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise CapabilityError(
                "segment operations over edges are differentiated once only; a mechanism built with "
                "backend='reference' can be differentiated twice"
            )
        return backward(ctx, *grads)

    return checked


def bag_sum(table: Tensor, column: Tensor, pointer: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum rows `column` of a table over each bag. Shapes: table (M, D), column (K,), pointer (R + 1,) -> (R, D)."""
    if not len(column):
        return table.new_zeros(len(pointer) - 1, table.shape[1])
    return F.embedding_bag(column, table, pointer, mode="sum", per_sample_weights=weight, include_last_offset=True)


def segment_sum(x: Tensor, edges: EdgePattern, side: Side) -> Tensor:
    """Sum edge features in target order over the edges of each node. Shapes: x (E, C) -> (Nt or Ns, C)."""
    order = edges.by_target if side == "target" else edges.by_source
    return bag_sum(x, order.place, order.pointer)


def segment_max(x: Tensor, order: Order) -> Tensor:
    """Take the maximum over the edges of each node, -inf without any. Shapes: x (E, C) in this order -> (N, C)."""
    low = x.new_full((len(order.pointer) - 1, x.shape[1]), -torch.inf)
    return low.scatter_reduce_(0, order.near.long()[:, None].expand_as(x), x, "amax")


def weighted_sum(weight: Tensor, x: Tensor, order: Order) -> Tensor:
    """Sum the far ends of each node's edges by weight.

    Shapes: weight (E, H) in target order, x (N, H, D) -> (N', H, D).
    """
    _, heads, dim = x.shape
    spread = order.spread(heads)
    picked = weight.reshape(-1).index_select(0, spread.pick)
    return bag_sum(x.reshape(-1, dim), spread.column, spread.pointer, picked).view(-1, heads, dim)


def pair_dot(a: Tensor, b: Tensor, edges: EdgePattern) -> Tensor:
    """Multiply the two ends of each edge. Shapes: a (Nt, H, D), b (Ns, H, D) -> (E, H) in target order."""
    _, heads, dim = a.shape
    if torch.is_autocast_enabled(a.device.type):  # a mechanism decides its own precision
        with torch.autocast(a.device.type, enabled=False):
            return pair_dot(a, b, edges)
    order, a, b = edges.by_target, a.flatten(1), b.flatten(1)
    fold = torch.eye(heads, dtype=a.dtype, device=a.device).repeat_interleave(dim, 0)  # (H * D, H) sums within a head
    out = a.new_empty(edges.num_edges, heads)
    for start in range(0, edges.num_edges, step := max(1, _CHUNK // (heads * dim))):
        some = slice(start, start + step)
        torch.mm(a.index_select(0, order.near[some]).mul_(b.index_select(0, order.far[some])), fold, out=out[some])
    return out


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: EdgePattern, side: Side) -> Tensor:
        ctx.edges, ctx.side = edges, side
        return x.index_select(0, edges.by_target.near if side == "target" else edges.by_target.far)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return segment_sum(grad.contiguous(), ctx.edges, ctx.side), None, None


class _PairDot(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, edges: EdgePattern) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.edges = edges
        return pair_dot(q, k, edges)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        q, k = ctx.saved_tensors
        return weighted_sum(grad, k, ctx.edges.by_target), weighted_sum(grad, q, ctx.edges.by_source), None


class _WeightedSum(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, edges: EdgePattern) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.edges = edges
        return weighted_sum(weight, x, edges.by_target)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, x = ctx.saved_tensors
        dw = pair_dot(grad, x, ctx.edges) if ctx.needs_input_grad[0] else None
        dx = weighted_sum(weight, grad, ctx.edges.by_source) if ctx.needs_input_grad[1] else None
        return dw, dx, None


class _SoftmaxSum(Function):
    """values_i = sum_j drop(softmax_j(score_ij)) v_j, divided once a node and not once an edge."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, v: Tensor, edges: EdgePattern, rate: float) -> Tensor:
        order = edges.by_target
        peak = segment_max(scores, order)
        peak.masked_fill_(peak == -torch.inf, 0)
        raised = (scores - peak.index_select(0, order.near)).exp_()
        total = segment_sum(raised, edges, "target")
        inverse = total.masked_fill_(total == 0, 1).reciprocal_()[:, :, None]
        keep, factor = keep_mask(raised.shape, rate, raised.device) if rate else (None, 1.0)
        kept = raised if keep is None else raised * keep
        inverse *= factor
        values = weighted_sum(kept, v, order) * inverse
        ctx.edges, ctx.factor = edges, factor
        ctx.save_for_backward(raised, kept, inverse, v, values)
        return values

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        raised, kept, inverse, v, values = ctx.saved_tensors
        grad = grad * inverse  # (Nt, H, D)
        dv = weighted_sum(kept, grad, ctx.edges.by_source) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dv, None, None
        mean = ((grad * values).sum(-1) / ctx.factor).index_select(0, ctx.edges.by_target.near)
        return pair_dot(grad, v, ctx.edges).mul_(kept).addcmul_(raised, mean, value=-1), dv, None, None


def gather(x: Tensor, edges: EdgePattern, side: Side) -> Tensor:
    """Give each edge the features of one of its ends. Shapes: x (N, C) -> (E, C) in target order."""
    out: Tensor = _Gather.apply(x, edges, side)
    return out


def edge_dot(q: Tensor, k: Tensor, edges: EdgePattern) -> Tensor:
    """Multiply target by source for each edge. Shapes: q (Nt, H, D), k (Ns, H, D) -> (E, H) in target order."""
    out: Tensor = _PairDot.apply(q, k, edges)
    return out


def edge_sum(weight: Tensor, x: Tensor, edges: EdgePattern) -> Tensor:
    """Sum sources into targets. Shapes: weight (E, H) in target order, x (Ns, H, D) -> (Nt, H, D)."""
    out: Tensor = _WeightedSum.apply(weight, x, edges)
    return out


def softmax_sum(scores: Tensor, v: Tensor, edges: EdgePattern, dropout: float = 0.0) -> Tensor:
    """Normalise scores over each target's edges, drop weights, and sum the sources' values.

    Shapes: scores (E, H) in target order, v (Ns, H, Dv) -> (Nt, H, Dv); a target without edges gets 0.
    """
    out: Tensor = _SoftmaxSum.apply(scores, v, edges, dropout)
    return out
