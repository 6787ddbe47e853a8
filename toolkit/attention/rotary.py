"""Rotary positions: queries and keys are turned by an angle that grows with position. Su et al. 2021, RoFormer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.positions import angles
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import ShapeError


class Rotary(ScaledDotProduct):
    """score = (R_i q) . (R_j k) / sqrt(D), which depends on positions by i - j alone.

    base: pair c of features turns by base^(-2c / D) a position. interleaved: pairs are neighbours (2c, 2c + 1), as in
    the paper; else (c, c + D / 2), as in LLaMA. With copied weights the two differ by an order of features.
    The last query stands at the last key, so a decoding step with cached keys, not yet turned, is right.
    Raises: ShapeError if dim is odd. Source: arXiv:2104.09864, eq. 15 and 34.
    """

    name = "rotary"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D",
        paper="Su et al. 2021, RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864",
        equation="softmax_j (R_i q_i) . (R_j k_j) / sqrt(D)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"base": 100.0}, {"interleaved": True})

    def __init__(
        self, *, heads: int, dim: int, base: float = 10000.0, interleaved: bool = False, **options: Any
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if dim % 2:
            raise ShapeError(f"{self.name} turns pairs of features, so it wants an even dim, but dim={dim} was given")
        if base <= 1:
            raise ValueError(f"{self.name} wants base > 1, but {base} was given")
        self.base, self.interleaved = base, interleaved

    def prepare(self, call: Call) -> Call:
        call = super().prepare(call)
        keys = call.k.shape[2]
        place = torch.arange(min(0, keys - call.queries), keys, device=call.q.device)
        turns = angles(place, self.dim // 2, 2 / self.dim, self.base)
        q, k = (
            self._turned(call.q, turns[len(place) - call.queries :]),
            self._turned(call.k, turns[len(place) - keys :]),
        )
        return replace(call, q=q, k=k)

    def _turned(self, x: Tensor, angle: Tensor) -> Tensor:
        """Turn each pair of features. Shapes: x (B, H, L, D), angle (L, D / 2)."""
        kind = torch.promote_types(x.dtype, torch.float32)
        cos, sin = angle.cos().to(kind), angle.sin().to(kind)
        first, second = x.to(kind).unflatten(-1, (-1, 2)).unbind(-1) if self.interleaved else x.to(kind).chunk(2, -1)
        turned = (first * cos - second * sin, first * sin + second * cos)
        return (torch.stack(turned, -1).flatten(-2) if self.interleaved else torch.cat(turned, -1)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, base={self.base}, interleaved={self.interleaved}"
