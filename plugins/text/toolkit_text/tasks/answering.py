"""Answering questions about stories."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from toolkit.batches import Batch
from toolkit.classification import Classification
from toolkit.errors import DataError
from toolkit.task import Row
from toolkit_text.data.questions import warn_of
from toolkit_text.data.story import Asked, EncodedQuestions, StorySpec
from toolkit_text.data.story_batch import StoryBatch
from toolkit_text.data.table import Written, read_tables

BATCH = 64
ROWS = 16_384
"""Rows of a file that are answered together: stories of similar length then share batches."""

EXAMPLE = '{"story": ["Ann went to the kitchen."], "question": "Where is Ann?"}'
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


class Answering(Classification):
    """The answer of each question, one of those that training knows, from the story told before it.

    Rows hold the answer as `class`, and in `attended`, for each hop of a model that looks at sentences, the sentence
    that it looks at most and how much.
    """

    takes_batch: ClassVar[type[Batch]] = StoryBatch
    reads_spec: ClassVar[tuple[str, ...]] = ("classes", "words", "tasks", "memory", "width")
    gives_model: ClassVar[tuple[str, ...]] = ("classes", "stories")
    item_column: ClassVar[str] = "row"

    def model_sizes(self) -> dict[str, Any]:
        return super().model_sizes() | {"stories": StorySpec.of(self.spec)}

    def identify(self, batch: StoryBatch) -> list[int]:
        rows: list[int] = batch.row.tolist()
        return rows

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        told = getattr(self.model, "validated", None)
        if callable(told) and not self.trainer.sanity_checking and self.trainer.state.fn == "fit":
            told()

    def beside(self, stage: str, name: str, batch: Any) -> Any:
        return self.support_mass(batch) if name == "support_mass" else super().beside(stage, name, batch)

    def looks(self, batch: StoryBatch) -> Tensor | None:
        """Return how much each hop looks at each sentence, the mean over heads; None for a model that has no hops.

        Shapes: (S, hops, M).
        """
        show = getattr(self.model, "sentence_weights", None)
        return show(batch) if callable(show) else None

    def support_mass(self, batch: StoryBatch) -> Tensor:
        """Return how much of each supporting sentence is seen: the mean over them of what the best hop gives each.

        NaN for a question without supporting sentences, and for a model that does not look at sentences.
        Shapes: (S,).
        """
        weights, support = self.looks(batch), batch.support
        if weights is None or not weights.shape[1]:
            return torch.full((len(batch.target),), torch.nan)
        best = weights.amax(1) * support
        return best.sum(1) / support.sum(1)  # 0 / 0 is NaN

    def rows(self, batch: StoryBatch) -> Iterator[Row]:
        weights, told = self.looks(batch), self._told(batch)
        best = None if weights is None or not weights.shape[1] else weights.max(-1)
        for place, row in enumerate(super().rows(batch)):
            row["question"] = told[int(batch.question[place])]
            if best is not None:
                row["attended"] = [
                    {"sentence": told[int(batch.memory[place, where])], "weight": weight}
                    for where, weight in zip(best.indices[place].tolist(), best.values[place].tolist(), strict=True)
                ]
            yield row

    def _told(self, batch: StoryBatch) -> list[str]:
        """Return the different sentences of a batch in the words that are known, `?` for one that is not."""
        words = ["?", *self.spec["words"]]
        pairs = zip(batch.words.tolist(), batch.sizes.tolist(), strict=True)
        return [" ".join(words[word] for word in row[:size]) for row, size in pairs]

    # New stories ----------------------------------------------------------------------------------------------------

    def batches_of(self, texts: Sequence[str]) -> Iterator[StoryBatch]:
        """Yield batches of new stories, each told as a text or as JSON; see `asked_in`. Raises: DataError."""
        found = EncodedQuestions([asked_in(text, place) for place, text in enumerate(texts)], self.spec)
        warn_of(found, "these stories")
        for items in found.lengths.argsort(stable=True).split(BATCH):
            yield found.batch(items)

    def read_texts(self, path: Path, columns: Sequence[str], encoding: str) -> Iterator[tuple[list[int], list[str]]]:
        """Yield the stories of a file part by part, as JSON, and the row of each. Raises: DataError.

        columns: those with the story and with the question.
        """
        names = list(columns) or ["story", "question"]
        if len(names) != 2:
            raise DataError(f"{path}: name two columns, that of the story and that of the question, not {len(names)}")
        first = 0
        for table in read_tables(path, Written(encoding or "utf-8"), size=ROWS, wanted=names):
            pairs = zip(*(table[name].tolist() for name in names), strict=True)
            texts = [json.dumps({"story": story, "question": question}, default=str) for story, question in pairs]
            yield list(range(first, first + len(texts))), texts
            first += len(texts)


def asked_in(text: str, number: int) -> Asked:
    """Read a story and its question, told as sentences of which the last is the question, or as JSON.

    JSON is {"story": [sentence, ...] or a text of sentences, "question": text}. Raises: DataError for an empty story
    or question, and for anything else.
    """
    where = f"story {number} (the first is number 0)"
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where} is no JSON: {error}") from error
        story, question = given.get("story"), given.get("question")
        if isinstance(story, str):
            story = _sentences(story)
        if (
            not isinstance(story, list)
            or not all(isinstance(each, str) for each in story)
            or not isinstance(question, str)
        ):
            raise DataError(f"{where} wants a list of sentences and a question, such as {EXAMPLE}")
        sentences = [each.strip() for each in story if each.strip()]
        question = question.strip()
    else:
        sentences = _sentences(text)
        question = sentences.pop() if sentences and sentences[-1].endswith("?") else ""
    if not question:
        raise DataError(f"{where} asks nothing: the last sentence ends in a question mark, or it is like {EXAMPLE}")
    if not sentences:
        raise DataError(f"{where} is empty: there is no sentence before the question {question!r}")
    return Asked(tuple(sentences), question)


def _sentences(text: str) -> list[str]:
    return [each.strip() for each in SENTENCE.findall(text) if each.strip()]
