"""What attention within a feature map is: gates that channels and places are multiplied by."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toolkit.attention.mechanism import Attention, AttentionOutput
from toolkit.attention.need import Need, Weights
from toolkit.errors import CapabilityError, ShapeError


@dataclass(frozen=True, kw_only=True)
class Gates(Weights):
    """The gates of a feature map: output = x * channel * spatial where the mask is True, 0 elsewhere; None is 1.

    Each gate is for itself: they add up to nothing in particular. There are no queries, so `values`, `received` and
    `rows` of `Weights` are None. Shapes: channel (B, C), spatial (B, H, W), mask (B, H, W) bool.
    """

    pattern: None = None
    channel: Tensor | None = None
    spatial: Tensor | None = None
    mask: Tensor | None = None

    def applied(self, x: Tensor) -> Tensor:
        """Multiply a map by its gates. Shapes: x (B, C, H, W) -> the same."""
        x = x if self.mask is None else x.masked_fill(~self.mask[:, None], 0)
        x = x if self.channel is None else x * self.channel[:, :, None, None]
        return x if self.spatial is None else x * self.spatial[:, None]

    def detached(self) -> Gates:
        """Return the same gates without gradient."""
        channel, spatial = (None if gate is None else gate.detach() for gate in (self.channel, self.spatial))
        return replace(self, channel=channel, spatial=spatial)


class FeatureAttention(Attention):
    """Base of attention within a feature map, layout `map`: a subclass writes `gates`.

    dim: the number of channels C. heads: 1, for a gate is one for all. Places that the mask hides influence nothing and
    give 0; a map without any place that is there gives 0, with gradient 0.
    """

    def __init__(self, *, dim: int, heads: int = 1) -> None:
        super().__init__(heads=heads, dim=dim)
        if heads != 1:
            raise CapabilityError(
                f"attention {self.name!r} runs on the layout map, feature maps (B, C, H, W) of C = dim channels, with "
                f"heads=1, but heads={heads} was given; it does not attend between tokens or nodes"
            )

    @abstractmethod
    def gates(self, x: Tensor, mask: Tensor | None) -> Gates:
        """Compute the gates of a map that is 0 where the mask hides it. Shapes: x (B, C, H, W), mask (B, H, W)."""

    def forward(self, x: Tensor, mask: Tensor | None = None, *, need: Need | None = None) -> AttentionOutput:
        """Gate a map. `need` asks for the `Gates`, without gradient unless `need.gradient`.

        Shapes: x (B, C, H, W), mask (B, H, W) bool, True is there, None everywhere -> values (B, C, H, W).
        Raises: ShapeError for tensors that do not fit; CapabilityError for what gates do not have.
        """
        check_map(self.name, x, mask, self.dim)
        if need is not None:
            refuse_of(need, self.name, "rows", "heads", "received", "lse")
        x = x if mask is None else x.masked_fill(~mask[:, None], 0)
        gates = replace(self.gates(x, mask), mask=mask)
        values = replace(gates, mask=None).applied(x)
        if need is None or not need.weights:
            return AttentionOutput(values=values)
        return AttentionOutput(values=values, weights=gates if need.gradient else gates.detached())


def check_map(name: str, x: Tensor, mask: Tensor | None, channels: int) -> None:
    """Raise ShapeError unless x is (B, C, H, W), with a mask (B, H, W) of booleans if there is one."""
    if x.dim() != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        raise ShapeError(
            f"{name} wants feature maps (batch, {channels}, height, width) of at least one place, but "
            f"{tuple(x.shape)} was given"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (x.shape[0], *x.shape[2:])):
        raise ShapeError(
            f"{name} wants a mask of booleans (batch, height, width), True is there, for {tuple(x.shape)}, but "
            f"{mask.dtype} {tuple(mask.shape)} was given"
        )


def refuse_of(need: Need, name: str, *parts: str) -> None:
    """Raise CapabilityError if `need` asks for a part that a mechanism does not have."""
    for part in parts:
        if getattr(need, part) not in (None, False):
            raise CapabilityError(f"{name} has no {part} to choose or to show; Need() gives all its weights")


def average(x: Tensor, mask: Tensor | None) -> Tensor:
    """Average over the places that are there, 0 without any. Shapes: x (B, C, H, W), 0 elsewhere -> (B, C)."""
    total = x.sum((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))  # sums of halves overflow
    if mask is None:
        return (total / (x.shape[2] * x.shape[3])).to(x.dtype)
    return (total / mask.sum((1, 2))[:, None].clamp_min(1)).to(x.dtype)


def maximum(x: Tensor, mask: Tensor | None) -> Tensor:
    """Take the largest over the places that are there, 0 without any. Shapes: as `average`."""
    if mask is None:
        return x.amax((2, 3))
    peak = x.masked_fill(~mask[:, None], -torch.inf).amax((2, 3))
    return peak.masked_fill(~mask.any(2).any(1)[:, None], 0)
