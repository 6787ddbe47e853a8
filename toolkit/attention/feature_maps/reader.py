"""What attention from queries to feature maps is: points at which each query reads the maps, and their weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.call import check_need
from toolkit.attention.feature_maps.contract import check_map, refuse_of
from toolkit.attention.mechanism import Attention, AttentionOutput
from toolkit.attention.need import Need, Weights
from toolkit.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Samples(Weights):
    """Where queries read the maps, and how much each reading weighs: `points` readings of each of the levels in turn.

    Shapes: values (B, H', R, levels * points); locations (B, H', R, levels * points, 2) as x and y, where 0 and 1 are
    the outer edges of a map. Units: locations in widths and heights of the map.
    """

    pattern: None = None
    locations: Tensor
    points: int

    def applied(self, maps: Sequence[Tensor]) -> Tensor:
        """Sum what is read, interpolated between the four nearest places; outside of a map there is 0.

        Shapes: maps of each level (B, H', D, height, width) -> (B, H', R, D).
        """
        assert self.values is not None
        batch, heads, rows = self.values.shape[:3]
        weights = self.values.flatten(0, 1).split(self.points, -1)
        grids = (2 * self.locations.flatten(0, 1) - 1).split(self.points, 2)  # (B * H', R, points, 2)
        total = self.values.new_zeros(batch * heads, maps[0].shape[2], rows)
        for x, weight, grid in zip(maps, weights, grids, strict=True):
            read = F.grid_sample(x.flatten(0, 1).to(grid.dtype), grid, align_corners=False)  # (B * H', D, R, points)
            total = total + (read * weight[:, None]).sum(-1)
        return total.unflatten(0, (batch, heads)).transpose(2, 3)

    def chosen(self, need: Need) -> Samples:
        """Pick the rows and heads that are needed, without gradient unless it asks for one."""
        values, locations = self.values, self.locations
        assert values is not None
        rows = None if need.rows is None else torch.as_tensor(need.rows, device=values.device)
        if rows is not None:
            values, locations = values.index_select(2, rows), locations.index_select(2, rows)
        if need.heads is not None:
            values, locations = values[:, list(need.heads)], locations[:, list(need.heads)]
        if not need.gradient:
            values, locations = values.detach(), locations.detach()
        heads = None if need.heads is None else tuple(need.heads)
        return replace(self, values=values, locations=locations, rows=rows, heads=heads)


class FeatureReader(Attention):
    """Base of attention from queries to feature maps of one or more levels, layout `map`: a subclass writes `samples`.

    Queries and maps have C = heads * dim features. What is read is summed a head, and joined: `values` and `join` are
    where a subclass projects. Places that a mask hides are read as 0, whatever stands there, like those outside of a
    map; a sample without any place that is there gives 0, with gradient 0.
    """

    levels: int

    @abstractmethod
    def samples(self, queries: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Samples:
        """Say where queries read maps of these heights and widths, and with which weights. Shapes: as `forward`."""

    def values(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what is read in a map, which is 0 where hidden. Shapes: (B, C, height, width) -> (B, H, D, ...)."""
        return x.unflatten(1, (self.heads, self.dim))

    def join(self, heads: Tensor) -> Tensor:
        """Join what the heads read. Shapes: (B, H, Lq, D) -> (B, Lq, C)."""
        return heads.transpose(1, 2).flatten(2)

    def forward(
        self,
        queries: Tensor,
        reference: Tensor,
        maps: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        *,
        need: Need | None = None,
    ) -> AttentionOutput:
        """Read the maps near the reference points. `need` asks for the `Samples`, of some rows and heads or all.

        Shapes: queries (B, Lq, C); reference (B or 1, Lq, levels, 2), x and y from 0 to 1; maps a list of levels
        (B, C, height, width); masks a list of levels (B, height, width) bool, True is there, or None for everywhere ->
        values (B, Lq, C).
        Raises: ShapeError for tensors that do not fit, or rows and heads that are not there or asked for twice;
        CapabilityError for what samples do not have.
        """
        masks = [None] * len(maps) if masks is None else list(masks)
        self._check(queries, reference, maps, masks)
        if need is not None:
            refuse_of(need, self.name, "received", "lse")
            check_need(need, queries.shape[1], self.heads, self.name)
        maps = [x if mask is None else x.masked_fill(~mask[:, None], 0) for x, mask in zip(maps, masks, strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        samples = self.samples(queries, reference.expand(len(queries), -1, -1, -1), shapes)
        read = samples.applied([self.values(x, mask) for x, mask in zip(maps, masks, strict=True)])
        values = self.join(read.to(queries.dtype))
        given = [mask for mask in masks if mask is not None]
        if len(given) == len(masks):
            empty = ~torch.stack([mask.flatten(1).any(1) for mask in given]).any(0)
            values = values.masked_fill(empty[:, None, None], 0)
        shown = None if need is None or not need.weights else samples.chosen(need)
        return AttentionOutput(values=values, weights=shown)

    def _check(
        self, queries: Tensor, reference: Tensor, maps: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> None:
        width = self.heads * self.dim
        if len(maps) != self.levels or len(masks) != self.levels:
            raise ShapeError(
                f"{self.name} was built for levels={self.levels}, but given {len(maps)} maps and {len(masks)} masks"
            )
        if queries.dim() != 3 or queries.shape[-1] != width:
            raise ShapeError(
                f"{self.name} wants queries (batch, length, heads * dim = {width}), but given {tuple(queries.shape)}"
            )
        batch, length = queries.shape[:2]
        if reference.shape not in ((batch, length, self.levels, 2), (1, length, self.levels, 2)):
            raise ShapeError(
                f"{self.name} wants reference points (batch or 1, length, levels={self.levels}, 2) for queries "
                f"{tuple(queries.shape)}, but given {tuple(reference.shape)}"
            )
        for x, mask in zip(maps, masks, strict=True):
            check_map(self.name, x, mask, width)
            if len(x) != batch:
                raise ShapeError(f"{self.name} was given {batch} samples of queries but maps {tuple(x.shape)}")


def reference_points(maps: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> Tensor:
    """Return the middle of every place of every level, for queries that are the places themselves (an encoder).

    Under masks a place stands at the same share of what is there in every level, which begins at the top left corner
    and is as wide as its first row and as high as its first column.
    Shapes: maps (B, C, height, width) and masks (B, height, width) of each level -> (B or 1, Lq, levels, 2), where Lq
    counts all places, level after level and row after row.
    Source: arXiv:2010.04159, sec. 4.1 (encoder); shares of what is there as in the authors' code.
    """
    masks = [None] * len(maps) if masks is None else list(masks)
    kind = torch.promote_types(maps[0].dtype, torch.float32)
    own, shares = [], []
    for x, mask in zip(maps, masks, strict=True):
        (height, width), device = x.shape[2:], x.device
        y, x_ = torch.meshgrid(
            (torch.arange(height, device=device, dtype=kind) + 0.5) / height,
            (torch.arange(width, device=device, dtype=kind) + 0.5) / width,
            indexing="ij",
        )
        share = torch.ones(1, 2, device=device, dtype=kind)
        if mask is not None:
            seen = torch.stack([mask[:, 0].sum(1), mask[:, :, 0].sum(1)], 1).clamp_min(1)
            share = seen.to(kind) / torch.tensor([width, height], device=device, dtype=kind)
        own.append(torch.stack([x_, y], -1).reshape(1, -1, 2) / share[:, None])  # as shares of what is there
        shares.append(share)
    batch = max(len(share) for share in shares)
    points = torch.cat([each.expand(batch, -1, -1) for each in own], 1)
    return points[:, :, None] * torch.stack([share.expand(batch, -1) for share in shares], 1)[:, None]
