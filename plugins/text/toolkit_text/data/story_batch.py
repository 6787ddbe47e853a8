"""The batch of questions about stories: sentences once each, and which of them every story is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.attention import Pattern, padding
from toolkit.batches import Batch


@dataclass(kw_only=True)
class StoryBatch(Batch):
    """S questions, each about a story of up to M sentences; sentences recur, so the batch holds each of them once.

    words: the words of U different sentences, 0 behind the end and for a word that is not known; sizes: how many words
    each has. The first sentence has none, and stands where a story has no more. memory, question: places among the U.
    Sentences stand as they are told, the latest last; time says how long ago each was told: 1 for the latest. support:
    which sentences the answer follows from, as far as that is known. task: which kind of question it is.
    Shapes: words (U, W), sizes (U,), memory, time, support (S, M), lengths, question, task, row (S,).
    """

    words: Tensor
    sizes: Tensor
    memory: Tensor
    time: Tensor
    support: Tensor
    lengths: Tensor
    question: Tensor
    task: Tensor
    row: Tensor

    @property
    def pattern(self) -> Pattern | None:
        """Which sentences are there; None if all stories have the same number."""
        return None if bool((self.lengths == self.memory.shape[1]).all()) else padding(self.lengths)

    @property
    def mask(self) -> Tensor:
        """Which sentences are there. Shapes: (S, M) bool."""
        return torch.arange(self.memory.shape[1], device=self.memory.device) < self.lengths[:, None]
