"""How far a pattern looks: an upper bound that tells a backend which keys a chunk of queries could possibly need.

A bound may be too wide, never too narrow: what is really allowed is still asked of the pattern.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from toolkit.attention.pattern import Lengths


class Scattered(Protocol):
    """A pattern of key blocks that stand anywhere: `count` of them, of `size` keys, for each block of queries."""

    @property
    def size(self) -> int: ...

    @property
    def count(self) -> int: ...

    def choices(self, block: Tensor, shape: Lengths) -> list[Tensor]:
        """Return the key blocks that each query block looks at, -1 for none. Shapes: as `block`, each."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """A query at aligned position p looks at most at keys p - left .. p + right, and at the extras; None: no limit.

    grain: distances count from the edges of the block of this many positions in which p stands.
    stride: only keys whole strides away are looked at; 0 for p alone.
    columns: keys that any query may look at. rows: aligned positions of queries that may look anywhere.
    scattered: what chooses blocks of keys for blocks of queries.
    """

    left: int | None = None
    right: int | None = None
    grain: int = 1
    stride: int = 1
    columns: frozenset[int] = field(default_factory=frozenset)
    rows: frozenset[int] = field(default_factory=frozenset)
    scattered: tuple[Scattered, ...] = ()

    def __and__(self, other: Reach) -> Reach:
        left = min(self.left, other.left, key=_far)
        return self._with_extras(other, left, min(self.right, other.right, key=_far), math.lcm)

    def __or__(self, other: Reach) -> Reach:
        left = max(self.left, other.left, key=_far)
        return self._with_extras(other, left, max(self.right, other.right, key=_far), math.gcd)

    def _with_extras(self, other: Reach, left: int | None, right: int | None, stride: _Fold) -> Reach:
        return Reach(
            left=left,
            right=right,
            grain=math.lcm(self.grain, other.grain),  # edges of larger blocks lie further out: still a bound
            stride=stride(self.stride, other.stride),
            columns=self.columns | other.columns,
            rows=self.rows | other.rows,
            scattered=self.scattered + other.scattered,
        )


class _Fold(Protocol):
    def __call__(self, *numbers: int) -> int: ...


def itself(
    *,
    columns: frozenset[int] = frozenset(),
    rows: frozenset[int] = frozenset(),
    scattered: tuple[Scattered, ...] = (),
    grain: int = 1,
) -> Reach:
    """Return the reach of a pattern that has nothing but extras."""
    return Reach(left=0, right=0, stride=0, grain=grain, columns=columns, rows=rows, scattered=scattered)


def _far(distance: int | None) -> float:
    return math.inf if distance is None else distance
