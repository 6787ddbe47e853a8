"""Classification of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from toolkit.batches import Batch
from toolkit.classification import Classification
from toolkit.errors import DataError
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.labelled import EncodedTexts
from toolkit_text.data.table import read_texts
from toolkit_text.data.tokens import TokenSpec, encode

BATCH = 64


class TextClassification(Classification):
    """One class for each text. A text of several sequences gets the mean of their log-probabilities."""

    takes_batch: ClassVar[type[Batch]] = TextBatch
    reads_spec: ClassVar[tuple[str, ...]] = ("classes", "tokenizer", "max_length")
    gives_model: ClassVar[tuple[str, ...]] = ("classes", "tokens")
    item_column: ClassVar[str] = "row"

    def model_sizes(self) -> dict[str, Any]:
        return super().model_sizes() | {"tokens": TokenSpec.of(self.spec)}

    def logits(self, batch: TextBatch) -> Tensor:
        found: Tensor = self.model(batch)[: len(batch.owner)]
        if len(batch.owner) == len(batch.row):
            return found
        scores = found.float().log_softmax(-1)  # in half precision the sum over a long text would lose its last parts
        share = torch.bincount(batch.owner, minlength=len(batch.row))
        total = scores.new_zeros(len(batch.row), scores.shape[1]).index_add(0, batch.owner, scores)
        return total / share[:, None]

    def identify(self, batch: TextBatch) -> list[int]:
        rows: list[int] = batch.row.tolist()
        return rows

    def batches_of(self, texts: Sequence[str]) -> Iterator[TextBatch]:
        """Yield batches of new texts, those of similar length together; rows are their places. Raises: DataError."""
        spec = self.spec
        for place, text in enumerate(texts):
            if not text.strip():
                raise DataError(f"text {place} of {len(texts)} is empty (the first is number 0)")
        found = encode(spec["tokenizer"], texts, spec["max_length"], spec["too_long"])
        encoded = EncodedTexts(found.sequences, found.owner, list(range(len(texts))), None, spec["pad"])
        for items in encoded.lengths.argsort(stable=True).split(BATCH):
            yield encoded.batch(items)

    def read_texts(self, path: Path, columns: Sequence[str], encoding: str) -> tuple[list[int], list[str]]:
        """Return the texts of a file, and the number of the row of each: rows without text are left out, counted."""
        found = read_texts(path, columns or self.spec["columns"], None, encoding or self.spec.get("encoding", "utf-8"))
        return found.rows, found.texts
