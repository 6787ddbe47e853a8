"""From the vectors of a sequence to one: the mean, the first, or attention."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Pooling = Literal["mean", "first"]


def pool(x: Tensor, mask: Tensor, how: Pooling = "mean") -> Tensor:
    """Return one vector a sequence: the first token's, or the mean of those there.

    Shapes: x (B, L, D), mask (B, L) bool -> (B, D).
    """
    if how == "first":
        return x[:, 0]
    there = mask[..., None].to(x.dtype)
    return (x * there).sum(1) / there.sum(1).clamp_min(1)
