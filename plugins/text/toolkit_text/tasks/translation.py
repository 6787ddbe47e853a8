"""Reading a text and writing another."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from toolkit.batches import Batch
from toolkit.binding import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from toolkit.choice import Choice
from toolkit.data import Spec
from toolkit.decoding.beam import Hypothesis, beam_search
from toolkit.errors import CapabilityError, DataError, ToolkitWarning
from toolkit.task import Row, StepOutput, Task
from toolkit.trained import Alignment
from toolkit_text.data.lines import read_lines
from toolkit_text.data.pair_batch import PairBatch
from toolkit_text.data.parallel import EncodedPairs, Pairs, tokens_of
from toolkit_text.data.table import SUFFIXES, read_parts, suffix
from toolkit_text.data.table import Written as FileForm
from toolkit_text.models.translator import PairSpec, Translator

BATCH, ROWS = 64, 10_000


class Translation(Task):
    """Cross-entropy of each target token, after the true ones before it; texts are written by beam search.

    label_smoothing: of training. beams, length_penalty: of tests and predictions, see `beam_search`; validation writes
    greedily. length_ratio, length_margin: a translation has length_ratio * (tokens read) + length_margin tokens at
    most.
    Source of label smoothing: Szegedy et al. 2016, arXiv:1512.00567.
    """

    takes_batch: ClassVar[type[Batch]] = PairBatch
    reads_spec: ClassVar[tuple[str, ...]] = (
        *("tokenizer", "target_tokenizer", "vocabulary", "target_vocabulary"),
        *("pad", "begin", "end", "max_length"),
    )
    gives_model: ClassVar[tuple[str, ...]] = ("tokens",)
    item_column: ClassVar[str] = "row"

    def __init__(
        self,
        *,
        spec: Spec,
        model: Choice,
        metrics: list[str] = ["bleu"],  # noqa: B006 - bound and stored as plain values, never changed
        label_smoothing: Probability = 0.1,
        beams: Positive = 5,
        length_penalty: NonNegativeFloat = 1.0,
        length_ratio: PositiveFloat = 1.5,
        length_margin: NonNegative = 10,
    ) -> None:
        super().__init__(spec=spec, model=model, metrics=metrics)
        self.label_smoothing = label_smoothing
        self.beams, self.length_penalty = beams, length_penalty
        self.length_ratio, self.length_margin = length_ratio, length_margin
        self.writer = Tokenizer.from_str(spec["target_tokenizer"] or spec["tokenizer"])

    def model_sizes(self) -> dict[str, Any]:
        return {"tokens": PairSpec.of(self.spec)}

    def step(self, batch: PairBatch) -> StepOutput:
        logits, target = self.model(batch).float(), batch.tokens
        smoothing = self.label_smoothing if self.training else 0.0
        return StepOutput(F.cross_entropy(logits, target, label_smoothing=smoothing), logits, target)

    def beside(self, stage: str, name: str, batch: Any) -> Any:
        """Give metrics the translations of a batch as well: `written`, greedily for validation."""
        if name != "written":
            return super().beside(stage, name, batch)
        beams = 1 if stage == "val" else self.beams
        return [self.text(found[0]) for found in self.written(batch, beams=beams)]

    @torch.no_grad()
    def written(self, batch: PairBatch, *, beams: int, best: int = 1) -> list[list[Hypothesis]]:
        """Write the translations of a batch: the `best` of each, best first."""
        if not len(batch.row):
            return []
        limits = (batch.source_lengths * self.length_ratio).long() + self.length_margin
        limits = limits.clamp(1, self.spec["max_length"])
        return beam_search(
            cast(Translator, self.model).begin(batch, int(limits.max())),
            begin=self.spec["begin"],
            end=self.spec["end"],
            limits=limits,
            beams=beams,
            length_penalty=self.length_penalty,
            best=best,
            forbidden=(self.spec["pad"], self.spec["begin"]),
        )

    def text(self, hypothesis: Hypothesis) -> str:
        """Return what was written as text."""
        return self.writer.decode(hypothesis.tokens, skip_special_tokens=False).strip()

    def rows(self, batch: PairBatch) -> Iterator[Row]:
        for row, found in zip(batch.row.tolist(), self.written(batch, beams=self.beams), strict=True):
            best = found[0]
            yield {"row": row, "translation": self.text(best), "score": best.score}

    def batches_of(self, texts: Sequence[str]) -> Iterator[PairBatch]:
        """Yield batches of new texts, those of similar length together; rows are their places. Raises: DataError."""
        for place, text in enumerate(texts):
            if not text.strip():
                raise DataError(f"text {place} of {len(texts)} is empty (the first is number 0)")
        encoded = self.encoded(texts)
        for items in encoded.lengths[:, 1].argsort(stable=True).split(BATCH):
            yield encoded.batch(items)

    def encoded(self, texts: Sequence[str], targets: Sequence[Sequence[int]] | None = None) -> EncodedPairs:
        """Return texts as they are read, cut off past max_length, beside the tokens of what is written, if known."""
        room = self.spec["max_length"] - 1
        source = tokens_of(self.spec["tokenizer"], [text.strip() for text in texts])
        empty: list[list[int]] = [[] for _ in texts]
        pairs = Pairs(list(texts), [""] * len(texts), list(range(len(texts))))
        return EncodedPairs([each[:room] for each in source], targets or empty, pairs, self.spec)

    def read_texts(self, path: Path, columns: Sequence[str], encoding: str) -> Iterator[tuple[list[int], list[str]]]:
        """Yield the texts of a file part by part, and the number of the row of each; rows without text are left out.

        A file is one of lines unless it is a table by its name; `columns` of a run trained on lines must be named.
        """
        encoding, columns = encoding or self.spec["encoding"], columns or self.spec["columns"]
        if suffix(path) in SUFFIXES:
            if not columns:
                raise DataError(f"{path} is a table: name its column with the text (--column)")
            for part in read_parts(path, columns, None, FileForm(encoding), ROWS):
                yield part.rows, part.texts
            return
        lines = [line.strip() for line in read_lines(path, encoding)]
        rows = [row for row, line in enumerate(lines) if line]
        if len(rows) < len(lines):
            told = f"{path}: {len(lines) - len(rows)} of {len(lines)} lines are empty and left out"
            warnings.warn(ToolkitWarning(told), stacklevel=2)
        yield rows, [lines[row] for row in rows]

    def align(self, text: str, *, layer: int | None = None, head: int | None = None) -> Alignment:
        """Translate a text, and return how much of each of its tokens every written token was made from.

        layer, head: of which attention to the source, counted from 0; the mean of all by default.
        Raises: DataError for an empty text; CapabilityError for a model without attention, layer or head.
        """
        batch = next(self.batches_of([text]))
        best = self.written(batch, beams=self.beams)[0][0]
        source, written = batch.source[0].tolist(), [*best.tokens, self.spec["end"]]
        again = self.encoded([text], [best.tokens]).batch(torch.zeros(1, dtype=torch.long))
        looked = cast(Translator, self.model).attention_weights(again)
        layers = [found.values[0] for found in looked if found.values is not None]
        if not layers:
            raise CapabilityError(f"{type(self.model).__name__} looks at its source by no attention: nothing to align")
        heads = [each for found in _one(layers, layer, "layer") for each in _one(list(found), head, "head")]
        reader = Tokenizer.from_str(self.spec["tokenizer"])
        return Alignment(
            [self._label(reader, token) for token in source],
            [self._label(self.writer, token) for token in written],
            torch.stack(heads).mean(0),
            self.text(best),
        )

    def _label(self, tokenizer: Tokenizer, token: int) -> str:
        marked = token in (self.spec["pad"], self.spec["begin"], self.spec["end"])
        return str(tokenizer.id_to_token(token)) if marked else tokenizer.decode([token], skip_special_tokens=False)


def _one(found: list[Tensor], place: int | None, what: str) -> list[Tensor]:
    """Return the one at a place, or all. Raises: CapabilityError."""
    if place is None:
        return found
    if not 0 <= place < len(found):
        raise CapabilityError(f"there is no {what} {place}: attention to the source has {what}s 0 to {len(found) - 1}")
    return [found[place]]
