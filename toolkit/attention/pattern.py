"""Who may look at whom. `True` always means: may look.

A pattern is a frozen object, not a mask tensor: each backend lowers it to what it needs (a flag, an edge list, a dense
mask). Patterns compose: `causal() & padding(lengths)`, `window(8, 0) | global_tokens([0])`. The sparse ones are in
`sparse_pattern`.

`allowed(b, h, i, j, shape)` has the form of FlexAttention's mask_mod: index tensors in, booleans out, broadcasting.
Positions are aligned bottom-right: with fewer queries than keys, the last query stands at the last key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toolkit.attention.reach import Reach
from toolkit.errors import ShapeError


class Lengths(NamedTuple):
    """Lq queries looking at Lk keys."""

    queries: int
    keys: int


class Pattern:
    """Base of all patterns. Subclasses define `allowed`, and say whether the answer depends on sample or head."""

    per_sample = False
    per_head = False

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        """Say which (sample, head, query, key) may look. Shapes: all broadcast together -> bool of that shape."""
        raise NotImplementedError

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        """Raise ShapeError if this pattern was made for other sizes."""

    def reach(self, shape: Lengths) -> Reach:
        """Bound how far queries look; without an own answer there is no bound, which is always true."""
        return Reach()

    def hidden(self, shape: Lengths) -> Tensor | None:
        """Say which keys no query may look at, None if that is not known without asking about all pairs.

        Shapes: (B or 1, H or 1, Lk).
        """
        return None

    def beside(self, own: Pattern) -> Pattern:
        """Return `own`, made for whole sequences, for the keys that this pattern is asked about, if some are gone."""
        return own

    def mask(
        self,
        queries: int,
        keys: int,
        *,
        batch: int = 1,
        heads: int = 1,
        rows: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Lower to a dense mask (B or 1, H or 1, R, Lk), where R is all queries or the chosen rows."""
        shape = Lengths(queries, keys)
        self.check(batch, heads, shape)
        i = torch.arange(queries, device=device) if rows is None else rows.to(device)
        b = torch.arange(batch if self.per_sample else 1, device=device)[:, None, None, None]
        h = torch.arange(heads if self.per_head else 1, device=device)[None, :, None, None]
        j = torch.arange(keys, device=device)[None, None, None, :]
        allowed = self.allowed(b, h, i[None, None, :, None], j, shape)
        return allowed.expand(len(b), h.shape[1], len(i), keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pattern:
        """Return this pattern with its tensors on `device`; index tensors that reach `allowed` must be there too."""
        return self

    def __and__(self, other: Pattern) -> Pattern:
        if isinstance(other, Pattern) and other.narrows_first:
            return other & self
        return AllOf((self, other)) if isinstance(other, Pattern) else NotImplemented

    def __or__(self, other: Pattern) -> Pattern:
        return AnyOf((self, other)) if isinstance(other, Pattern) else NotImplemented

    narrows_first = False  # an edge list stays an edge list when another pattern narrows it


@dataclass(frozen=True)
class _Composed(Pattern):
    parts: tuple[Pattern, ...]

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return any(part.per_sample for part in self.parts)

    @property
    def per_head(self) -> bool:  # type: ignore[override]
        return any(part.per_head for part in self.parts)

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        for part in self.parts:
            part.check(batch, heads, shape)

    def beside(self, own: Pattern) -> Pattern:
        changed = (part.beside(own) for part in self.parts)
        return next((other for other in changed if other is not own), own)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pattern:
        return type(self)(tuple(part.to(device, non_blocking) for part in self.parts))


class AllOf(_Composed):
    """Every part allows it: `first & second`."""

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return reduce(and_, (part.allowed(b, h, i, j, shape) for part in self.parts))

    def reach(self, shape: Lengths) -> Reach:
        return reduce(and_, (part.reach(shape) for part in self.parts))

    def hidden(self, shape: Lengths) -> Tensor | None:
        known = [each for each in [part.hidden(shape) for part in self.parts] if each is not None]
        return reduce(or_, known) if known else None


class AnyOf(_Composed):
    """Some part allows it: `first | second`."""

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return reduce(or_, (part.allowed(b, h, i, j, shape) for part in self.parts))

    def reach(self, shape: Lengths) -> Reach:
        return reduce(or_, (part.reach(shape) for part in self.parts))

    def hidden(self, shape: Lengths) -> Tensor | None:
        known = [each for each in [part.hidden(shape) for part in self.parts] if each is not None]
        return reduce(and_, known) if len(known) == len(self.parts) else None


@dataclass(frozen=True)
class Full(Pattern):
    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return (i >= 0) & (j >= 0)


@dataclass(frozen=True)
class Window(Pattern):
    left: int | None
    right: int | None

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        ahead = j - (i + (shape.keys - shape.queries))  # the shift first: i is far smaller than all pairs
        sides = [] if self.left is None else [ahead >= -self.left]
        sides += [] if self.right is None else [ahead <= self.right]
        return reduce(and_, sides) if sides else torch.ones_like(ahead, dtype=torch.bool)

    def reach(self, shape: Lengths) -> Reach:
        return Reach(left=self.left, right=self.right)


@dataclass(frozen=True, eq=False)
class Padding(Pattern):
    lengths: Tensor
    per_sample = True

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return (j < self.lengths[b]) & (i >= 0)

    def hidden(self, shape: Lengths) -> Tensor | None:
        return (torch.arange(shape.keys, device=self.lengths.device) >= self.lengths[:, None])[:, None]

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        if self.lengths.shape != (batch,):
            raise ShapeError(f"padding has lengths of shape {tuple(self.lengths.shape)} but the batch holds {batch}")
        if not torch.compiler.is_compiling() and self.lengths.device.type == "cpu" and batch:
            longest = int(self.lengths.max())
            if longest > shape.keys:
                raise ShapeError(f"padding names a length of {longest} but there are {shape.keys} keys")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pattern:
        return Padding(self.lengths.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, eq=False)
class Segments(Pattern):
    ids: Tensor
    key_ids: Tensor
    per_sample = True

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return self.ids[b, i] == self.key_ids[b, j]

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        given = (tuple(self.ids.shape), tuple(self.key_ids.shape))
        if given != ((batch, shape.queries), (batch, shape.keys)):
            raise ShapeError(f"segments has ids of shape {given} but there are {batch} samples of {shape}")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pattern:
        return Segments(*(ids.to(device, non_blocking=non_blocking) for ids in (self.ids, self.key_ids)))


@dataclass(frozen=True, eq=False)
class Dense(Pattern):
    table: Tensor  # (B or 1, H or 1, Lq or 1, Lk)

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return self.table.shape[0] > 1

    @property
    def per_head(self) -> bool:  # type: ignore[override]
        return self.table.shape[1] > 1

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        row = i if self.table.shape[2] > 1 else i * 0
        return self.table[b if self.per_sample else b * 0, h if self.per_head else h * 0, row, j]

    def hidden(self, shape: Lengths) -> Tensor | None:
        return ~self.table.any(2)

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        want = (batch, heads, *shape)
        fits = all(have in (1, size) for have, size in zip(self.table.shape[:3], want[:3], strict=True))
        if not fits or self.table.shape[3] != shape.keys:
            given = tuple(self.table.shape)
            raise ShapeError(
                f"the mask has shape {given} but {want} is wanted, where 1 broadcasts over all but the keys"
            )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pattern:
        return Dense(self.table.to(device, non_blocking=non_blocking))


def full() -> Pattern:
    """Everyone may look at everyone."""
    return Full()


def causal() -> Pattern:
    """A query may look at keys up to its own position, bottom-right aligned when the lengths differ."""
    return Window(None, 0)


def window(left: int | None, right: int | None) -> Pattern:
    """A query may look `left` keys back and `right` keys ahead; None is without limit.

    Raises: ValueError if a side is negative.
    """
    if min(left or 0, right or 0) < 0:
        raise ValueError(f"window sides are distances and cannot be negative, but ({left}, {right}) was given")
    return Window(left, right)


def padding(lengths: Tensor) -> Pattern:
    """In sample b only the first `lengths[b]` keys may be looked at. Shapes: lengths (B,) integers."""
    return Padding(_integers("padding", lengths, 1))


def segments(ids: Tensor, key_ids: Tensor | None = None) -> Pattern:
    """Queries look at the keys that carry the same id: packed documents. Shapes: ids (B, Lq), key_ids (B, Lk)."""
    ids = _integers("segments", ids, 2)
    return Segments(ids, ids if key_ids is None else _integers("segments", key_ids, 2))


def dense(mask: Tensor) -> Pattern:
    """A boolean mask, True = may look. Shapes: mask (Lq, Lk), (B, Lq, Lk) or (B or 1, H or 1, Lq, Lk)."""
    if mask.dtype != torch.bool or mask.dim() not in (2, 3, 4):
        raise ShapeError(f"dense wants 2 to 4 boolean dimensions, but {mask.dtype} {tuple(mask.shape)} was given")
    return Dense(mask.reshape(1, 1, *mask.shape) if mask.dim() == 2 else mask[:, None] if mask.dim() == 3 else mask)


def _integers(what: str, value: Tensor, dim: int) -> Tensor:
    if value.dim() != dim or value.dtype.is_floating_point or value.dtype == torch.bool:
        raise ShapeError(f"{what} wants integers in {dim} dimensions, but {value.dtype} {tuple(value.shape)} was given")
    return value


def describe(pattern: Any) -> str:
    """Name a pattern in an error message."""
    if isinstance(pattern, _Composed):
        return (" & " if isinstance(pattern, AllOf) else " | ").join(f"({describe(part)})" for part in pattern.parts)
    if isinstance(pattern, Window):
        causal_only = pattern.left is None and pattern.right == 0
        return "causal()" if causal_only else f"window({pattern.left}, {pattern.right})"
    return "none" if pattern is None else type(pattern).__name__.lower()
