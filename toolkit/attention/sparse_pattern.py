"""Sparse patterns: blocks, strides, global tokens and random blocks. `pattern` says what patterns are.

Where a query looks is computed from its position by arithmetic element by element, which FlexAttention can compile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from toolkit.attention.pattern import Lengths, Pattern, window
from toolkit.attention.reach import Reach, itself

Side = Literal["both", "past", "ahead"]


@dataclass(frozen=True)
class Blocks(Pattern):
    size: int
    around: int

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        own = (i + shape.keys - shape.queries).div(self.size, rounding_mode="floor")
        return (own - j // self.size).abs() <= self.around

    def reach(self, shape: Lengths) -> Reach:
        return Reach(left=self.around * self.size, right=self.around * self.size, grain=self.size)


@dataclass(frozen=True)
class Strided(Pattern):
    stride: int

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return (i + (shape.keys - shape.queries) - j) % self.stride == 0

    def reach(self, shape: Lengths) -> Reach:
        return Reach(stride=self.stride)


@dataclass(frozen=True)
class Fixed(Pattern):
    stride: int
    summary: int

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return (i == i) & (j % self.stride >= self.stride - self.summary)

    def reach(self, shape: Lengths) -> Reach:
        first = self.stride - self.summary
        return itself(columns=frozenset(j for j in range(shape.keys) if j % self.stride >= first))


@dataclass(frozen=True)
class GlobalTokens(Pattern):
    positions: tuple[int, ...]

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return self._named(i + (shape.keys - shape.queries)) | self._named(j)

    def _named(self, place: Tensor) -> Tensor:
        found = torch.zeros_like(place, dtype=torch.bool)
        for first, last in _runs(self.positions):
            found = found | ((place >= first) & (place <= last))
        return found

    def reach(self, shape: Lengths) -> Reach:
        named = frozenset(position for position in self.positions if position < shape.keys)
        return itself(columns=named, rows=named)


@dataclass(frozen=True)
class RandomBlocks(Pattern):
    size: int
    count: int
    seed: int
    skip: int
    apart: int
    side: Side

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        block, far = (i + (shape.keys - shape.queries)).div(self.size, rounding_mode="floor"), j // self.size
        found = torch.zeros_like(block + far, dtype=torch.bool)
        for choice in self.choices(block, shape):
            found = found | (far == choice)
        return found

    def choices(self, block: Tensor, shape: Lengths) -> list[Tensor]:
        """Draw without replacement, by counting along the candidates and stepping over those already drawn."""
        num_blocks = -(-shape.keys // self.size)
        before = (block - self.apart - self.skip).clamp(0, max(0, num_blocks - self.skip))
        after = (block + self.apart + 1).clamp_min(self.skip)
        before = before * 0 if self.side == "ahead" else before
        candidates = before if self.side == "past" else before + (num_blocks - after).clamp_min(0)
        candidates = torch.where(block >= 0, candidates, 0)  # queries before the first key
        drawn: list[Tensor] = []  # in ascending order
        found = []
        for turn in range(self.count):
            place = _mixed(block, turn, self.seed) % (candidates - turn).clamp_min(1)
            for other in drawn:
                place = place + (place >= other)
            found.append(torch.where(place < before, place + self.skip, place - before + after))
            found[-1] = torch.where(turn < candidates, found[-1], -1)
            for position, other in enumerate(drawn):
                drawn[position], place = torch.minimum(other, place), torch.maximum(other, place)
            drawn.append(place)
        return found

    def reach(self, shape: Lengths) -> Reach:
        return itself(scattered=(self,), grain=self.size)


def blocks(size: int, around: int = 0) -> Pattern:
    """Positions are cut into blocks of `size`, and each looks within its own and `around` blocks on either side.

    Raises: ValueError if the size is not positive or `around` is negative.
    """
    return Blocks(_at_least("blocks", "size", size, 1), _at_least("blocks", "around", around, 0))


def strided(stride: int) -> Pattern:
    """A query looks at keys whole strides away, before and after. Source: arXiv:1904.10509, sec. 4.3, A^(2)."""
    return Strided(_at_least("strided", "stride", stride, 1))


def dilated(left: int, right: int, dilation: int) -> Pattern:
    """A query looks at `left` keys back and `right` ahead, each `dilation` positions from the next, and at its own.

    Source: arXiv:2004.05150, sec. 3.1, dilated sliding window.
    """
    step = _at_least("dilated", "dilation", dilation, 1)
    near = window(left * step, right * step)
    return near if step == 1 else near & strided(step)


def fixed(stride: int, summary: int = 1) -> Pattern:
    """Everyone looks at the last `summary` keys of each block of `stride` keys, which come to hold a summary of it.

    Raises: ValueError unless 1 <= summary <= stride. Source: arXiv:1904.10509, sec. 4.3, fixed A^(2), with c = summary.
    """
    _at_least("fixed", "stride", stride, 1)
    if not 1 <= summary <= stride:
        raise ValueError(f"fixed wants a summary of 1 to {stride} keys, the stride, but {summary} was given")
    return Fixed(stride, summary)


def global_tokens(positions: Sequence[int]) -> Pattern:
    """The tokens at `positions` look at all and are looked at by all. Source: arXiv:2004.05150, sec. 3.1."""
    if any(position < 0 for position in positions):
        raise ValueError(f"global_tokens wants positions from the start of the keys, but {list(positions)} was given")
    return GlobalTokens(tuple(sorted({int(position) for position in positions})))


def random_blocks(
    size: int, count: int, *, seed: int = 0, skip: int = 0, apart: int = 0, side: Side = "both"
) -> Pattern:
    """Each block of `size` queries looks at `count` blocks of keys, drawn without replacement, or at all if fewer fit.

    What is drawn depends on the seed, the block's place and how many blocks there are to draw from: not on any state.
    skip: blocks at the start that are not drawn. apart: neither are the own block and this many on either side.
    side: `past` draws earlier blocks only, which longer sequences do not change; `ahead` draws later blocks only.
    Raises: ValueError for a size or count that is not positive, or another side. Source: arXiv:2007.14062, sec. 2,
    random attention.
    """
    _at_least("random_blocks", "size", size, 1)
    _at_least("random_blocks", "count", count, 1)
    _at_least("random_blocks", "skip", skip, 0)
    if side not in ("both", "past", "ahead"):
        raise ValueError(f"random_blocks wants side 'both', 'past' or 'ahead', but {side!r} was given")
    return RandomBlocks(size, count, seed, skip, _at_least("random_blocks", "apart", apart, 0), side)


def _at_least(what: str, option: str, value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"{what} wants {option} >= {least}, but {value} was given")
    return value


def _runs(positions: Iterable[int]) -> list[tuple[int, int]]:
    """Join sorted positions that follow one another into first and last."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and runs[-1][1] == position - 1:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs


def _mixed(block: Tensor, turn: int, seed: int) -> Tensor:
    """Scramble a block's place into 32 bits (multiply, xor and shift), the same on every device and for any shape."""
    mask = 0xFFFFFFFF
    x = (block.long() * 0x9E3779B1 + (turn * 0x85EBCA77 + seed * 0xC2B2AE3D) % 2**32) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & mask
    return x ^ (x >> 16)
