"""Learning-rate schedules: a linear warm-up, then a curve, counted in the schedule's own steps.

`total_steps` is the length of training unless a recipe gives another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from toolkit.binding import Fraction, NonNegative, Positive


def cosine(
    optimizer: Optimizer, *, total_steps: Positive | None = None, warmup: NonNegative = 0, floor: Fraction = 0.0
) -> LambdaLR:
    """Fall along half a cosine from the full rate to `floor` times it. Source: Loshchilov & Hutter 2017, eq. 5."""
    return _after_warmup(
        optimizer, total_steps, warmup, lambda t: floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2
    )


def linear(
    optimizer: Optimizer, *, total_steps: Positive | None = None, warmup: NonNegative = 0, floor: Fraction = 0.0
) -> LambdaLR:
    """Fall in a straight line from the full rate to `floor` times it."""
    return _after_warmup(optimizer, total_steps, warmup, lambda t: floor + (1 - floor) * (1 - t))


def inverse_sqrt(optimizer: Optimizer, *, warmup: Positive = 4000) -> LambdaLR:
    """Rise linearly for `warmup` steps, then fall as 1/sqrt(step). Source: Vaswani et al. 2017, eq. 3, peak at lr."""
    return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, math.sqrt(warmup / (step + 1))))


def _after_warmup(optimizer: Optimizer, total: int | None, warmup: int, curve: Callable[[float], float]) -> LambdaLR:
    if total is None:
        raise ValueError("total_steps is not known: give it, or train with a trainer that has an end")
    if warmup >= total:
        raise ValueError(f"warmup={warmup} leaves nothing of total_steps={total}")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return curve(min(1.0, (step - warmup) / (total - warmup)))

    return LambdaLR(optimizer, factor)
