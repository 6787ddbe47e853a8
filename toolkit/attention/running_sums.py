"""Sums over the keys that each query may look at, in linear time: quadratic within chunks, a running sum between them.

Everything is plain differentiable torch. A key may carry a scale: it counts exp(scale) times. Scales of any size are
safe, because sums are kept relative to the peak of the scales that went into them. That peak runs with the position:
no key ahead, and none that is masked (scale -inf, features 0), has a part in it, not even by rounding.
Shapes: q (B, H, Lq, F), k (B, H, Lk, F), scale (B, H, Lk) without gradient or None for 0, v (B, H, Lk, Dv).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 128  # positions; the states between chunks and the pairs within them then take about as much as v


class Keys(NamedTuple):
    """Keys that are summed over; see above for the shapes."""

    k: Tensor
    scale: Tensor | None
    v: Tensor

    def cut(self, start: int | None, stop: int | None) -> Keys:
        """Return the keys from position `start` to `stop`."""
        scale = None if self.scale is None else self.scale[:, :, start:stop]
        return Keys(self.k[:, :, start:stop], scale, self.v[:, :, start:stop])


class Sums(NamedTuple):
    """sum_j exp(scale_j - peak) k_j v_j^T. Shapes: sums (B, H, F, Dv), peak (B, H), -inf before the first key."""

    sums: Tensor
    peak: Tensor


class Along(Protocol):
    """A way to compute what `along` says."""

    def __call__(
        self, q: Tensor, keys: Keys, before: Sums, *, runs: Tensor | None = None, causal: bool = True
    ) -> tuple[Tensor, Tensor, Sums]: ...


def empty(keys: Keys) -> Sums:
    """Return the sums over no keys."""
    sums = keys.k.new_zeros(*keys.k.shape[:2], keys.k.shape[-1], keys.v.shape[-1])
    return Sums(sums, sums.new_full(sums.shape[:2], 0.0 if keys.scale is None else -torch.inf))


def add(sums: Sums, keys: Keys) -> Sums:
    """Return the sums with all of `keys` added."""
    if keys.scale is None or not keys.k.shape[2]:
        return Sums(sums.sums + keys.k.mT @ keys.v, sums.peak)
    peak = torch.maximum(sums.peak, keys.scale.amax(-1))
    share = (keys.scale - _finite(peak)[..., None]).exp()
    fade = (sums.peak - _finite(peak)).exp()
    return Sums(sums.sums * fade[..., None, None] + keys.k.mT @ (keys.v * share[..., None]), peak)


def along(
    q: Tensor, keys: Keys, before: Sums, *, runs: Tensor | None = None, causal: bool = True
) -> tuple[Tensor, Tensor, Sums]:
    """Sum for each position over the keys up to its own, after those `before`.

    runs: ids that change where a run of positions ends; sums stay within a run then, and `before` must be empty.
    causal: False, with runs, sums over the whole run.
    Shapes: q as long as the keys, runs (B, L) -> summed (B, H, L, Dv), its peak (B, H, L), the sums after all.
    """
    length = q.shape[2]
    if not length:
        return q @ before.sums, q.new_zeros(q.shape[:3]), before
    size = min(_CHUNK, length)
    q, keys, runs = _padded(q, keys, runs, -length % size)
    peak = None if keys.scale is None else _running_peak(keys.scale, runs, before.peak, causal)
    q, k, scale, v, rows_peak = (_cut(x, size) for x in (q, keys.k, keys.scale, keys.v, peak))
    cut = _Chunks(q=q, k=k, scale=scale, v=v, peak=rows_peak, runs=_cut(runs, size, 1))
    carried, after = cut.carried(before)
    summed = cut.within(causal) @ cut.v + carried
    if not causal:  # what a run holds behind the chunk came with `carried`; the same turned round is what lies ahead
        summed = summed + cut.turned().carried(before)[0].flip(2, 3)
    rows = q.new_zeros((*q.shape[:2], length)) if peak is None else peak[:, :, :length]
    return summed.flatten(2, 3)[:, :, :length], rows, after


class _Chunks(NamedTuple):
    """Positions cut into N chunks of C. Shapes: q, k, v (B, H, N, C, F), scale, peak (B, H, N, C), runs (B, N, C)."""

    q: Tensor
    k: Tensor
    scale: Tensor | None
    v: Tensor
    peak: Tensor | None
    runs: Tensor | None

    def turned(self) -> _Chunks:
        """Return the positions in the opposite order."""
        scale, peak = (None if x is None else x.flip(2, 3) for x in (self.scale, self.peak))
        runs = None if self.runs is None else self.runs.flip(1, 2)
        return _Chunks(self.q.flip(2, 3), self.k.flip(2, 3), scale, self.v.flip(2, 3), peak, runs)

    def within(self, causal: bool) -> Tensor:
        """Return how often the keys of a chunk count for its queries. Shapes: (B, H, N, C, C)."""
        size = self.q.shape[3]
        mask = torch.ones(size, size, dtype=torch.bool, device=self.q.device)
        mask = mask.tril() if causal else mask
        if self.runs is not None:
            mask = mask & (self.runs[..., None] == self.runs[..., None, :])[:, None]
        pairs = self.q @ self.k.mT
        if self.scale is None or self.peak is None:
            return pairs.masked_fill(~mask, 0)
        share = self.scale[..., None, :] - _finite(self.peak)[..., None]
        return pairs * share.masked_fill(~mask, -torch.inf).exp()

    def carried(self, before: Sums) -> tuple[Tensor, Sums]:
        """Return what earlier chunks hold for each query, and the sums after the last chunk."""
        q, k, scale, v, peak, runs = self
        if scale is None and runs is None:
            sums = torch.cat([before.sums[:, :, None], k.mT @ v], 2).cumsum(2)
            return q @ sums[:, :, :-1], Sums(sums[:, :, -1], before.peak)
        if scale is None or peak is None:
            scale = peak = q.new_zeros(()).expand(q.shape[:-1])
        end = peak[..., -1]  # (B, H, N)
        start = torch.cat([before.peak[..., None], end[..., :-1]], 2)
        share, kept = scale - _finite(end)[..., None], start - _finite(end)  # logarithms, as is `reach`
        reach = start[..., None] - _finite(peak)
        if runs is not None:
            last = runs[..., -1]
            first = torch.cat([last[:, :1], last[:, :-1]], 1)  # the run that the sums before a chunk belong to
            share = share.masked_fill((runs != last[..., None])[:, None], -torch.inf)
            kept = kept.masked_fill((first != last)[:, None], -torch.inf)
            reach = reach.masked_fill((runs != first[..., None])[:, None], -torch.inf)
        added = k.mT @ (v * share.exp()[..., None])
        fade = kept.exp()[..., None, None]
        sums, each = before.sums, []
        for faded, more in zip(fade.unbind(2), added.unbind(2), strict=True):  # indexing has a quadratic backward
            each.append(sums)
            sums = sums * faded + more
        return (q @ torch.stack(each, 2)) * reach.exp()[..., None], Sums(sums, end[..., -1])


def _cut(x: Tensor | None, size: int, dim: int = 2) -> Any:
    return None if x is None else x.unflatten(dim, (x.shape[dim] // size, size))


def _running_peak(scale: Tensor, runs: Tensor | None, before: Tensor, causal: bool) -> Tensor:
    """Return the largest scale that each position may look at, -inf where there is none. Shapes: (B, H, L)."""
    if runs is None:
        return torch.maximum(scale.cummax(2).values, before[..., None])
    peak = _run_peak(scale, runs)
    return peak if causal else torch.maximum(peak, _run_peak(scale.flip(2), runs.flip(1)).flip(2))


def _run_peak(peak: Tensor, runs: Tensor) -> Tensor:
    """Return the running maximum within each run, by steps that double."""
    step = 1
    while step < peak.shape[2]:
        same = (runs[:, step:] == runs[:, :-step])[:, None]
        earlier = peak[:, :, :-step].masked_fill(~same, -torch.inf)
        peak = torch.cat([peak[:, :, :step], torch.maximum(peak[:, :, step:], earlier)], 2)
        step *= 2
    return peak


def _padded(q: Tensor, keys: Keys, runs: Tensor | None, more: int) -> tuple[Tensor, Keys, Tensor | None]:
    if not more:
        return q, keys, runs
    q, k, v = (F.pad(x, (0, 0, 0, more)) for x in (q, keys.k, keys.v))
    scale = None if keys.scale is None else F.pad(keys.scale, (0, more), value=-torch.inf)
    runs = None if runs is None else torch.cat([runs, runs[:, -1:].expand(-1, more)], 1)
    return q, Keys(k, scale, v), runs


def _finite(peak: Tensor) -> Tensor:
    return peak.masked_fill(peak == -torch.inf, 0)  # nothing went in, so there is nothing to be relative to
