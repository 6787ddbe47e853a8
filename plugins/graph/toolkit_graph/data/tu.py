"""Sets of many small graphs to classify, in the raw text layout of the TU collection."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from toolkit.attention import edges
from toolkit.binding import NonNegative, Positive
from toolkit.data import Data, Spec
from toolkit.errors import DataError
from toolkit.loading import EpochLoader, HeldLoader, deal
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.data.tu_files import RawSet, obtain, table

FOLDS = 10
Fold = Annotated[int, Field(ge=0, lt=FOLDS)]
Loader = HeldLoader[GraphBatch] | EpochLoader[GraphBatch]
MOST_DEGREES = 512  # a degree above is counted as this one: a column for each would not fit for hubs

Features = Literal["auto", "labels", "attributes", "both", "degree"]


class TUDataset(Data):
    """Graphs with a class each, split by stratified ten-fold cross-validation.

    name: as the files are called. folder: the folder or zip they are in; else MUTAG and Cuneiform come from a package,
    and any other set from the collection's site, if `sha256` says what its zip must be (`clean`: from the site of
    sets without isomorphic copies; MUTAG, Mutagenicity and PROTEINS are known there).
    features: "labels" of nodes as one column each, "attributes" as they are, "both", "degree" as one column each, or
    "auto": labels if there are any, else attributes, else degree.
    fold: the tenth to test on; the next tenth validates, eight train; "by_seed" takes the run's seed modulo ten, so
    that ten seeds are the ten folds. split_seed: which ten tenths.
    batch_size: graphs of a step and process; steps are made equal, and every process makes as many (see `deal`).
    Raises: SourceError when the set cannot be had; DataError, with file and line, when it cannot be read.
    Source: Morris et al. 2020, arXiv:2007.08663; the protocol of Errica et al. 2020, arXiv:1912.09893.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: str | None = None,
        sha256: str | None = None,
        clean: bool = False,
        features: Features = "auto",
        self_loops: bool = True,
        batch_size: Positive = 64,
        fold: Fold | Literal["by_seed"] = 0,
        split_seed: NonNegative = 0,
    ) -> None:
        super().__init__()
        if not name or "/" in name or "\\" in name or name.startswith("."):
            raise DataError(f"data.name: {name!r} is not the name of a set, such as MUTAG or PROTEINS")
        if fold != "by_seed" and not 0 <= fold < FOLDS:
            raise DataError(f"data.fold is one of 0 to {FOLDS - 1} or by_seed; {fold} was given")
        if batch_size < 1:
            raise DataError(f"data.batch_size is the graphs of a step, at least 1; {batch_size} was given")
        if split_seed < 0:
            raise DataError(f"data.split_seed is a whole number from 0 on; {split_seed} was given")
        self.set_name = name
        self.folder = folder
        self.sha256 = sha256
        self.clean = clean
        self.kind = features
        self.self_loops = self_loops
        self.batch_size = batch_size
        self.fold = fold
        self.split_seed = split_seed
        self._sums: dict[str, str] = {}
        self._loaders: dict[tuple[str, int, int], Loader] = {}

    def prepare_data(self) -> None:
        obtain(self.set_name, self.folder, self.sha256, self.clean)

    def provenance(self) -> dict[str, str]:
        return dict(self._sums)

    def load(self) -> Spec:
        raw = obtain(self.set_name, self.folder, self.sha256, self.clean)
        self._sums = dict(raw.sums)
        self._read_graphs(raw)
        self._read_edges(raw)
        self._read_features(raw)
        fold = torch.initial_seed() % FOLDS if self.fold == "by_seed" else self.fold
        self.splits = {
            name: torch.from_numpy(members)
            for name, members in stratified(self.target.numpy(), fold, self.split_seed).items()
        }
        for name, members in self.splits.items():
            if len(members) == 0:
                raise DataError(
                    f"{self.set_name} has {len(self.target)} graphs, too few for {FOLDS} folds: {name} is empty"
                )
        return {
            "features": sum(self.widths) + self.attributes.shape[1],
            "classes": self.classes,
            "graphs": len(self.target),
        }

    def _read_graphs(self, raw: RawSet) -> None:
        labels = table(raw, "graph_labels", np.int64, columns=1)[:, 0]
        names, target = np.unique(labels, return_inverse=True)
        self.classes = [str(name) for name in names]
        self.target = torch.from_numpy(target.astype(np.int64))
        owner = table(raw, "graph_indicator", np.int64, columns=1)[:, 0] - 1
        _in_range(owner, len(labels), raw.titles["graph_indicator"], "graph")
        sizes = np.bincount(owner, minlength=len(labels))
        if (sizes == 0).any():
            raise DataError(f"{raw.titles['graph_indicator']}: graph {int(sizes.argmin()) + 1} has no nodes")
        # Nodes of one graph stand together in every set we know; where they do not, they are brought together.
        self._order = np.argsort(owner, kind="stable")
        self.owner = torch.from_numpy(owner[self._order])
        self.first_node = torch.from_numpy(np.concatenate(([0], np.cumsum(sizes))))

    def _read_edges(self, raw: RawSet) -> None:
        nodes = len(self._order)
        pairs = table(raw, "A", np.int64, columns=2) - 1
        _in_range(pairs, nodes, raw.titles["A"], "node")
        place = np.empty(nodes, dtype=np.int64)
        place[self._order] = np.arange(nodes)
        pairs = place[pairs]
        owner = self.owner.numpy()
        if (across := owner[pairs[:, 0]] != owner[pairs[:, 1]]).any():
            line = int(across.argmax()) + 1
            raise DataError(f"{raw.titles['A']}, line {line}: the edge joins two graphs")
        # Each edge once and no loops, as in PyG; sorted by target, so that a graph's edges stand together too.
        _, once = np.unique(pairs[:, 1] * nodes + pairs[:, 0], return_index=True)
        once = once[pairs[once, 0] != pairs[once, 1]]
        self.index = torch.from_numpy(np.ascontiguousarray(pairs[once].T))
        count = np.bincount(owner[pairs[once, 1]], minlength=len(self.target))
        self.first_edge = torch.from_numpy(np.concatenate(([0], np.cumsum(count))))

    def _read_features(self, raw: RawSet) -> None:
        nodes = len(self._order)
        has = {"labels": "node_labels" in raw.texts, "attributes": "node_attributes" in raw.texts, "degree": True}
        kind = next(option for option, there in has.items() if there) if self.kind == "auto" else self.kind
        for part in ("labels", "attributes"):
            if kind in (part, "both") and not has[part]:
                offers = ", ".join(option for option, there in has.items() if there)
                raise DataError(f"{self.set_name} has no node {part}; features it can give: {offers}")
        # Codes become one column each when a batch is made: the whole set as columns would be large.
        codes = np.empty((nodes, 0), dtype=np.int64)
        if kind in ("labels", "both"):
            labels = table(raw, "node_labels", np.int64, rows=nodes)[self._order]
            codes = np.stack([np.unique(column, return_inverse=True)[1] for column in labels.T], axis=1)
        elif kind == "degree":
            codes = np.bincount(self.index[1].numpy(), minlength=nodes).clip(max=MOST_DEGREES)[:, None]
        self.codes = torch.from_numpy(codes.astype(np.int64))
        self.widths = [int(column.max()) + 1 for column in codes.T]
        wanted = kind in ("attributes", "both")
        values = table(raw, "node_attributes", np.float64, rows=nodes) if wanted else np.empty((nodes, 0))
        self.attributes = torch.from_numpy(values[self._order].astype(np.float32))

    def train_dataloader(self) -> Loader:
        """Graphs in an order drawn anew each epoch from the run's seed."""
        return self._made(self.splits["train"], shuffle=True)

    def val_dataloader(self) -> Loader:
        return self._held("val")

    def test_dataloader(self) -> Loader:
        return self._held("test")

    def predict_dataloader(self) -> Loader:
        """Every graph, in the order of the files."""
        return self._made(torch.arange(len(self.target)))

    def _made(self, members: Tensor, shuffle: bool = False) -> Loader:
        return EpochLoader(
            members,
            lambda graphs, total, seed: self.batch(graphs, total),
            batch_size=self.batch_size,
            shuffle=shuffle,
            share=self.share(),
        )

    def _held(self, name: str) -> Loader:
        key = (name, *self.share())
        if key not in self._loaders:
            dealt = deal(self.splits[name], self.batch_size, *self.share())
            self._loaders[key] = HeldLoader([self.batch(*part, resident=True) for part in dealt])
        return self._loaders[key]

    def batch(self, graphs: Tensor, total: int | None = None, resident: bool = False) -> GraphBatch:
        """Lay some graphs side by side. Shapes: graphs (S,)."""
        node, graph = _stretches(self.first_node, graphs)
        edge, edge_graph = _stretches(self.first_edge, graphs)
        sizes = self.first_node[graphs + 1] - self.first_node[graphs]
        shift = torch.cumsum(sizes, 0) - sizes - self.first_node[graphs]
        index = self.index[:, edge] + shift[edge_graph]
        if self.self_loops:
            index = torch.cat((index, torch.arange(len(node)).expand(2, -1)), dim=1)
        columns = [
            torch.nn.functional.one_hot(self.codes[node, place], width).float()
            for place, width in enumerate(self.widths)
        ]
        return GraphBatch(
            x=torch.cat((*columns, self.attributes[node]), dim=1),
            pattern=edges(index, len(node)),
            target=self.target[graphs],
            total=total,
            graph=graph,
            graph_ids=graphs,
            num_graphs=len(graphs),
            node_ids=node,
            resident=resident,
        )


