"""Questions about stories as text, and as numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from toolkit.data import Spec
from toolkit.errors import DataError
from toolkit_text.data.story_batch import StoryBatch

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


class Asked(NamedTuple):
    """A question, the sentences told before it, its answer, and the places of those that the answer follows from.

    task: the kind of question. story: which story of its source it belongs to.
    """

    sentences: tuple[str, ...]
    question: str
    answer: str = ""
    support: tuple[int, ...] = ()
    task: str = ""
    story: int = 0


def words_of(sentence: str) -> list[str]:
    """Return the words of a sentence in lower case, without marks."""
    return WORD.findall(unicodedata.normalize("NFKC", sentence).lower())


@dataclass(frozen=True)
class StorySpec:
    """What a model needs to know of stories, as the data's spec holds it.

    words: how many there are; their numbers begin at 1. memory: sentences of a story at most. width: words of the
    longest sentence. answers: for each class its number among the words, or one past them for a class that is no word.
    """

    words: int
    memory: int
    width: int
    answers: tuple[int, ...]

    @classmethod
    def of(cls, spec: Spec) -> StorySpec:
        numbers = {word: number for number, word in enumerate(spec["words"], start=1)}
        for answer in spec["classes"]:
            numbers.setdefault(answer.lower(), len(numbers) + 1)
        answers = tuple(numbers[answer.lower()] for answer in spec["classes"])
        return cls(len(spec["words"]), spec["memory"], spec["width"], answers)

    @property
    def rows(self) -> int:
        """Rows of a table with a vector for nothing, each word, and each answer that is no word."""
        return max(self.words, *self.answers) + 1


class EncodedQuestions:
    """Questions as numbers, and batches of any of them.

    cut: how many stories were longer than the memory, so that their first sentences are left out. unknown: how often
    each word occurs that the spec does not have; it is read as nothing.
    Raises: DataError for an answer or a task that the spec does not have, and a question or sentence without words.
    """

    def __init__(self, asked: Sequence[Asked], spec: Spec) -> None:
        self._numbers = {word: number for number, word in enumerate(spec["words"], start=1)}
        self.unknown: dict[str, int] = {}
        self._sentences: dict[str, int] = {"": 0}
        self._words: list[list[int]] = [[]]
        self.cut = 0
        self.memory = spec["memory"]
        classes = {answer: place for place, answer in enumerate(spec["classes"])}
        tasks = {task: place for place, task in enumerate(spec["tasks"])}
        memory: list[int] = []
        support: list[bool] = []
        lengths, questions, targets, kinds = (np.zeros(len(asked), dtype=np.int64) for _ in range(4))
        for number, each in enumerate(asked):
            first = max(0, len(each.sentences) - self.memory)
            self.cut += first > 0
            lengths[number] = len(each.sentences) - first
            memory += [self._place(sentence, number) for sentence in each.sentences[first:]]
            support += [place in each.support for place in range(first, len(each.sentences))]
            questions[number] = self._place(each.question, number)
            targets[number] = _found(each.answer, classes, "answer", number) if each.answer else 0
            kinds[number] = _found(each.task, tasks, "task", number) if each.task else 0
        self.flat = torch.tensor(memory, dtype=torch.long)
        self.flat_support = torch.tensor(support, dtype=torch.bool)
        self.lengths, self.question = torch.from_numpy(lengths), torch.from_numpy(questions)
        self.target, self.task = torch.from_numpy(targets), torch.from_numpy(kinds)
        self.start = self.lengths.cumsum(0) - self.lengths
        self.sizes = torch.tensor([len(words) for words in self._words])
        self.words = torch.zeros(len(self._words), max(1, int(self.sizes.max())), dtype=torch.long)
        for place, words in enumerate(self._words):
            self.words[place, : len(words)] = torch.tensor(words, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.lengths)

    def _place(self, sentence: str, number: int) -> int:
        """Return the place of a sentence among the different ones."""
        place = self._sentences.get(sentence)
        if place is None or not place:
            words = words_of(sentence)
            if not words:
                raise DataError(f"question {number} has a sentence without words: {sentence[:80]!r}")
            self._words.append([self._numbers.get(word, 0) for word in words])
            place = self._sentences[sentence] = len(self._words) - 1
            for word in words:
                if word not in self._numbers:
                    self.unknown[word] = self.unknown.get(word, 0) + 1
        return place

    def batch(self, items: Tensor, total: int | None = None, seed: int = 0, noise: float = 0.0) -> StoryBatch:
        """Return the batch of some questions by their places.

        noise: up to this share of empty sentences is put between those of each story, at random by the seed. They take
        up time and cannot be looked at, as in the authors' code (arXiv:1503.08895, sec. 4.1: random noise).
        """
        lengths = self.lengths[items]
        steps = torch.arange(max(1, int(lengths.max()) if len(items) else 1))
        there = steps < lengths[:, None]
        places = (self.start[items, None] + steps).where(there, torch.tensor(0))
        nothing = torch.zeros((), dtype=torch.long)
        memory = self.flat[places].where(there, nothing) if len(self.flat) else places
        support = self.flat_support[places] & there if len(self.flat) else there
        time = (lengths[:, None] - steps).where(there, nothing)
        if noise and len(items):
            spread = _spread(lengths, noise, Generator().manual_seed(seed))
            time = spread.gather(1, (time - 1).clamp_min(0)).where(there, nothing)
        time = time.clamp_max(self.memory)
        used, inverse = torch.cat([nothing[None], memory.flatten(), self.question[items]]).unique(return_inverse=True)
        words = self.words[used]
        return StoryBatch(
            target=self.target[items],
            total=total,
            words=words[:, : max(1, int(self.sizes[used].max()))],
            sizes=self.sizes[used],
            memory=inverse[1 : 1 + memory.numel()].view_as(memory),
            time=time,
            support=support,
            lengths=lengths,
            question=inverse[1 + memory.numel() :],
            task=self.task[items],
            row=items,
        )


def _spread(lengths: Tensor, noise: float, chance: Generator) -> Tensor:
    """Draw at which time each sentence was told, the latest first, when empty ones stand between them.

    Shapes: lengths (S,) -> (S, M); times rise along a row, which is filled with what means nothing behind its length.
    """
    most = (lengths * noise).ceil()
    empty = (torch.rand(len(lengths), generator=chance) * (most + 1)).floor().clamp_max(most).long()
    width = int((lengths + empty).max())
    keys = torch.rand(len(lengths), width, generator=chance)
    keys[torch.arange(width) >= (lengths + empty)[:, None]] = 2.0  # behind all that are drawn
    taken = keys.argsort(1).argsort(1) < lengths[:, None]
    order = (~taken).to(torch.int8).argsort(dim=1, stable=True)  # the places taken, in order, before the rest
    return order[:, : max(1, int(lengths.max()))] + 1


def _found(name: str, known: Mapping[str, int], what: str, number: int) -> int:
    if name not in known:
        some = ", ".join(map(repr, list(known)[:20]))
        raise DataError(f"question {number} has the {what} {name!r}, which training did not; it had {some}")
    return known[name]
