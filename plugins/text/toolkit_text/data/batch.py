"""The batch of every text task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.attention import Pattern, padding
from toolkit.batches import Batch


@dataclass(kw_only=True)
class TextBatch(Batch):
    """Token sequences, padded at the end, of the S items that `target` is about.

    A long text may be several sequences; `owner` says whose each is. row: which row of the data each item is.
    A batch without items (one process has more of a step than there is) holds one sequence that has no owner.
    Shapes: tokens (B, L), lengths (B,), owner (B,) places among the S items, row (S,).
    """

    tokens: Tensor
    lengths: Tensor
    owner: Tensor
    row: Tensor

    @property
    def pattern(self) -> Pattern | None:
        """Which tokens are there; None if all are."""
        return None if self.full else padding(self.lengths)

    @property
    def full(self) -> bool:
        """Whether nothing is padded."""
        return bool((self.lengths == self.tokens.shape[1]).all())

    @property
    def mask(self) -> Tensor:
        """Which tokens are there. Shapes: (B, L) bool."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]
