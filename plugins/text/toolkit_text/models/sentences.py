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
        found = F.embedding(words, self.words.transpose(0, 1).flatten(1)).unflatten(2, (sets, dim))
        scale = self._scale(words.shape[1], sizes) * (words > 0)[..., None]  # (U, W, dim)
        summed: Tensor = (found * scale[:, :, None]).sum(1)
        return summed

    def _scale(self, width: int, sizes: Tensor) -> Tensor:
        dim = self.words.shape[2]
        if self.encoding == "bag":
            return self.words.new_ones(1, 1, 1)
        if self.places is not None:
            places = torch.arange(width, device=sizes.device).clamp_max(len(self.places) - 1)
            return self.places[places][None]
        j = torch.arange(1, width + 1, device=sizes.device)[None, :, None] / sizes.clamp_min(1)[:, None, None]
        k = torch.arange(1, dim + 1, device=sizes.device) / dim
        return ((1 - j) - k * (1 - 2 * j)).to(self.words.dtype)
