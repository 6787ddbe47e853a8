"""Language modelling: foretelling each token from those before it, and writing on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor

from toolkit.batches import Batch
from toolkit.choice import Choice
from toolkit.data import Spec
from toolkit.decoding.sampling import Sampling, sample
from toolkit.task import Row, StepOutput, Task
from toolkit.trained import Written
from toolkit_text.data.stream import WindowBatch
from toolkit_text.data.token_bytes import Utf8, token_bytes, without_marks
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.language_decoder import LanguageDecoder, room
from toolkit_text.models.language_model import LanguageModel

WRITTEN = 200
"""Tokens that are written when nobody said how many."""


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
        self.tokenizer = without_marks(Tokenizer.from_str(self.spec["tokenizer"]))
        self.bytes = token_bytes(self.tokenizer)

    def model_sizes(self) -> dict[str, Any]:
        return {"tokens": TokenSpec.of(self.spec)}

    def step(self, batch: WindowBatch) -> StepOutput:
        loss, nats = self.model(batch)
        return StepOutput(loss, nats, batch.target)

    def rows(self, batch: WindowBatch) -> Iterator[Row]:
        nats = self.model(batch)[1].double()
        owner = self._owner(batch)
        bits = nats.new_zeros(len(batch.row)).index_add(0, owner, nats) / math.log(2)
        num_bytes = [0] * len(batch.row)
        for window, token in zip(owner.tolist(), batch.target.tolist(), strict=True):
            num_bytes[window] += len(self.bytes[token])
        for window, document, taken, size in zip(
            batch.row.tolist(), batch.documents, bits.tolist(), num_bytes, strict=True
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

    def write(
        self, prompt: str, *, num: int = 1, tokens: int | None = None, sampling: Sampling
    ) -> Iterator[list[Written]]:
        """Yield what is new of each of `num` texts that go on from a prompt, step by step; see `WritesText`.

        An empty prompt begins a new document. A text ends where its document would.
        Raises: ShapeError, CapabilityError as `LanguageDecoder`.
        """
        model = cast(LanguageModel, self.model)
        begun = [self.spec["end"], *self.tokenizer.encode(prompt, add_special_tokens=False).ids]
        free = room(model, len(begun))
        tokens = max(1, min(WRITTEN, free)) if tokens is None else tokens
        decoder = LanguageDecoder(model, batch=num, length=len(begun) + tokens)
        start = torch.tensor(begun, device=self.device).expand(num, -1)
        texts = [Utf8() for _ in range(num)]
        for step in sample(
            decoder, start, tokens=tokens, sampling=sampling, stop=[self.spec["end"]], forbidden=[self.spec["pad"]]
        ):
            yield [
                Written("" if token is None else text.take(self.bytes[token]), int(token is not None))
                for text, token in zip(texts, step, strict=True)
            ]
        yield [Written(text.rest(), 0) for text in texts]
