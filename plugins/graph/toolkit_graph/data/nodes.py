"""Data of one graph whose nodes are to be classified: the whole graph as one batch, or sampled neighbourhoods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from toolkit.attention import EdgePattern, edges
from toolkit.binding import NonNegative, Positive
from toolkit.data import Data, Spec
from toolkit.errors import DataError
from toolkit.loading import EpochLoader, HeldLoader
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.data.features import feature_tensor, mostly_zero, row_normalised
from toolkit_graph.data.neighborhoods import Neighborhoods
from toolkit_graph.data.sampler import ALL, Draw, Sampler, sampler_for

UNLABELLED = -1
Neighbors = list[Positive | Literal[-1]]
"""How many in-neighbours are drawn at each hop around a node, one number a layer of the model; -1 for all."""
Loader = HeldLoader[GraphBatch] | EpochLoader[GraphBatch]


@dataclass(frozen=True, kw_only=True)
class NodeSet:
    """One graph as it was read.

    Shapes: features (N, F) CSR. labels (N,), -1 where a node has none. links (E, 2), each undirected edge once with
    the smaller node first, no self-loops. train, val, test: nodes. classes: names in the order of the labels.
    """

    features: scipy.sparse.csr_matrix
    labels: np.ndarray
    links: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    classes: list[str]

    def check(self, where: str) -> NodeSet:
        """Return this set if it fits together. Raises: DataError that says what does not."""
        nodes = self.features.shape[0]
        if nodes == 0:
            raise DataError(f"{where} has no nodes")
        if len(self.labels) != nodes:
            raise DataError(f"{where} has {nodes} rows of features but {len(self.labels)} labels")
        if not np.isfinite(self.features.data).all():
            bad = int(np.flatnonzero(~np.isfinite(self.features.data))[0])
            row = int(np.searchsorted(self.features.indptr, bad, side="right")) - 1
            raise DataError(f"{where}: node {row} has a feature of {self.features.data[bad]}, which is no number")
        if len(stray := self.links[(self.links < 0) | (self.links >= nodes)]):
            raise DataError(f"{where}: an edge names node {stray[0]}, but there are {nodes} nodes, from 0")
        owner: dict[int, str] = {}
        for name in ("train", "val", "test"):
            self._check_split(where, name, owner)
        return self

    def _check_split(self, where: str, name: str, owner: dict[int, str]) -> None:
        nodes, members = self.features.shape[0], getattr(self, name)
        if len(members) == 0:
            raise DataError(f"{where}: its {name} split is empty")
        if len(stray := members[(members < 0) | (members >= nodes)]):
            raise DataError(f"{where}: its {name} split names node {stray[0]}, but there are {nodes} nodes, from 0")
        if len(bare := members[self.labels[members] == UNLABELLED]):
            raise DataError(f"{where}: node {bare[0]} is in the {name} split but has no label")
        for node in members.tolist():
            if node in owner:
                raise DataError(f"{where}: node {node} is in the {name} split and before that in {owner[node]}")
            owner[node] = name


def undirected(pairs: np.ndarray) -> np.ndarray:
    """Return each edge once, smaller node first, without self-loops. Shapes: (E, 2) -> (E', 2)."""
    pairs = np.sort(pairs.reshape(-1, 2), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).astype(np.int64)


class NodeData(Data):
    """What the data modules of one graph share; a subclass reads its `NodeSet` in `read`.

    Full batch (`batch_size` None): every step sees the whole graph. Of p processes the one of rank r answers for
    nodes r, r + p, r + 2p ... of the split, so together they see each once; `total` on the batch tells the whole.
    Sampled: training draws `neighbors[i]` in-neighbours at hop i around the nodes of a step (-1: all); evaluation
    looks at all of them, so its numbers do not depend on luck. `workers` processes make the batches ahead, the same
    ones as without. See `toolkit.loading.deal` for how nodes are shared out.
    """

    def __init__(
        self,
        *,
        self_loops: bool,
        normalize: bool,
        batch_size: Positive | None,
        neighbors: Neighbors | None,
        sampler: Sampler,
        workers: NonNegative,
    ) -> None:
        super().__init__()
        if (batch_size is None) != (neighbors is None):
            raise DataError(
                "data.batch_size and data.neighbors go together: give both to train on sampled neighbourhoods, such as "
                f"batch_size: 512 and neighbors: [10, 10], or neither for the whole graph; given were {batch_size} "
                f"and {neighbors}"
            )
        if batch_size is not None and batch_size < 1:
            raise DataError(f"data.batch_size is the nodes of a step, at least 1; {batch_size} was given")
        if neighbors is not None and (not neighbors or min(neighbors) < ALL or 0 in neighbors):
            raise DataError(
                f"data.neighbors wants one number a layer, at least 1, or -1 for all neighbours; {neighbors} was given"
            )
        if batch_size is None and (workers or sampler != "auto"):
            idle, given = ("workers", workers) if workers else ("sampler", sampler)
            raise DataError(
                f"data.{idle} is for sampled neighbourhoods; {given} was given without data.batch_size and "
                "data.neighbors, but the whole graph is one batch, made once: give these two, or leave it out"
            )
        self.self_loops = self_loops
        self.normalize = normalize
        self.batch_size = batch_size
        self.neighbors = neighbors
        self.sampler = sampler
        self.workers = workers
        self._loaders: dict[tuple[str, int, int], Loader] = {}

    def read(self) -> NodeSet:
        """Read the fetched files."""
        raise NotImplementedError(f"{type(self).__name__} does not write read()")

    def load(self) -> Spec:
        self.nodes = self.read()
        self.target = torch.from_numpy(self.nodes.labels.astype(np.int64))
        self.features = row_normalised(self.nodes.features) if self.normalize else self.nodes.features
        if self.neighbors is not None:
            sampler_for(self.sampler, torch.empty(2, 0, dtype=torch.long), 1)  # a missing kernel should be told now
        return {
            "features": int(self.features.shape[1]),
            "classes": list(self.nodes.classes),
            "nodes": len(self.target),
            "edges": self.index.shape[1],
        }

    @cached_property
    def index(self) -> Tensor:
        """The edges in both directions and the self-loops if wanted, by target then source. Shapes: (2, E)."""
        links, count = self.nodes.links, self.features.shape[0]
        loops = np.repeat(np.arange(count)[:, None], 2, axis=1) if self.self_loops else np.empty((0, 2), np.int64)
        pairs = np.concatenate((links, links[:, ::-1], loops))
        return torch.from_numpy(np.ascontiguousarray(pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].T))

    @cached_property
    def pattern(self) -> EdgePattern:
        """The whole graph, one object for all splits, so that what it caches is made once."""
        return edges(self.index, self.features.shape[0])

    @cached_property
    def degree(self) -> Tensor:
        """How many edges enter each node, self-loop included. Shapes: (N,)."""
        return torch.bincount(self.index[1], minlength=self.features.shape[0])

    @cached_property
    def x(self) -> Tensor:
        return feature_tensor(self.features)

    @cached_property
    def draw(self) -> Draw:
        """The sampler; self-loops are added to what it draws, not drawn."""
        plain = self.index[:, self.index[0] != self.index[1]]
        return sampler_for(self.sampler, plain, self.features.shape[0])

    def split(self, name: str) -> Tensor:
        """Return the nodes of "train", "val" or "test", or of all for "predict"."""
        if name == "predict":
            return torch.arange(len(self.target))
        return torch.from_numpy(np.asarray(getattr(self.nodes, name), dtype=np.int64))

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        return self._loader("val")

    def test_dataloader(self) -> Loader:
        return self._loader("test")

    def predict_dataloader(self) -> Loader:
        return self._loader("predict")

    def _loader(self, name: str) -> Loader:
        key = (name, *self.share())
        if key not in self._loaders:
            self._loaders[key] = self._whole(name) if self.batch_size is None else self._sampled(name)
        return self._loaders[key]

    def _whole(self, name: str) -> Loader:
        rank, processes = self.share()
        nodes = self.split(name)
        items = nodes[rank::processes]
        batch = GraphBatch(
            x=self.x,
            pattern=self.pattern,
            items=items,
            target=self.target[items],
            total=len(nodes),
            resident=True,
        )
        return HeldLoader([batch])

    def _sampled(self, name: str) -> Loader:
        training = name == "train"
        hops = list(self.neighbors or []) if training else [ALL] * len(self.neighbors or [])
        around = Neighborhoods(
            features=self.features,
            target=self.target,
            degree=self.degree,
            draw=self.draw,
            hops=hops,
            self_loops=self.self_loops,
            sparse=mostly_zero(self.features),  # as the whole graph's, whatever this batch's happen to be
        )
        checks = torch.sparse.check_sparse_tensor_invariants
        if self.workers and not checks.is_enabled():
            checks.disable()  # as they are, but said outright: else torch warns when a worker sends sparse features
        return EpochLoader(
            self.split(name),
            around,
            batch_size=self.batch_size or 1,
            shuffle=training,
            share=self.share(),
            workers=self.workers,
        )
