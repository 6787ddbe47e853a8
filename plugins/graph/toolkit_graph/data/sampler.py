"""Neighbourhoods drawn from a graph too large for one batch: plain vectorised torch, or PyG's kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from toolkit.errors import DataError, MissingExtraError

ALL = -1
Sampler = Literal["auto", "pyg", "torch"]
Draw = Callable[[Tensor, Sequence[int], int], tuple[Tensor, Tensor]]
"""(seeds, neighbours a hop, seed of the draw) -> (nodes, seeds first; index (2, E) among these)."""


class TorchSampler:
    """Draws in-neighbours without replacement, hop by hop, from the edges sorted by target.

    Shapes: index (2, E) source -> target over `num_nodes` nodes. Source: Hamilton et al. 2017, arXiv:1706.02216,
    algorithm 2; as in PyG each node is expanded once, when it is first met.
    """

    def __init__(self, index: Tensor, num_nodes: int) -> None:
        order = torch.argsort(index[1], stable=True)
        self.source = index[0][order]
        self.pointer = torch.zeros(num_nodes + 1, dtype=torch.long)
        torch.cumsum(torch.bincount(index[1], minlength=num_nodes), 0, out=self.pointer[1:])
        self.num_nodes = num_nodes

    def __call__(self, seeds: Tensor, neighbors: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """Return the nodes met, seeds first, and the edges drawn among them. Raises: DataError for a repeated seed."""
        generator = torch.Generator().manual_seed(seed)
        place = torch.full((self.num_nodes,), -1)
        place[seeds] = torch.arange(len(seeds))
        if len(seeds) and not torch.equal(place[seeds], torch.arange(len(seeds))):
            raise DataError("a node stands twice among the nodes to sample around")
        nodes, frontier, edges = [seeds], seeds, []
        met = len(seeds)
        for most in neighbors:
            source, target = self._draw(frontier, most, generator)
            edges.append(torch.stack((source, target)))
            fresh = torch.unique(source[place[source] < 0])
            place[fresh] = torch.arange(met, met + len(fresh))
            met += len(fresh)
            nodes.append(fresh)
            frontier = fresh
        return torch.cat(nodes), place[torch.cat(edges, dim=1)] if edges else torch.empty(2, 0, dtype=torch.long)

    def _draw(self, targets: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return up to `most` in-edges of each target, all of them for -1."""
        start, degree = self.pointer[targets], self.pointer[targets + 1] - self.pointer[targets]
        row = torch.repeat_interleave(torch.arange(len(targets)), degree)
        first = torch.cumsum(degree, 0) - degree  # where each target's edges begin among the candidates
        rank = torch.arange(len(row)) - first[row]
        edge = start[row] + rank
        if most != ALL:
            # A random key within each target's own stretch: the sort shuffles every neighbourhood at once. Stable, for
            # a fraction next to 1 rounds up to the next stretch.
            shuffled = torch.argsort(row + torch.rand(len(row), generator=generator, dtype=torch.float64), stable=True)
            edge, row = edge[shuffled[rank < most]], row[rank < most]
        return self.source[edge], targets[row]


class PygSampler:
    """The same draw by PyG's compiled kernels."""

    def __init__(self, index: Tensor, num_nodes: int) -> None:
        if not kernels():
            raise MissingExtraError(
                "sampler: pyg needs the compiled kernels pyg-lib or torch-sparse, which are not installed "
                "(https://pytorch-geometric.readthedocs.io, Installation). sampler: torch needs nothing."
            )
        from torch_geometric.data import Data as PygData

        self.data = PygData(edge_index=index, num_nodes=num_nodes)
        self._samplers: dict[tuple[int, ...], Any] = {}  # each holds a sorted copy of the graph

    def __call__(self, seeds: Tensor, neighbors: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """Return the nodes met, seeds first, and the edges drawn among them."""
        from torch_geometric.loader import NeighborLoader
        from torch_geometric.sampler import NeighborSampler

        if len(seeds) == 0:
            return seeds, torch.empty(2, 0, dtype=torch.long)
        hops = tuple(neighbors)
        if hops not in self._samplers:
            self._samplers[hops] = NeighborSampler(self.data, list(hops))
        loader = NeighborLoader(
            self.data, list(hops), seeds, neighbor_sampler=self._samplers[hops], batch_size=len(seeds)
        )
        with torch.random.fork_rng(devices=[]):  # the kernels draw from torch's global generator
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that seeds the devices' generators too
            batch = next(iter(loader))
        return batch.n_id, batch.edge_index


def kernels() -> bool:
    """Return whether PyG's neighbour sampling kernels are installed and load."""
    if all(importlib.util.find_spec(name) is None for name in ("pyg_lib", "torch_sparse")):
        return False  # told without the seconds that importing PyG takes
    from torch_geometric import typing

    return bool(typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE)


def sampler_for(kind: Sampler, index: Tensor, num_nodes: int) -> Draw:
    """Return the sampler that `kind` names; "auto" takes PyG's kernels where they are installed.

    Raises: MissingExtraError where "pyg" is asked for and its kernels are not installed.
    """
    if kind == "pyg" or (kind == "auto" and kernels()):
        return PygSampler(index, num_nodes)
    return TorchSampler(index, num_nodes)
