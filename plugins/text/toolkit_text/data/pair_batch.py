"""The batch of translation."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from toolkit.attention import Pattern, padding
from toolkit.batches import Batch

NOTHING = -100
"""What stands in `target` where a text is over: the index that torch's cross-entropy leaves out."""


@dataclass(kw_only=True)
class PairBatch(Batch):
    """B pairs of texts, padded at the end: what is read, and what is to be written.

    source: tokens with the end's mark. previous: the begin's mark and all tokens of the target; target: its tokens and
    the end's mark, `NOTHING` behind them, so that target[i, t] follows previous[i, : t + 1]. row: which row of the data
    each pair is. reference: the target as it was written, empty where none is known. total counts target tokens.
    A batch without pairs (one process has more of a step than there is) reads and writes one sequence that is nobody's.
    Shapes: source (B or 1, L), source_lengths (B or 1,), previous (B or 1, T), target (B, T), row (B,).
    """

    source: Tensor
    source_lengths: Tensor
    previous: Tensor
    row: Tensor
    reference: list[str] = field(default_factory=list)

    @property
    def source_pattern(self) -> Pattern | None:
        """Which source tokens are there; None if all are."""
        return None if bool((self.source_lengths == self.source.shape[1]).all()) else padding(self.source_lengths)

    @property
    def written(self) -> Tensor:
        """Which target tokens are there. Shapes: (B, T) bool."""
        return self.target != NOTHING

    @property
    def tokens(self) -> Tensor:
        """The target tokens that are there, pair after pair. Shapes: (S,)."""
        return self.target[self.written]
