"""Texts as numbers: what batches are made of, in memory or mapped from a disk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from toolkit_text.data.batch import TextBatch
from toolkit_text.data.tokens import Sequences


class EncodedTexts:
    """The tokens of some texts, and batches of any of them.

    first: the place of the first sequence of each text, and behind the last one their number. rows: the number of each
    text in its source. target: its class. windows: of how many sequences of a text a batch holds at most, drawn by the
    batch's seed; None holds all.
    Shapes: first (texts + 1,), rows, target (texts,).
    """

    def __init__(
        self,
        sequences: Sequences,
        first: Tensor,
        rows: Tensor,
        target: Tensor,
        pad: int,
        windows: int | None = None,
    ) -> None:
        self.sequences, self.first, self.rows, self.target, self.pad = sequences, first, rows, target, pad
        self.windows = windows

    @classmethod
    def of(
        cls,
        sequences: Sequence[Sequence[int]],
        owner: Sequence[int],
        rows: Sequence[int],
        target: Tensor | None,
        pad: int,
        windows: int | None = None,
    ) -> EncodedTexts:
        """Make them from lists. owner: the place of the text that each sequence is of, in order. target: or unknown."""
        counts = torch.bincount(torch.tensor(owner, dtype=torch.long), minlength=len(rows))
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        known = torch.zeros(len(rows), dtype=torch.long) if target is None else target
        return cls(Sequences(sequences), first, torch.tensor(rows, dtype=torch.long), known, pad, windows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Tensor:
        """Places that each text takes in a batch at most, by which loaders bound steps. Shapes: (texts,)."""
        counts = self.first.diff()
        if bool((counts == 1).all()):
            return self.sequences.lengths
        longest = torch.zeros(len(self), dtype=torch.long)
        owner = torch.arange(len(self)).repeat_interleave(counts)
        longest.scatter_reduce_(0, owner, self.sequences.lengths, "amax")
        held = counts if self.windows is None else counts.clamp_max(self.windows)
        return longest * held

    def batch(self, items: Tensor, total: int | None = None, seed: int = 0) -> TextBatch:
        """Return the batch of some texts by their places."""
        if not len(items):  # a share of nothing: one sequence that is nobody's, so that every weight has a gradient
            nobody = torch.full((1, 1), self.pad)
            none = torch.zeros(0, dtype=torch.long)
            return TextBatch(
                target=none, total=total, tokens=nobody, lengths=torch.ones(1).long(), owner=none, row=none
            )
        counts = self.first[items + 1] - self.first[items]
        owner = torch.arange(len(items)).repeat_interleave(counts)
        within = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts)[owner]
        if self.windows is not None and int(counts.max()) > self.windows:
            chosen = _drawn(counts, owner, self.windows, seed)
            owner, within = owner[chosen], within[chosen]
        tokens, lengths = self.sequences.padded(self.first[items][owner] + within, self.pad)
        return TextBatch(
            target=self.target[items], total=total, tokens=tokens, lengths=lengths, owner=owner, row=self.rows[items]
        )


def _drawn(counts: Tensor, owner: Tensor, most: int, seed: int) -> Tensor:
    """Return places of sequences, in order: `most` of a text that has more, drawn. Shapes: counts (S,), owner (B,)."""
    chance = torch.rand(len(owner), generator=Generator().manual_seed(seed), dtype=torch.float64)
    order = (owner + chance).argsort()  # texts in order, the sequences of each shuffled
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[owner[order]]
    return torch.nonzero(rank < most).flatten()
