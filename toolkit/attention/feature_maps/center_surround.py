"""A bottom-up saliency map without anything learned: what differs from its surroundings. Itti, Koch, Niebur 1998."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.feature_maps.contract import check_map
from toolkit.errors import ShapeError

_JOINING = 0.5  # the corners of a square stand out at most twice as much as its edges, at every scale
_LEAST = 0.1


def center_surround(
    maps: Tensor, mask: Tensor | None = None, *, centers: Sequence[int] = (0, 1), deltas: Sequence[int] = (1, 2)
) -> Tensor:
    """Return how much each place stands out from what surrounds it, between 0 and 1.

    Each channel is halved again and again; the difference between scales c and c + d, |fine - coarse|, is stretched to
    0 to 1 and multiplied by (1 - m)^2, where m is the mean of its local maxima but the highest. So a map with one peak
    counts, one with many does not. Equal neighbours are one maximum; those joined to the highest by places of half its
    height and more, such as the corners of one blob, are none of their own, nor is what is below a tenth of it, such as
    rounding. Sums over scales are treated alike, and averaged over channels. As a bias of any mechanism whose keys are
    the places: center_surround(x).flatten(1)[:, None, None].
    centers, deltas: the scales c, and how many halvings their surroundings are away; (2, 3, 4) and (3, 4) in the paper,
    on images of 640 x 480; here they fit feature maps of 8 x 8 and more. mask: True is there; hidden places give 0, and
    influence nothing, like those outside of the map.
    Shapes: maps (B, C, H, W), mask (B, H, W) -> (B, H, W), in the type of the maps, single precision for whole numbers.
    Raises: ShapeError for tensors that do not fit, or maps too small to be halved so often.
    Source: Itti, Koch, Niebur 1998, IEEE PAMI 20(11), sec. 2.1 and 2.2: any channels in the place of intensity, colour
    and orientation, sums at the finest scale, edges by what is there alone, and maxima told apart as above.
    """
    channels = maps.shape[1] if maps.dim() == 4 else 0
    check_map("center_surround", maps, mask, channels)
    if not centers or not deltas or min(centers) < 0 or min(deltas) < 1:
        raise ShapeError(
            f"center_surround wants centers from 0 and deltas from 1, but {centers} and {deltas} were given"
        )
    last = max(centers) + max(deltas)
    if min(maps.shape[2:]) < 2**last:
        raise ShapeError(
            f"center_surround with centers={tuple(centers)}, deltas={tuple(deltas)} halves a map {last} times, so it "
            f"wants {2**last} places each way, but {tuple(maps.shape)} was given; smaller centers and deltas would do"
        )
    there = torch.ones_like(maps[:, 0], dtype=torch.bool) if mask is None else mask
    kind = torch.promote_types(maps.dtype, torch.float32)
    x = maps.masked_fill(~there[:, None], 0).to(kind)
    levels = [(x, there[:, None].to(x.dtype))]
    for _ in range(last):
        levels.append(_halved(*levels[-1]))
    sizes = [level.shape[2:] for level, _ in levels]
    total = torch.zeros_like(x)
    for center in centers:
        for delta in deltas:
            fine, shown = levels[center]
            coarse, _ = _doubled(*levels[center + delta], sizes[center : center + delta])
            contrast = _promoted((fine - coarse).abs(), shown > 0)
            total = total + _doubled(contrast, shown, sizes[:center])[0]
    salient = _promoted(total, there[:, None]).mean(1)
    return salient.masked_fill(~there, 0).to(maps.dtype if maps.is_floating_point() else kind)


def _halved(x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Blur and take every second place, over what is there alone. Shapes: x (B, C, h, w), there (B, 1, h, w)."""
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8  # binomial: a new place stands between two old ones
    kernel = (taps[:, None] * taps)[None, None]
    odd = (1, 1 + x.shape[3] % 2, 1, 1 + x.shape[2] % 2)

    def blurred(z: Tensor) -> Tensor:
        return F.conv2d(F.pad(z, odd).flatten(0, 1)[:, None], kernel, stride=2).unflatten(0, z.shape[:2])[:, :, 0]

    mass = blurred(there)
    return blurred(x * there) / mass.masked_fill(mass == 0, 1), (mass > 0).to(x.dtype)


def _doubled(x: Tensor, there: Tensor, sizes: Sequence[torch.Size]) -> tuple[Tensor, Tensor]:
    """Interpolate back to the finer scales of these sizes, the finest first, over what is there alone."""
    for height, width in reversed(sizes):
        mass = F.interpolate(there, scale_factor=2, mode="bilinear", align_corners=False)[:, :, :height, :width]
        x = F.interpolate(x * there, scale_factor=2, mode="bilinear", align_corners=False)[:, :, :height, :width]
        x, there = x / mass.masked_fill(mass == 0, 1), (mass > 0).to(x.dtype)
    return x, there


def _promoted(x: Tensor, there: Tensor) -> Tensor:
    """Promote maps with one peak: stretch each to 0 to 1, times (1 - mean of its other local maxima)^2; 0 elsewhere."""
    low = x.masked_fill(~there, torch.inf).amin((2, 3), keepdim=True)
    high = x.masked_fill(~there, -torch.inf).amax((2, 3), keepdim=True)
    span = high - low
    flat = ~(span > 0)  # all the same, or nothing there
    x = ((x - low.masked_fill(flat, 0)) / span.masked_fill(flat, 1)).masked_fill(flat | ~there, 0)
    peaks = _others(x.detach())
    mean = (x * peaks).sum((2, 3), keepdim=True) / peaks.sum((2, 3), keepdim=True).clamp_min(1)
    return x * (1 - mean).square()


def _others(x: Tensor) -> Tensor:
    """Say which places are local maxima, but for the highest and those joined to it. Shapes: x (B, C, h, w), 0 to 1."""
    highest = torch.zeros_like(x).flatten(2)
    highest = highest.scatter(2, x.flatten(2).argmax(2, keepdim=True), 1).view_as(x)
    tall, joined = x >= _JOINING, highest * (x > 0)
    while not torch.equal(grown := F.max_pool2d(joined, 3, stride=1, padding=1) * tall, joined):
        joined = grown
    place = torch.arange(x.shape[2] * x.shape[3], device=x.device).view(x.shape[2:])
    first = F.max_pool2d(x, 3, stride=1, padding=1, return_indices=True)[1]  # of equal neighbours one
    return (place == first) & (x >= _LEAST) & (joined == 0)
