"""Plain maths in the order of the formula, in any floating type, differentiable twice; builds all L x L weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.call import Call
from toolkit.attention.need import Need, Weights
from toolkit.attention.normalizers import DenseRows, EdgeRows, Normalizer

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    return None


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    weights, lse = weigh(mechanism, call)
    values = mix(weights, call)
    if call.need is None or not call.need.gradient:
        return values, None, lse if call.need is not None and call.need.lse else None
    return values, select(weights, call, call.need), lse if call.need.lse else None


def weigh(mechanism: Pairwise, call: Call, rows: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Compute weights and log-sum-exp. `rows` are the positions that a dense call's queries have in the pattern.

    Shapes: dense (B, H, R, Lk) and (B, H, R); edges (E, H) in the caller's order and (Nt, H). The second is None for a
    normaliser without one.
    """
    if call.layout == "dense":
        scores = mechanism.scores(call.q, call.k)
    else:
        source, target = call.edges.index
        scores = mechanism.score(taken(call.q, target), taken(call.k, source))
    bias = mechanism.bias(call, rows) if call.layout == "dense" else call.bias
    weights, lse = normalized_call(scores, call, mechanism.normalizer, bias, rows)
    return mechanism.reweigh(weights, call, rows), lse


def normalized_call(
    scores: Tensor, call: Call, normalizer: Normalizer, bias: Tensor | None, rows: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Add the bias, leave out what the pattern forbids, and normalise; shapes as in `weigh`."""
    if call.layout == "dense":
        return normalized(scores, call.mask(rows), normalizer, bias)
    scores = scores if bias is None else scores + bias
    weights, lse = normalizer.weigh(scores.to(_wide(scores)), EdgeRows(call.edges.index[1], call.q.shape[0]))
    return weights.to(scores.dtype), None if lse is None else lse.to(scores.dtype)


def normalized(
    scores: Tensor, mask: Tensor | None, normalizer: Normalizer, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Normalise dense scores where the mask is True. Shapes: (B, H, R, Lk) -> the same and (B, H, R)."""
    scores = scores if bias is None else scores + bias.to(scores.dtype)
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    weights, lse = normalizer.weigh(scores, DenseRows())
    return weights, None if lse is None else lse.squeeze(-1)


def mix(weights: Tensor, call: Call) -> Tensor:
    """Drop weights and sum the values by them. Shapes: weights dense (B, H, Lq, Lk), edges (E, H) -> as the queries."""
    dropped = F.dropout(weights, call.dropout) if call.dropout else weights
    if call.layout == "dense":
        return dropped @ call.v
    source, target = call.edges.index
    v = call.v.to(_wide(call.v))
    messages = dropped.to(v.dtype)[:, :, None] * v[source]  # (E, H, Dv)
    return v.new_zeros(call.q.shape[0], *v.shape[1:]).index_add(0, target, messages).to(call.v.dtype)


def taken(x: Tensor, place: Tensor) -> Tensor:
    """Take nodes for edges. Sums over thousands of edges stand still in half precision, so gradients add up in single.

    Shapes: x (N, ...), place (E,) -> (E, ...).
    """
    return x.to(_wide(x)).index_select(0, place).to(x.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def select(weights: Tensor, call: Call, need: Need) -> Weights:
    """Pick the rows and heads that are needed out of all weights."""
    heads = None if need.heads is None else tuple(need.heads)
    if heads is not None:
        weights = weights[:, list(heads)]
    rows = None if need.rows is None else torch.as_tensor(need.rows, device=weights.device)
    chosen = None
    if call.layout == "dense":
        weights = weights if rows is None else weights.index_select(2, rows)
        received = weights.sum(2) if need.received else None
    else:
        index = call.edges.index
        if rows is not None:
            chosen = torch.isin(index[1], rows).nonzero().squeeze(1)
            weights, index = weights[chosen], index[:, chosen]
        empty = weights.new_zeros(call.k.shape[0], weights.shape[1])
        received = empty.index_add(0, index[0], weights) if need.received else None
    shown = weights if need.weights else None
    return Weights(pattern=call.pattern, values=shown, received=received, rows=rows, heads=heads, edges=chosen)
