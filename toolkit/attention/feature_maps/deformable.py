"""Deformable attention: each query reads a few points of each map, at offsets it predicts. arXiv:2010.04159."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.feature_maps.reader import FeatureReader, Samples
from toolkit.binding import Positive


class Deformable(FeatureReader):
    """W_o concat_h sum_lk a_hlk (W_v x_l)(p_l + offset_hlk): offsets and weights are linear in the query.

    Weights are a softmax over all levels * points readings of a head. levels: number of maps; 1 is single-scale
    deformable attention. points: readings of each head in each map. Offsets are counted in places of their map, and
    begin with one direction a head, the k-th point k places away; weights begin equal. A reading that falls outside of
    a map, or on places that a mask hides, counts as 0, and its weight is not given to the others.
    Shapes: offset (H * levels * points * 2, C), weight (H * levels * points, C), value and out (C, C), C = heads * dim.
    Source: arXiv:2010.04159, eq. 2 (levels=1) and eq. 3.
    """

    name = "deformable"
    capabilities = Capabilities(
        layouts=frozenset({"map"}),
        causal=False,
        cross=True,
        sums="one",
        positional=True,
        double_backward=frozenset(),
        compiles=frozenset({"map"}),
        exports=frozenset({"map"}),
        cost="(L + S) C^2 + L K C for L queries, S places, K readings a head, C = H D",
        paper="Zhu et al. 2021, Deformable DETR, arXiv:2010.04159",
        equation="W_o concat_h sum_lk a_hlk(q) (W_v x_l)(p_l + offset_hlk(q))",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"levels": 2, "points": 3}, {"levels": 1, "points": 1})

    def __init__(self, *, heads: int, dim: int, levels: Positive = 4, points: Positive = 4) -> None:
        super().__init__(heads=heads, dim=dim)
        if levels < 1 or points < 1:
            raise ValueError(f"{self.name} wants at least one level and point, but levels={levels}, points={points}")
        self.levels, self.points = levels, points
        width, readings = heads * dim, heads * levels * points
        self.offset, self.weight = nn.Linear(width, 2 * readings), nn.Linear(width, readings)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set offsets to one direction a head, weights to equal ones, and draw the projections by Glorot's rule."""
        for linear in (self.offset, self.weight):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.weight.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # onto the square around the reference point
        distance = torch.arange(1, self.points + 1)
        start = direction[:, None, None] * distance[:, None]  # (H, 1, points, 2)
        self.offset.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def samples(self, queries: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Samples:
        # places of a large map are too many to be told apart in half precision
        kind = torch.promote_types(queries.dtype, torch.float32)
        sizes = torch.tensor([(width, height) for height, width in shapes], dtype=kind, device=queries.device)
        offset = self.offset(queries).to(kind).unflatten(-1, (self.heads, self.levels, self.points, 2))
        locations = reference.to(kind)[:, :, None, :, None] + offset / sizes[:, None]  # (B, Lq, H, levels, points, 2)
        weights = self.weight(queries).to(kind).unflatten(-1, (self.heads, -1)).softmax(-1)
        return Samples(
            values=weights.transpose(1, 2), locations=locations.flatten(3, 4).transpose(1, 2), points=self.points
        )

    def values(self, x: Tensor, mask: Tensor | None) -> Tensor:
        projected = self.value(x.movedim(1, -1)).movedim(-1, 1)
        return super().values(projected if mask is None else projected.masked_fill(~mask[:, None], 0), mask)

    def join(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.out(super().join(heads))
        return joined

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, levels={self.levels}, points={self.points}"
