"""One pass over texts that may not fit in memory: a few bytes of each are kept, and a bounded sample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit_text.data.splits import assign, draws
from toolkit_text.data.texts import Texts

_MIX = np.uint64(0x9E3779B97F4A7C15)  # so that what is sampled does not depend on the split: an odd number permutes


class Survey:
    """What is known of many texts: which labels there are, what splits they fall into, and some of the texts.

    seed: that of the splits. characters: of all texts that are kept at most. They are those that draw lowest, so the
    same whatever the parts; as long as fewer have come, they are all there is.
    """

    def __init__(self, seed: int, characters: int) -> None:
        self.seed, self.characters = seed, characters
        self.labels: dict[str, int] = {}
        self._drawn: list[np.ndarray] = []
        self._codes: list[np.ndarray] = []
        self._kept: list[tuple[int, int, str]] = []  # what it drew, its place, the text
        self._held = self._count = 0
        self._below = 2**64

    def add(self, part: Texts) -> None:
        """Take some more texts into account."""
        drawn = draws(part.texts, self.seed)
        codes = [self.labels.setdefault(label, len(self.labels)) for label in part.labels]
        self._drawn.append(drawn)
        self._codes.append(np.array(codes, dtype=np.int32))
        mixed = (drawn * _MIX).tolist()
        for place, (low, text) in enumerate(zip(mixed, part.texts, strict=True), start=self._count):
            if low < self._below:
                self._kept.append((low, place, text))
                self._held += len(text)
        self._count += len(part)
        while self._held > self.characters and self._below > 1:
            self._below //= 2
            self._kept = [each for each in self._kept if each[0] < self._below]
            self._held = sum(len(text) for _, _, text in self._kept)

    def __len__(self) -> int:
        return self._count

    @property
    def drawn(self) -> np.ndarray:
        """What each text draws. Shapes: (texts,) uint64."""
        return np.concatenate([np.empty(0, dtype=np.uint64), *self._drawn])

    @property
    def codes(self) -> np.ndarray:
        """The label of each text, as `labels` numbers them. Shapes: (texts,)."""
        return np.concatenate([np.empty(0, dtype=np.int32), *self._codes])

    def assign(self, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Return the places of each split; see `splits.assign`."""
        return assign(self.drawn, self.codes, shares)

    def forget_texts(self) -> None:
        """Let go of the kept texts, which are not needed once a tokenizer is learned."""
        self._kept, self._held = [], 0

    def sample(self, places: np.ndarray) -> list[str]:
        """Return the kept texts that are among these places, in order."""
        wanted = np.zeros(self._count, dtype=bool)
        wanted[places] = True
        return [text for _, place, text in sorted(self._kept, key=lambda each: each[1]) if wanted[place]]
