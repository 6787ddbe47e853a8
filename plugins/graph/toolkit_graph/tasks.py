"""Classification of nodes and of whole graphs."""

from __future__ import annotations

from typing import ClassVar

import torch

from toolkit.batches import Batch
from toolkit.classification import Classification
from toolkit_graph.data.batch import GraphBatch


class GraphTask(Classification):
    """What node and graph classification share: a model over a `GraphBatch`."""

    takes_batch: ClassVar[type[Batch]] = GraphBatch
    reads_spec: ClassVar[tuple[str, ...]] = ("features", "classes")
    gives_model: ClassVar[tuple[str, ...]] = ("features", "classes")


class NodeClassification(GraphTask):
    """One class for each node: transductive when the batch is the whole graph, inductive when it is sampled.

    Source: arXiv:1710.10903, section 3.
    """

    item_column: ClassVar[str] = "node"

    def identify(self, batch: GraphBatch) -> list[int]:
        items = batch.items if batch.items is not None else torch.arange(batch.num_nodes, device=batch.x.device)
        ids: list[int] = (items if batch.node_ids is None else batch.node_ids[items]).tolist()
        return ids


class GraphClassification(GraphTask):
    """One class for each graph of a batch; the model pools nodes into graphs."""

    item_column: ClassVar[str] = "graph"

    def identify(self, batch: GraphBatch) -> list[int]:
        assert batch.graph_ids is not None
        ids: list[int] = batch.graph_ids.tolist()
        return ids
