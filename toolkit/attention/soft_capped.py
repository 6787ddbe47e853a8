"""Soft-capped scores: cap tanh(score / cap) stays within the cap. Gemma 2, arXiv:2408.00118."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.binding import PositiveFloat


class SoftCapped(ScaledDotProduct):
    """score = cap tanh(q . k / (sqrt(D) cap)). cap: 50 in Gemma 2. Source: arXiv:2408.00118, sec. 2."""

    name = "soft_capped"
    linked = True
    capabilities = Capabilities(
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D (dense), E D (edges)",
        paper="Gemma Team 2024, Gemma 2: Improving Open Language Models at a Practical Size, arXiv:2408.00118",
        equation="softmax_j cap tanh(q_i . k_j / (sqrt(D) cap))",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"cap": 0.5})

    def __init__(self, *, heads: int, dim: int, cap: PositiveFloat = 50.0, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if cap <= 0:
            raise ValueError(f"{self.name} wants a positive cap, but {cap} was given")
        self.cap = cap

    def link(self, product: Tensor) -> Tensor:
        return self.cap * (product / self.cap).tanh()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, cap={self.cap}"
