"""Language modelling: foretelling each token from those before it, and writing on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from toolkit.batches import Batch
from toolkit.choice import Choice
from toolkit.data import Spec
from toolkit.task import Row, StepOutput, Task
from toolkit_text.data.stream import WindowBatch, token_bytes
from toolkit_text.data.tokens import TokenSpec


class LanguageModelling(Task):
    """Cross-entropy of every token, metrics from the nats of each, and rows with the bits per byte of each window."""

    takes_batch: ClassVar[type[Batch]] = WindowBatch
    reads_spec: ClassVar[tuple[str, ...]] = ("tokenizer", "end", "max_length")
    gives_model: ClassVar[tuple[str, ...]] = ("tokens",)
    item_column: ClassVar[str] = "window"

    def __init__(
        self,
        *,
        spec: Spec,
        model: Choice,
        metrics: list[str] = ["perplexity", "bits_per_byte"],  # noqa: B006 - stored as plain values, never changed
    ) -> None:
        super().__init__(spec=spec, model=model, metrics=metrics)
        self.tokenizer = Tokenizer.from_str(self.spec["tokenizer"])
        self.sizes = torch.tensor(token_bytes(self.tokenizer))

    def model_sizes(self) -> dict[str, Any]:
        return {"tokens": TokenSpec.of(self.spec)}

    def step(self, batch: WindowBatch) -> StepOutput:
        loss, nats = self.model(batch)
        return StepOutput(loss, nats, batch.target)

    def rows(self, batch: WindowBatch) -> Iterator[Row]:
        nats = self.model(batch)[1].double()
        owner = self._owner(batch)
        count = len(batch.row)
        bits = nats.new_zeros(count).index_add(0, owner, nats) / math.log(2)
        sizes = self.sizes.to(batch.target.device)[batch.target]
        num_bytes = sizes.new_zeros(count).index_add(0, owner, sizes)
        for window, document, taken, size in zip(
            batch.row.tolist(), batch.documents, bits.tolist(), num_bytes.tolist(), strict=True
        ):
            yield {
                "window": window,
                "document": document,
                "bytes": size,
                "bits": taken,
                "bits_per_byte": taken / size if size else None,
            }

    @staticmethod
    def _owner(batch: WindowBatch) -> Tensor:
        """Return the window of each target, by its place in the batch."""
        if batch.scored is None:
            return torch.arange(len(batch.row), device=batch.row.device).repeat_interleave(batch.tokens.shape[1])
        return batch.scored[: len(batch.row)].nonzero()[:, 0]
