"""The pattern of a graph: a list of edges, with the sorted orders that segment operations need, built once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.pattern import Lengths, Pattern, describe
from toolkit.errors import CapabilityError, ShapeError


@dataclass(frozen=True, eq=False)
class Spread:
    """One edge order spread over heads, so that one bag sums the edges of one (node, head).

    Shapes: column (E * H,) rows of a (N * H, D) table, pick (E * H,) places in weights (E, H) kept in target order,
    pointer (N * H + 1,).
    """

    column: Tensor
    pick: Tensor
    pointer: Tensor


@dataclass(frozen=True, eq=False)
class Order:
    """The edges sorted by one end (compressed sparse rows).

    Shapes: perm (E,) the caller's position of each sorted edge, pointer (N + 1,), near (E,) the end sorted by,
    far (E,) the other end, place (E,) the position of each sorted edge in the order by target. num_far: how many nodes
    there are at the other end.
    """

    perm: Tensor
    pointer: Tensor
    near: Tensor
    far: Tensor
    place: Tensor
    num_far: int

    @cached_property
    def count(self) -> Tensor:
        """How many edges each node of this end has. Shapes: (N,)."""
        return self.pointer.diff()

    @cached_property
    def steps(self) -> Tensor:
        """0, 1, 2 ... over the sorted edges. Shapes: (E,)."""
        return torch.arange(len(self.near), device=self.near.device, dtype=self.near.dtype)

    @cached_property
    def _spreads(self) -> dict[int, Spread]:
        return {}

    def spread(self, heads: int) -> Spread:
        """Return this order spread over `heads`."""
        if heads not in self._spreads:
            self._spreads[heads] = self._spread(heads)
        return self._spreads[heads]

    def _spread(self, heads: int) -> Spread:
        num_edges, device = len(self.near), self.near.device
        kind = _index_type(num_edges * heads, len(self.pointer) * heads, self.num_far * heads)
        head = torch.arange(heads, device=device)
        start, near = self.pointer.long(), self.near.long()
        count = start.diff()
        step = torch.arange(num_edges, device=device) - start[near]
        slot = ((start[near] * heads + step)[:, None] + head * count[near, None]).reshape(-1)
        column, pick = (torch.empty(num_edges * heads, dtype=kind, device=device) for _ in range(2))
        column[slot] = (self.far.long()[:, None] * heads + head).reshape(-1).to(kind)
        pick[slot] = (self.place.long()[:, None] * heads + head).reshape(-1).to(kind)
        pointer = torch.zeros(len(count) * heads + 1, dtype=torch.int64, device=device)
        torch.cumsum(count.repeat_interleave(heads), 0, out=pointer[1:])
        return Spread(column, pick, pointer.to(kind))


@dataclass(frozen=True, eq=False)
class EdgePattern(Pattern):
    """Edges `index[0] -> index[1]`: target `index[1]` may look at source `index[0]`. Made by `edges(...)`.

    Shapes: index (2, E) int64. The caller's order of edges, repeated ones included, is that of all weights and biases.
    """

    index: Tensor
    num_targets: int
    num_sources: int
    narrows_first = True

    @property
    def num_edges(self) -> int:
        return self.index.shape[1]

    @cached_property
    def by_target(self) -> Order:
        """The edges sorted by target, ties in the caller's order."""
        perm, pointer, near, far = self._sorted(self.index[1], self.index[0], self.num_targets)
        place = torch.arange(len(perm), device=perm.device, dtype=perm.dtype)
        return Order(perm, pointer, near, far, place, self.num_sources)

    @cached_property
    def by_source(self) -> Order:
        """The edges sorted by source, ties in the caller's order."""
        perm, pointer, near, far = self._sorted(self.index[0], self.index[1], self.num_sources)
        return Order(perm, pointer, near, far, self.rank[perm.long()], self.num_targets)

    @cached_property
    def rank(self) -> Tensor:
        """Where each of the caller's edges stands in the order by target. Shapes: (E,)."""
        return torch.empty_like(self.by_target.perm).scatter_(0, self.by_target.perm.long(), self.by_target.place)

    def _sorted(self, near: Tensor, far: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = _index_type(self.num_edges, self.num_targets, self.num_sources)
        ordered, perm = torch.sort(near, stable=True)
        nodes = torch.arange(num_nodes + 1, device=near.device)
        return perm.to(kind), torch.searchsorted(ordered, nodes).to(kind), ordered.to(kind), far[perm].to(kind)

    @cached_property
    def cache(self) -> dict[Any, Any]:
        """Room for what others derive from these edges alone, such as normalised weights or receptive fields."""
        return {}

    @cached_property
    def _copies(self) -> dict[torch.device, EdgePattern]:
        return {}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EdgePattern:
        """Return these edges on `device`; the same object again on the next call, so that what is cached stays."""
        device = torch.device(device)
        if device == self.index.device:
            return self
        if device not in self._copies:
            index = self.index.to(device, non_blocking=non_blocking)
            self._copies[device] = EdgePattern(index, self.num_targets, self.num_sources)
        return self._copies[device]

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        if shape != (self.num_targets, self.num_sources):
            ends = f"{self.num_targets} targets and {self.num_sources} sources"
            raise ShapeError(f"edges connects {ends} but there are {shape.queries} queries and {shape.keys} keys")

    @cached_property
    def repeated(self) -> bool:
        """Whether some edge is listed twice."""
        flat = self.index[1] * self.num_sources + self.index[0]
        return len(flat.unique()) < self.num_edges

    @cached_property
    def table(self) -> Tensor:
        """The edges as a dense mask (Nt, Ns).

        Raises: CapabilityError if an edge is repeated, for a mask cannot hold it twice.
        """
        if self.repeated:
            raise CapabilityError("a dense mask cannot hold repeated edges; use the edge layout, q of shape (Nt, H, D)")
        table = torch.zeros(self.num_targets, self.num_sources, dtype=torch.bool, device=self.index.device)
        table[self.index[1], self.index[0]] = True
        return table

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return self.table[i, j]

    def __and__(self, other: Pattern) -> Pattern:
        """Keep the edges that `other` allows too, in the caller's order.

        Raises: CapabilityError for another edge list or for a pattern that differs between samples or heads.
        """
        if not isinstance(other, Pattern):
            return NotImplemented
        if isinstance(other, EdgePattern) or other.per_sample or other.per_head:
            raise CapabilityError(
                f"edges & {describe(other)} is not one edge list for all; narrow the index itself, or attend densely "
                "with dense(edges.table)"
            )
        zero = self.index.new_zeros(())
        shape = Lengths(self.num_targets, self.num_sources)
        keep = other.allowed(zero, zero, self.index[1], self.index[0], shape).expand(self.num_edges)
        return EdgePattern(self.index[:, keep], self.num_targets, self.num_sources)


def _index_type(*sizes: int) -> torch.dtype:
    """Return the narrow type if all indices into these sizes fit: it is what sums over edges read fastest."""
    return torch.int32 if max(sizes) < 2**31 else torch.int64


def edges(index: Tensor, num_targets: int, num_sources: int | None = None) -> EdgePattern:
    """Edges from source `index[0]` to target `index[1]`.

    Shapes: index (2, E) integers. Targets and sources are the same nodes unless `num_sources` is given.
    Raises: ShapeError if the index has another shape or type, or names a node that does not exist.
    """
    num_sources = num_targets if num_sources is None else num_sources
    if index.dim() != 2 or index.shape[0] != 2 or index.dtype not in (torch.int32, torch.int64):
        raise ShapeError(f"edges wants integers of shape (2, E), but {index.dtype} {tuple(index.shape)} was given")
    if index.shape[1]:
        low, high = int(index.min()), index.amax(1).tolist()
        if low < 0 or high[0] >= num_sources or high[1] >= num_targets:
            raise ShapeError(
                f"edges names source {high[0]} of {num_sources} and target {high[1]} of {num_targets}, lowest {low}; "
                "index[0] is the source, index[1] the target"
            )
    return EdgePattern(index.long(), num_targets, num_sources)


def to_edges(pattern: Pattern, queries: int, keys: int, *, device: torch.device | str | None = None) -> EdgePattern:
    """List the pairs that a pattern allows as edges, by query and then by key.

    Raises: CapabilityError if the pattern differs between samples or heads.
    """
    if pattern.per_sample or pattern.per_head:
        raise CapabilityError(f"{describe(pattern)} differs between samples or heads, and an edge list is one for all")
    target, source = pattern.mask(queries, keys, device=device)[0, 0].nonzero(as_tuple=True)
    return EdgePattern(torch.stack([source, target]), queries, keys)
