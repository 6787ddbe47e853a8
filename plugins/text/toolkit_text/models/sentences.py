"""Sentences as vectors: the words of each weighed and summed."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Encoding = Literal["bag", "position", "learned"]


class SentenceVectors(nn.Module):
    """s = sum_j l_j * E x_j, in several embeddings E at once, as memory networks have them.

    encoding: `bag` has l = 1. `position` has l_kj = (1 - j/J) - (k/d)(1 - 2j/J) for feature k of d and word j of J, so
    that order counts. `learned` has a vector l_j for each place, which begins as ones; places past `width` share the
    last. rows: of each embedding; row 0 is nothing and adds nothing. sets: how many embeddings.
    Shapes: words (sets, rows, dim), places (width, dim).
    Source: arXiv:1503.08895, sec. 4.1; learned: Henaff et al. 2017, arXiv:1612.03969, eq. 1.
    """

    def __init__(self, *, rows: int, width: int, dim: int, sets: int, encoding: Encoding) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.empty(sets, rows, dim))
        self.places = nn.Parameter(torch.empty(width, dim)) if encoding == "learned" else None
        self.encoding = encoding
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.words, std=0.1)
        with torch.no_grad():
            self.words[:, 0] = 0
        if self.places is not None:
            nn.init.ones_(self.places)

    def forward(self, words: Tensor, sizes: Tensor) -> Tensor:
        """Shapes: words (U, W) numbers of rows, sizes (U,) -> (U, sets, dim)."""
        sets, _, dim = self.words.shape
        found = F.embedding(words, self.words.transpose(0, 1).flatten(1))  # (U, W, sets * dim)
        there = (words > 0).to(found.dtype)
        if self.places is not None:
            places = torch.arange(words.shape[1], device=words.device).clamp_max(len(self.places) - 1)
            scale = self.places[places] * there[..., None]
            learned: Tensor = (found.unflatten(2, (sets, dim)) * scale[:, :, None]).sum(1)
            return learned
        # l is linear in k, so two sums over the words do for all features: a matrix product, and no (U, W, sets, dim).
        j = torch.arange(1, words.shape[1] + 1, device=words.device) / sizes.clamp_min(1)[:, None]
        bag = self.encoding == "bag"
        weights = torch.stack([there if bag else there * (1 - j), there * (1 - 2 * j) * (not bag)], 1)
        plain, sloped = (weights @ found).unflatten(2, (sets, dim)).unbind(1)
        k = torch.arange(1, dim + 1, device=words.device, dtype=found.dtype) / dim
        summed: Tensor = plain - k * sloped
        return summed
