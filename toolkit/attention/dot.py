"""Scores that are inner products: plain, through a learned form, and of directions alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.pairwise import InnerProduct, head_linear
from toolkit.binding import PositiveFloat

LUONG = (
    "Luong, Pham, Manning 2015, Effective Approaches to Attention-based Neural Machine Translation, arXiv:1508.04025"
)
_COST = "L^2 D (dense), E D (edges)"


class Dot(InnerProduct):
    """score(q, k) = q . k, without a scale. Source: arXiv:1508.04025, eq. 8, dot."""

    name = "dot"
    capabilities = Capabilities(cost=_COST, paper=LUONG, equation="softmax_j q_i . k_j")
    scale = 1.0


class General(InnerProduct):
    """score(q, k) = q . W k with one learned matrix a head; no scale unless one is given.

    scale: the factor before the score. Shapes: weight W (H, D, D), on keys.
    Source: arXiv:1508.04025, eq. 8, general.
    """

    name = "general"
    capabilities = Capabilities(
        cost="L^2 D + L D^2 (dense), E D + N D^2 (edges)", paper=LUONG, equation="softmax_j q_i . W k_j"
    )

    def __init__(self, *, heads: int, dim: int, scale: float = 1.0, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(heads, dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in self.weight:
            nn.init.xavier_uniform_(weight)

    def key_factor(self, k: Tensor) -> Tensor:
        return head_linear(k, self.weight.transpose(1, 2))


class Cosine(InnerProduct):
    """score(q, k) = cos(q, k) / temperature; the score with a vector of zeros is 0, with a finite gradient.

    temperature: what cosines are divided by, at least 0.01. learned: one temperature a head is learned from there, kept
    at 0.01 or above; otherwise it is fixed. Shapes: log_temperature (H,) or None.
    Raises: ValueError for a temperature below 0.01.
    Source: arXiv:2111.09883, sec. 3.2 (learned, above 0.01); arXiv:1410.5401, eq. 5 and 6.
    """

    name = "cosine"
    capabilities = Capabilities(
        cost=_COST,
        paper="Liu et al. 2022, Swin Transformer V2, arXiv:2111.09883",
        equation="softmax_j cos(q_i, k_j) / t",
    )
    _LOWEST = 0.01

    def __init__(
        self, *, heads: int, dim: int, temperature: PositiveFloat = 0.1, learned: bool = True, **options: Any
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if not temperature >= self._LOWEST:
            raise ValueError(f"cosine wants a temperature of {self._LOWEST} or above, but {temperature} was given")
        self.temperature, self.learned = temperature, learned
        self.scale = 1.0 if learned else 1.0 / temperature
        self.log_temperature = nn.Parameter(torch.empty(heads)) if learned else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.log_temperature is not None:
            nn.init.constant_(self.log_temperature, math.log(self.temperature))

    def query_factor(self, q: Tensor) -> Tensor:
        if self.log_temperature is None:
            return _direction(q)
        factor = self.log_temperature.clamp_min(math.log(self._LOWEST)).neg().exp()
        return (_direction(q) * factor[:, None]).to(q.dtype)

    def key_factor(self, k: Tensor) -> Tensor:
        return _direction(k)


def _direction(x: Tensor) -> Tensor:
    """Return x / |x|, and 0 for 0. Shapes: (..., D) -> the same."""
    peak = x.detach().abs().amax(-1, keepdim=True)
    x = x / peak.masked_fill(peak == 0, 1)  # a constant that cancels: squares of tiny or huge numbers stay in range
    square = x.square().sum(-1, keepdim=True)
    return x * square.masked_fill(square == 0, 1).rsqrt()
