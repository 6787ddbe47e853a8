"""Classification of texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.batches import Batch
from toolkit.binding import NonNegativeFloat
from toolkit.classification import Classification
from toolkit.errors import DataError, RecipeError, ToolkitWarning
from toolkit.task import StepOutput
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.encoded import EncodedTexts
from toolkit_text.data.table import Written, read_parts
from toolkit_text.data.tokens import TokenSpec, encode

BATCH = 64
PLACES = 32_768
"""Places of tokens that evaluation reads at a time: a text may have any number of sequences."""

ROWS = 16_384
"""Rows of a file that are predicted together: those of similar length then share batches."""


class TextClassification(Classification):
    """One class for each text. A text of several sequences gets the mean of their log-probabilities.

    adversarial: how far the token vectors of a sequence, all together, are shifted to where the loss grows fastest, in
    units of the usual length of one vector; training then adds the loss there (Miyato et al. 2017, arXiv:1605.07725,
    eqs. 2 to 4, where vectors are normalised instead). 0 is training as usual, at half the time.
    The rest is `Classification`'s.
    """

    takes_batch: ClassVar[type[Batch]] = TextBatch
    reads_spec: ClassVar[tuple[str, ...]] = ("classes", "tokenizer", "max_length")
    gives_model: ClassVar[tuple[str, ...]] = ("classes", "tokens")
    item_column: ClassVar[str] = "row"

    def __init__(self, *, adversarial: NonNegativeFloat = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.adversarial = adversarial
        if adversarial and not hasattr(self.model, "vectors"):
            raise RecipeError(
                f"task.adversarial={adversarial} shifts token vectors, but {type(self.model).__name__} does not say "
                "which module gives them (`vectors`)"
            )
        if adversarial and not any(weight.requires_grad for weight in self._vectors.parameters()):
            raise RecipeError(
                f"task.adversarial={adversarial} shifts token vectors, but these are frozen: train them "
                "(model.freeze=false), or leave it at 0"
            )

    @property
    def _vectors(self) -> nn.Module:
        return cast(nn.Module, self.model.vectors)

    def model_sizes(self) -> dict[str, Any]:
        return super().model_sizes() | {"tokens": TokenSpec.of(self.spec)}

    def logits(self, batch: TextBatch) -> Tensor:
        found = self._of_sequences(batch)[: len(batch.owner)]
        if len(batch.owner) == len(batch.row):
            return found
        scores = found.float().log_softmax(-1)  # in half precision the sum over a long text would lose its last parts
        share = torch.bincount(batch.owner, minlength=len(batch.row))
        total = scores.new_zeros(len(batch.row), scores.shape[1]).index_add(0, batch.owner, scores)
        return total / share[:, None]

    def _of_sequences(self, batch: TextBatch) -> Tensor:
        count, length = batch.tokens.shape
        most = max(1, PLACES // length)
        if self.training or count <= most:
            found: Tensor = self.model(batch)
            return found
        parts = []
        for first in range(0, count, most):
            chosen = slice(first, first + most)
            lengths = batch.lengths[chosen]
            tokens = batch.tokens[chosen, : int(lengths.max())]
            parts.append(self.model(replace(batch, tokens=tokens, lengths=lengths, owner=batch.owner[chosen])))
        return torch.cat(parts)

    def step(self, batch: TextBatch) -> StepOutput:
        if not self.adversarial or not self.training or not len(batch.target):
            return super().step(batch)
        seen: list[Tensor] = []
        hook = self._vectors.register_forward_hook(lambda module, given, output: seen.append(output))
        try:
            output = super().step(batch)
        finally:
            hook.remove()
        (slope,) = torch.autograd.grad(output.loss, seen, retain_graph=True)
        shift = self._shift(seen[0].detach(), slope, batch.mask)
        hook = self._vectors.register_forward_hook(lambda module, given, output: output + shift)
        try:
            shifted = super().step(batch)
        finally:
            hook.remove()
        return output._replace(loss=output.loss + shifted.loss)

    def _shift(self, vectors: Tensor, slope: Tensor, mask: Tensor) -> Tensor:
        """Return the shift of each sequence's vectors. Shapes: vectors, slope (B, L, D), mask (B, L) -> (B, L, D)."""
        usual = vectors.float().norm(dim=-1)[mask].mean()  # what fills up a batch has no length, or says nothing
        steepest = F.normalize(slope.float().flatten(1), dim=1).view_as(slope)
        return (self.adversarial * usual * steepest).to(vectors.dtype)

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
        if found.cut and spec["too_long"] == "truncate":
            warnings.warn(
                ToolkitWarning(
                    f"{found.cut} of {len(texts)} texts are longer than the {spec['max_length']} tokens that this run "
                    "reads and cut off; one trained with data.too_long=slide reads all of them"
                ),
                stacklevel=2,
            )
        encoded = EncodedTexts.of(found.sequences, found.owner, list(range(len(texts))), None, spec["pad"])
        for items in encoded.lengths.argsort(stable=True).split(BATCH):
            yield encoded.batch(items)

    def read_texts(self, path: Path, columns: Sequence[str], encoding: str) -> Iterator[tuple[list[int], list[str]]]:
        """Yield the texts of a file part by part, and the number of the row of each; rows without text are left out."""
        written = Written(encoding or self.spec.get("encoding", "utf-8"))
        for part in read_parts(path, columns or self.spec["columns"], None, written, ROWS):
            yield part.rows, part.texts
