"""What a caller wants to see beside the values, and the weights that answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from toolkit.attention.pattern import Pattern


@dataclass(frozen=True, kw_only=True)
class Need:
    """A request for weights; the default asks for every row of every head.

    rows: positions of the queries (dense) or target nodes (edges) to show; None for all.
    heads: positions of the heads to show; None for all.
    weights: give the weights themselves. False is useful with `received` or `lse`, which then need no L x L tensor.
    received: also give the mass that each key or source node receives, summed over the chosen rows.
    lse: also give the log-sum-exp of every row's scores.
    gradient: let gradients flow through the weights. They are computed by the reference backend then.
    """

    rows: Tensor | Sequence[int] | None = None
    heads: Sequence[int] | None = None
    weights: bool = True
    received: bool = False
    lse: bool = False
    gradient: bool = False


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Attention weights together with the pattern they belong to. They are the weights before dropout.

    Shapes: dense values (B, H', R, Lk) for R chosen rows and H' chosen heads, received (B, H', Lk);
    edges values (E', H') in the caller's edge order, received (Ns, H').
    edges: positions (E',) of the edges shown in the caller's index; None on dense, or when every edge is shown.
    """

    pattern: Pattern | None
    values: Tensor | None = None
    received: Tensor | None = None
    rows: Tensor | None = None
    heads: tuple[int, ...] | None = None
    edges: Tensor | None = None
