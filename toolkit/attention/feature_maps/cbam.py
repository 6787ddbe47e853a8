"""Convolutional block attention: what matters, then where. Woo et al. 2018, arXiv:1807.06521."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.feature_maps.contract import FeatureAttention, Gates, average, maximum
from toolkit.binding import Positive


class CBAM(FeatureAttention):
    """A gate of channels, sigmoid(MLP(mean) + MLP(max)), then a gate of places, sigmoid(conv[mean; max] + b).

    reduction: the MLP that both pools share has dim / reduction hidden units, at least one, and no biases. kernel: the
    size of the convolution, odd. channel, spatial: whether each of the two gates is there. Unlike the authors' code the
    convolution has a bias in the place of a batch norm, which would make samples depend on each other in training.
    Shapes: squeeze W_0 (C / r, C), excite W_1 (C, C / r), place (1, 2, kernel, kernel).
    Source: arXiv:1807.06521, eq. 1 to 3.
    """

    name = "cbam"
    capabilities = Capabilities(
        layouts=frozenset({"map"}),
        causal=False,
        cross=False,
        sums="any",
        positional=True,
        compiles=frozenset({"map"}),
        exports=frozenset({"map"}),
        cost="C H W + C^2 / r + k^2 H W for C channels, reduction r, kernel k",
        paper="Woo et al. 2018, CBAM: Convolutional Block Attention Module, arXiv:1807.06521",
        equation="F = x sigmoid(MLP(mean_p x) + MLP(max_p x)), F sigmoid(conv[mean_c F; max_c F])",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"reduction": 2, "kernel": 3},
        {"reduction": 1, "spatial": False},
        {"kernel": 5, "channel": False},
    )

    def __init__(
        self,
        *,
        dim: int,
        heads: int = 1,
        reduction: Positive = 16,
        kernel: Positive = 7,
        channel: bool = True,
        spatial: bool = True,
    ) -> None:
        super().__init__(dim=dim, heads=heads)
        if reduction < 1:
            raise ValueError(f"{self.name} wants a reduction of 1 or more, but {reduction} was given")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"{self.name} wants an odd kernel, so that a place stands in its middle; given {kernel}")
        if not (channel or spatial):
            raise ValueError(f"{self.name} without channel and without spatial gates nothing; leave one of them on")
        hidden = max(1, dim // reduction)
        self.squeeze = nn.Linear(dim, hidden, bias=False) if channel else None
        self.excite = nn.Linear(hidden, dim, bias=False) if channel else None
        self.place = nn.Conv2d(2, 1, kernel, padding=kernel // 2) if spatial else None

    def gates(self, x: Tensor, mask: Tensor | None) -> Gates:
        channel = self._channel(x, mask)
        if self.place is None:
            return Gates(channel=channel)
        refined = x if channel is None else x * channel[:, :, None, None]
        mean = refined.sum(1, dtype=torch.promote_types(x.dtype, torch.float32)) / self.dim
        spatial = self.place(torch.stack([mean.to(x.dtype), refined.amax(1)], 1))[:, 0].sigmoid().to(x.dtype)
        return Gates(channel=channel, spatial=spatial if mask is None else spatial.masked_fill(~mask, 0))

    def _channel(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        if self.squeeze is None or self.excite is None:
            return None
        both = torch.stack([average(x, mask), maximum(x, mask)])
        return self.excite(self.squeeze(both).relu()).sum(0).sigmoid().to(x.dtype)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, channel={self.squeeze is not None}, spatial={self.place is not None}"
