"""Questions about stories: splits, vocabulary, batches of stories of similar length. What such data sets share."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence

from torch import Generator, Tensor, randperm

from toolkit.binding import Fraction, Positive
from toolkit.data import Data, Spec
from toolkit.errors import DataError, ToolkitWarning
from toolkit.loading import EpochLoader
from toolkit_text.data.story import Asked, EncodedQuestions, words_of
from toolkit_text.data.story_batch import StoryBatch


class StoryQuestions(Data):
    """Questions about stories, each with one of some answers; a subclass writes `read`.

    memory: sentences of a story that are read, the latest; older ones are left out, with a warning that counts them.
    noise: share of empty sentences put between those of training stories at most, drawn anew in each epoch.
    batch_size: questions of a step and process; stories of similar length share one.
    Source: arXiv:1503.08895, sec. 4.1 and 4.2.
    """

    def __init__(self, *, memory: Positive = 50, noise: Fraction = 0.0, batch_size: Positive = 32) -> None:
        super().__init__()
        self.memory, self.noise, self.batch_size = memory, noise, batch_size

    @abstractmethod
    def read(self) -> dict[str, list[Asked]]:
        """Return the questions of `train`, `val` and `test`."""

    def load(self) -> Spec:
        splits = self.read()
        for name, asked in splits.items():
            if not asked:
                raise DataError(f"the split {name!r} has no questions")
        spec = self.trained if self.trained is not None else self._learned(splits)
        self.splits = {name: self._encoded(name, asked, spec) for name, asked in splits.items()}
        self.texts = splits
        return spec

    def _learned(self, splits: dict[str, list[Asked]]) -> Spec:
        sentences = {text for each in splits["train"] for text in (*each.sentences, each.question)}
        split = {text: words_of(text) for text in sentences}
        known = {each.answer for each in splits["train"]}
        answers = {name: [each.answer for each in asked] for name, asked in splits.items()}
        classes = sorted(known.union(*answers.values()))
        if len(known) < 2:
            raise DataError(f"all training questions have the answer {classes[0]!r}: there is no choice")
        for name in ("val", "test"):
            if unseen := sum(answer not in known for answer in answers[name]):
                _warn(
                    f"{unseen} of {len(answers[name])} questions of {name} have an answer that no training question "
                    "has: nothing can learn to give it, and they count as wrong"
                )
        return {
            "classes": classes,
            "words": sorted({word for words in split.values() for word in words}),
            "tasks": sorted({each.task for asked in splits.values() for each in asked}, key=_by_number),
            "memory": self.memory,
            "width": max(map(len, split.values())),
        }

    def _encoded(self, name: str, asked: Sequence[Asked], spec: Spec) -> EncodedQuestions:
        found = EncodedQuestions(asked, spec)
        warn_of(found, name)
        return found

    # Batches --------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> EpochLoader[StoryBatch]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> EpochLoader[StoryBatch]:
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader[StoryBatch]:
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader[StoryBatch]:
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False) -> EpochLoader[StoryBatch]:
        from torch import arange

        found = self.splits[split]
        noise = self.noise if shuffle else 0.0

        def make(items: Tensor, total: int, seed: int) -> StoryBatch:
            return found.batch(items, total, seed, noise)

        return EpochLoader(
            arange(len(found)),
            make,
            batch_size=self.batch_size,
            shuffle=shuffle,
            share=self.share(),
            lengths=found.lengths,
        )


def split_off(asked: list[Asked], share: float, seed: int) -> tuple[list[Asked], list[Asked]]:
    """Split a share of the stories of each task off, all questions of a story together. Returns rest and share."""
    stories = list(dict.fromkeys((each.task, each.story) for each in asked))
    chance = Generator().manual_seed(seed)
    taken = set()
    for task in dict.fromkeys(task for task, _ in stories):
        own = [story for story in stories if story[0] == task]
        count = round(share * len(own))
        taken |= {own[place] for place in randperm(len(own), generator=chance)[:count].tolist()}
    rest = [each for each in asked if (each.task, each.story) not in taken]
    return rest, [each for each in asked if (each.task, each.story) in taken]


def warn_of(found: EncodedQuestions, name: str) -> None:
    """Tell of stories that are cut off and of words that are not known, with their numbers."""
    if found.cut:
        _warn(
            f"{found.cut} of {len(found)} questions of {name} are about more than data.memory={found.memory} "
            "sentences: only the latest are read"
        )
    if found.unknown:
        some = ", ".join(map(repr, list(found.unknown)[:5]))
        _warn(f"{len(found.unknown)} words of {name} are not known from training and read as nothing: {some}")


def _warn(text: str) -> None:
    warnings.warn(ToolkitWarning(text), stacklevel=3)


def _by_number(name: str) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, name))
    return (int(digits) if digits else 0, name)