def stratified(target: np.ndarray, fold: int, seed: int) -> dict[str, np.ndarray]:
    """Split so that every tenth has its share of each class: test on one, validate on the next, train on eight."""
    draw = np.random.default_rng(seed)
    tenth = np.empty(len(target), dtype=np.int64)
    dealt = 0  # go on where the last class ended, or the first tenths would get all the remainders
    for label in np.unique(target):
        members = draw.permutation(np.flatnonzero(target == label))
        tenth[members] = (dealt + np.arange(len(members))) % FOLDS
        dealt += len(members)
    test, val = tenth == fold, tenth == (fold + 1) % FOLDS
    return {"train": np.flatnonzero(~(test | val)), "val": np.flatnonzero(val), "test": np.flatnonzero(test)}


def _stretches(first: Tensor, graphs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions from first[g] to first[g + 1] for each g, and which of `graphs` each belongs to."""
    count = first[graphs + 1] - first[graphs]
    owner = torch.repeat_interleave(torch.arange(len(graphs)), count)
    before = torch.cumsum(count, 0) - count
    return first[graphs][owner] + torch.arange(len(owner)) - before[owner], owner


def _in_range(found: np.ndarray, count: int, title: str, what: str) -> None:
    bad = (found < 0) | (found >= count)
    if bad.any():
        line = int(np.argwhere(bad)[0][0])
        value = int(found[bad][0]) + 1
        raise DataError(f"{title}, line {line + 1}: there is no {what} {value}; they are 1 to {count}")
