"""Cutting queries into chunks and gathering the keys that each could look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.call import Call
from toolkit.attention.pattern import Lengths
from toolkit.attention.reach import Reach, Scattered

_SIZES = (32, 64, 128, 256, 512, 1024)  # of chunks, in queries
_KEY = 48  # what a gathered key costs, in scores of one query and one key; see `chunked.hesitation`


@dataclass(frozen=True)
class Plan:
    """How to cut: positions p = stride * t + r are chunked along t, `size` queries at a time, for each r apart.

    front: empty queries put before the first, so that chunks begin at whole strides and at the edges of blocks.
    first: t of the first query, the empty ones included. Chunk c looks at the `span` keys from t = start + c * size.
    """

    shape: Lengths
    reach: Reach
    stride: int
    front: int
    first: int
    size: int
    num: int
    start: int
    span: int
    cost: float


def make_plan(call: Call) -> Plan | None:
    """Choose the size of chunks that costs least; None when the reach has no limit."""
    shape = Lengths(call.queries, call.k.shape[2])
    if call.pattern is None:
        return None
    reach = call.pattern.reach(shape)
    stride, grain = max(reach.stride, 1), reach.grain
    if reach.scattered or (grain > 1 and stride > 1):
        stride = 1  # only among neighbours do blocks follow one another
    if stride == 1 and (reach.left is None or reach.right is None):
        return None
    left, right = ((shape.keys if side is None else side) // stride for side in (reach.left, reach.right))
    shift = shape.keys - shape.queries
    front = shift % max(stride, grain)
    first = (shift - front) // stride
    length = -(-(front + shape.queries) // stride)
    plans = []
    for size in {-(-size // grain) * grain for size in (*_SIZES, length)}:
        num, start = -(-length // size), first - left
        span = left + size + right
        if num == 1:
            start = max(0, start)
            span = max(1, min(-(-shape.keys // stride), first + size + right) - start)
        drawn = sum(each.size * each.count * (size // each.size) for each in reach.scattered)
        gathered = span + len(reach.columns) + drawn
        cost = stride * num * gathered * (size + _KEY) + len(reach.rows) * shape.keys
        plans.append(Plan(shape, reach, stride, front, first, size, num, start, span, cost))
    return min(plans, key=lambda plan: plan.cost)


def draw_blocks(plan: Plan, scattered: Scattered, device: torch.device) -> Tensor:
    """Return the key blocks that each chunk's blocks of queries draw, -1 for none. Shapes: (N, M)."""
    block = torch.arange(plan.num * plan.size // scattered.size, device=device) + plan.first // scattered.size
    return torch.stack(scattered.choices(block, plan.shape), -1).reshape(plan.num, -1)


def places(plan: Plan, drawn: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which queries and keys are in each chunk; a key that does not exist, or is there already, is -1.

    Shapes: queries (N, C), keys (N, S), for N chunks; those of one r follow one another.
    """
    begin = torch.arange(plan.num, device=device)[:, None] * plan.size
    r = torch.arange(plan.stride, device=device)[:, None, None]
    i = (begin + plan.first + torch.arange(plan.size, device=device)) * plan.stride + r
    j = ((begin + plan.start + torch.arange(plan.span, device=device)) * plan.stride + r).flatten(0, 1)
    extras = [_columns(plan, device).expand(len(j), -1)]
    for scattered, blocks in zip(plan.reach.scattered, drawn, strict=True):
        inside = blocks[..., None] * scattered.size + torch.arange(scattered.size, device=device)
        extras.append(inside.masked_fill((blocks < 0)[..., None], -1).flatten(1))
    if (extra := torch.cat(extras, 1)).shape[1]:
        j = torch.cat([j, extra], 1)
        ordered, order = j.sort(stable=True, dim=1)  # the first of equal keys stays: each counts once
        again = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
        j = j.masked_fill(torch.empty_like(again).scatter_(1, order, again), -1)
    keys = plan.shape.keys
    return i.flatten(0, 1) - keys + plan.shape.queries, torch.where((j >= 0) & (j < keys), j, -1)


def cut_queries(plan: Plan, q: Tensor) -> Tensor:
    """Shapes: (B, H, Lq, D) -> (B, H, N, C, D)."""
    back = plan.stride * plan.num * plan.size - plan.front - plan.shape.queries
    return _folded(F.pad(q, (0, 0, plan.front, back)), plan.stride).unflatten(3, (plan.num, plan.size)).flatten(2, 3)


def join_queries(plan: Plan, x: Tensor) -> Tensor:
    """Undo `cut_queries`. Shapes: (B, H, N, C, D) -> (B, H, Lq, D)."""
    x = x.unflatten(2, (plan.stride, plan.num)).flatten(3, 4).transpose(2, 3).flatten(2, 3)
    return x[:, :, plan.front : plan.front + plan.shape.queries]


def gather_keys(plan: Plan, x: Tensor, drawn: list[Tensor]) -> Tensor:
    """Shapes: (B, H, Lk, D) -> (B, H, N, S, D), a view where nothing but neighbours is looked at."""
    end = plan.start + (plan.num - 1) * plan.size + plan.span
    padded = F.pad(x, (0, 0, -plan.start * plan.stride, end * plan.stride - plan.shape.keys))
    parts = [_folded(padded, plan.stride).unfold(3, plan.span, plan.size).transpose(-1, -2).flatten(2, 3)]
    if plan.reach.columns:
        common = x.index_select(2, _columns(plan, x.device))
        parts.append(common[:, :, None].expand(-1, -1, plan.stride * plan.num, -1, -1))
    for scattered, blocks in zip(plan.reach.scattered, drawn, strict=True):
        cut = F.pad(x, (0, 0, 0, -x.shape[2] % scattered.size)).unflatten(2, (-1, scattered.size))
        parts.append(cut.index_select(2, blocks.clamp_min(0).flatten()).unflatten(2, blocks.shape).flatten(3, 4))
    return torch.cat(parts, 3) if len(parts) > 1 else parts[0]


def far_rows(plan: Plan, device: torch.device) -> Tensor:
    """Return the queries that look everywhere. Shapes: (R,)."""
    rows = [row - plan.shape.keys + plan.shape.queries for row in sorted(plan.reach.rows)]
    return torch.tensor([row for row in rows if 0 <= row < plan.shape.queries], device=device, dtype=torch.long)


def _columns(plan: Plan, device: torch.device) -> Tensor:
    return torch.tensor(sorted(plan.reach.columns), device=device, dtype=torch.long)


def _folded(x: Tensor, stride: int) -> Tensor:
    """Put positions whole strides apart side by side. Shapes: (B, H, T * stride, D) -> (B, H, stride, T, D)."""
    return x.unflatten(2, (-1, stride)).transpose(2, 3)
