"""Squeeze-and-excitation: each channel by a gate of all channels' averages. Hu et al. 2018, arXiv:1709.01507."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.feature_maps.contract import FeatureAttention, Gates, average, maximum
from toolkit.binding import Positive


class SqueezeExcitation(FeatureAttention):
    """x_c * sigmoid(W_2 relu(W_1 z + b_1) + b_2)_c, where z are the channels' averages over all places.

    reduction: the hidden layer has dim / reduction units, at least one. pool: how a channel is squeezed to a number,
    `average` or `max`. Shapes: squeeze W_1 (C / r, C), excite W_2 (C, C / r).
    Source: arXiv:1709.01507, eq. 2 to 4; `max` is that paper's ablation of the squeeze; biases as in common code.
    """

    name = "squeeze_excitation"
    capabilities = Capabilities(
        layouts=frozenset({"map"}),
        causal=False,
        cross=False,
        sums="any",
        positional=False,
        compiles=frozenset({"map"}),
        exports=frozenset({"map"}),
        cost="C H W + C^2 / r for C channels, reduction r",
        paper="Hu et al. 2018, Squeeze-and-Excitation Networks, arXiv:1709.01507",
        equation="x_c sigmoid(W_2 relu(W_1 mean(x)))_c",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"reduction": 2}, {"reduction": 1, "pool": "max"})

    def __init__(
        self, *, dim: int, heads: int = 1, reduction: Positive = 16, pool: Literal["average", "max"] = "average"
    ) -> None:
        super().__init__(dim=dim, heads=heads)
        if reduction < 1:
            raise ValueError(f"{self.name} wants a reduction of 1 or more, but {reduction} was given")
        if pool not in ("average", "max"):
            raise ValueError(f"{self.name} pools by average or max, but {pool!r} was given")
        self.pool = pool
        hidden = max(1, dim // reduction)
        self.squeeze, self.excite = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def gates(self, x: Tensor, mask: Tensor | None) -> Gates:
        squeezed = average(x, mask) if self.pool == "average" else maximum(x, mask)
        return Gates(channel=self.excite(self.squeeze(squeezed).relu()).sigmoid().to(x.dtype))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, hidden={self.squeeze.out_features}, pool={self.pool!r}"
