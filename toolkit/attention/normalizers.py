"""From scores to weights: each normaliser is written once, over rows that are dense or lists of edges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from toolkit.errors import UnknownNameError, nearest


class Rows(ABC):
    """What a normaliser may do with the scores of each row: reduce them, and spread a reduction back over them."""

    @abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """Sum over each row."""

    @abstractmethod
    def max(self, x: Tensor) -> Tensor:
        """Take the maximum of each row, -inf where there is nothing; without gradient."""

    @abstractmethod
    def spread(self, x: Tensor) -> Tensor:
        """Give each entry the value of its row."""


class DenseRows(Rows):
    """Scores (..., Lk); a reduction is (..., 1)."""

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True)

    def max(self, x: Tensor) -> Tensor:
        if not x.shape[-1]:
            return x.new_full((*x.shape[:-1], 1), -torch.inf)
        return x.detach().amax(-1, keepdim=True)

    def spread(self, x: Tensor) -> Tensor:
        return x


class EdgeRows(Rows):
    """Scores (E, H) with the target of each edge; a reduction is (Nt, H)."""

    def __init__(self, target: Tensor, num_targets: int) -> None:
        self.target, self.num_targets = target, num_targets

    def sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.num_targets, x.shape[1]).index_add(0, self.target, x)

    def max(self, x: Tensor) -> Tensor:
        low = x.new_full((self.num_targets, x.shape[1]), -torch.inf)
        return low.scatter_reduce(0, self.target[:, None].expand_as(x), x.detach(), "amax")

    def spread(self, x: Tensor) -> Tensor:
        return x[self.target]


Weigh = Callable[[Tensor, Rows], tuple[Tensor, Tensor | None]]
"""(scores, rows) -> (weights shaped like the scores, log-sum-exp shaped like a reduction). A score of -inf is a pair
that may not look; its weight is 0, and a row of nothing else has weights 0."""


def softmax(scores: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """w_j = exp(s_j) / sum_i exp(s_i)."""
    peak = _finite(rows.max(scores))
    raised = (scores - rows.spread(peak)).exp()
    total = rows.sum(raised)
    return raised / rows.spread(total.masked_fill(total == 0, 1)), total.log() + peak


def softmax_plus_one(scores: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """w_j = exp(s_j) / (1 + sum_i exp(s_i)): a row may look at nothing. The same as a sink of score 0 and value 0.

    Source: Miller 2023, Attention Is Off By One; sinks: Xiao et al. 2024, arXiv:2309.17453, sec. 3.3 (zero sink).
    """
    peak = _finite(rows.max(scores)).clamp_min(0)
    raised = (scores - rows.spread(peak)).exp()
    total = rows.sum(raised) + (-peak).exp()
    return raised / rows.spread(total), total.log() + peak


def sigmoid(scores: Tensor, rows: Rows) -> tuple[Tensor, None]:
    """w_j = 1 / (1 + exp(-s_j)), each pair for itself. Source: Ramapuram et al. 2024, arXiv:2409.04431, eq. 3."""
    return scores.sigmoid(), None


def none(scores: Tensor, rows: Rows) -> tuple[Tensor, None]:
    """w_j = s_j: the scores themselves, as in DIN. Source: Zhou et al. 2018, arXiv:1706.06978, sec. 4.3."""
    return scores.masked_fill(scores == -torch.inf, 0), None


def sparsemax(scores: Tensor, rows: Rows) -> tuple[Tensor, None]:
    """w = the point of the simplex nearest to s: w_j = max(s_j - t, 0). Source: arXiv:1602.02068, eq. 2 and prop. 1."""
    shifted = _shifted(scores, rows)
    support = shifted > rows.spread(_threshold(shifted, rows, 1))
    size = rows.sum(support.to(scores.dtype)).clamp_min(1)
    kept = shifted.masked_fill(~support, 0)
    threshold = (rows.sum(kept) - 1) / size  # exact, and differentiable twice, once the support is known
    return (kept - rows.spread(threshold)).clamp_min(0) * support, None


def entmax15(scores: Tensor, rows: Rows) -> tuple[Tensor, None]:
    """w_j = max(s_j / 2 - t, 0)^2, between softmax and sparsemax. Source: arXiv:1905.05702, eq. 10 with alpha 1.5."""
    shifted = _shifted(scores, rows) / 2
    support = shifted > rows.spread(_threshold(shifted, rows, 2))
    size = rows.sum(support.to(scores.dtype)).clamp_min(1)
    kept = shifted.masked_fill(~support, 0)
    mean = rows.sum(kept) / size
    spread = rows.sum(((kept - rows.spread(mean)) * support).square())
    threshold = mean - ((1 - spread).clamp_min(0) / size).sqrt()  # solves sum over the support of (s - t)^2 = 1
    return ((kept - rows.spread(threshold)).clamp_min(0) * support).square(), None


def _finite(peak: Tensor) -> Tensor:
    return peak.masked_fill(peak == -torch.inf, 0)  # a row that may look at nothing has no peak


def _shifted(scores: Tensor, rows: Rows) -> Tensor:
    return scores - rows.spread(_finite(rows.max(scores)))


@torch.no_grad()
def _threshold(shifted: Tensor, rows: Rows, power: int) -> Tensor:
    """Find t with sum_j max(s_j - t, 0)^power = 1 by bisection; the peak of each row is 0, so t is in [-1, 0]."""
    low = _finite(rows.max(shifted)) - 1
    width = 1.0
    for _ in range(60 if shifted.dtype == torch.float64 else 30):  # down to the spacing of floats
        width /= 2
        middle = low + width
        mass = rows.sum((shifted - rows.spread(middle)).clamp_min(0) ** power)
        low = torch.where(mass >= 1, middle, low)
    return low


@dataclass(frozen=True)
class Normalizer:
    """A way from scores to weights. sums: what the weights of a row that may look at something add up to."""

    weigh: Weigh
    sums: Literal["one", "below_one", "any"]


NORMALIZERS = {
    "softmax": Normalizer(softmax, "one"),
    "softmax_plus_one": Normalizer(softmax_plus_one, "below_one"),
    "sparsemax": Normalizer(sparsemax, "one"),
    "entmax15": Normalizer(entmax15, "one"),
    "sigmoid": Normalizer(sigmoid, "any"),
    "none": Normalizer(none, "any"),
}


def normalizer(name: str) -> Normalizer:
    """Return a normaliser by name. Raises: UnknownNameError with the nearest name."""
    if name not in NORMALIZERS:
        raise UnknownNameError(f"no normalizer is called {name!r}.{nearest(name, NORMALIZERS)}")
    return NORMALIZERS[name]
