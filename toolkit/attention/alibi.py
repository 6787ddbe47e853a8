"""ALiBi: each head subtracts its slope times the distance from the score. Press et al. 2022, arXiv:2108.12409."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.scaled_dot_product import ScaledDotProduct


class ALiBi(ScaledDotProduct):
    """score = q . k / sqrt(D) - slope_h |i - j|: the paper's under a causal pattern, symmetric without one.

    Slopes are 2^(-8/H), 2^(-16/H) ... 2^(-8). When H is no power of two, those of the power below it come first, then
    every other slope of the power above it. Shapes: exponents (H,), a buffer, -log2 of the slopes, exact in any type.
    Source: arXiv:2108.12409, sec. 3; other numbers of heads: its reference implementation, `get_slopes`.
    """

    name = "alibi"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D",
        paper="Press, Smith, Lewis 2022, Train Short, Test Long, arXiv:2108.12409",
        equation="softmax_j q_i . k_j / sqrt(D) - slope_h |i - j|",
    )
    exponents: Tensor

    def __init__(self, *, heads: int, dim: int, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.register_buffer("exponents", torch.tensor(_exponents(heads)), persistent=False)

    def position_bias(self, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        exponents = self.exponents.to(torch.promote_types(self.exponents.dtype, torch.float32))
        return -(-exponents).exp2()[head] * (i - j).abs()


def _exponents(heads: int) -> list[float]:
    below = 1 << (heads.bit_length() - 1)
    whole, twice = ([8.0 * (h + 1) / count for h in range(count)] for count in (below, 2 * below))
    return whole + twice[::2][: heads - below]
