"""Classification of nodes and of whole graphs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.batches import Batch
from toolkit.binding import Probability
from toolkit.choice import Choice
from toolkit.data import Spec
from toolkit.task import Row, StepOutput, Task
from toolkit_graph.data.batch import GraphBatch


class GraphTask(Task):
    """What node and graph classification share: a model over a `GraphBatch`, cross-entropy, rows of probabilities."""

    takes_batch: ClassVar[type[Batch]] = GraphBatch
    reads_spec: ClassVar[tuple[str, ...]] = ("features", "classes")
    gives_model: ClassVar[tuple[str, ...]] = ("features", "classes")
    item_column: ClassVar[str]

    def __init__(
        self,
        *,
        spec: Spec,
        model: Choice,
        metrics: list[str] = ["accuracy"],  # noqa: B006 - bound and stored as plain values, never changed
        label_smoothing: Probability = 0.0,
    ) -> None:
        super().__init__(spec=spec, model=model, metrics=metrics)
        self.label_smoothing = label_smoothing

    def model_sizes(self) -> dict[str, Any]:
        return {"features": self.spec["features"], "classes": len(self.spec["classes"])}

    def step(self, batch: GraphBatch) -> StepOutput:
        logits: Tensor = self.model(batch)  # (S, C)
        smoothing = self.label_smoothing if self.training else 0.0
        return StepOutput(F.cross_entropy(logits, batch.target, label_smoothing=smoothing), logits, batch.target)

    @abstractmethod
    def identify(self, batch: GraphBatch) -> list[int]:
        """Return the number by which a user knows each item of the batch."""

    def rows(self, batch: GraphBatch) -> Iterator[Row]:
        probabilities = self.model(batch).softmax(-1)
        best = probabilities.max(-1)
        classes = self.spec["classes"]
        listed = probabilities.tolist()
        for item, index, peak, each in zip(
            self.identify(batch), best.indices.tolist(), best.values.tolist(), listed, strict=True
        ):
            yield {
                self.item_column: item,
                "class": classes[index],
                "probability": peak,
                "probabilities": dict(zip(classes, each, strict=True)),
            }


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
