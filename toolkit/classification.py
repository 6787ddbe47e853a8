"""One class for each item: what classifiers of texts, nodes, graphs and images share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.binding import Probability
from toolkit.choice import Choice
from toolkit.data import Spec
from toolkit.task import Row, StepOutput, Task


class Classification(Task):
    """Cross-entropy over the spec's `classes`, and rows with the probability of each.

    A subclass names its batch, the column that its items are known by, and writes `identify`.
    """

    reads_spec: ClassVar[tuple[str, ...]] = ("classes",)
    gives_model: ClassVar[tuple[str, ...]] = ("classes",)

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
        """Give each of `gives_model` as the spec has it, and the number of classes."""
        sizes = {name: self.spec[name] for name in self.gives_model if name in self.spec}
        return sizes | {"classes": len(self.spec["classes"])}

    def logits(self, batch: Any) -> Tensor:
        """Return a score for each item and class. Shapes: (S, C)."""
        found: Tensor = self.model(batch)
        return found

    def step(self, batch: Any) -> StepOutput:
        logits = self.logits(batch)
        smoothing = self.label_smoothing if self.training else 0.0
        return StepOutput(F.cross_entropy(logits, batch.target, label_smoothing=smoothing), logits, batch.target)

    @abstractmethod
    def identify(self, batch: Any) -> list[int]:
        """Return the number by which a user knows each item of the batch."""

    def rows(self, batch: Any) -> Iterator[Row]:
        assert self.item_column is not None
        logits = self.logits(batch)
        probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)  # they add up to 1
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
