"""Token vectors, and what every encoder of text starts with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toolkit.attention import LearnedPositions, SinusoidalPositions
from toolkit.attention.dropout import Dropout
from toolkit_text.data.tokens import TokenSpec

Positions = Literal["learned", "sinusoidal", "none"]


class TokenEmbedding(nn.Module):
    """A vector for each token, with its position added, then dropout.

    word_dropout: rate at which training leaves out the whole vector of a token. positions: `none` for a model that
    knows order by itself, or whose mechanism does (rotary, alibi, t5_relative).
    Shapes: tokens (B, L) -> (B, L, dim). Raises: ShapeError past `max_length` learned positions.
    Source of word_dropout: Iyyer et al. 2015, ACL, sec. 3.1.
    """

    def __init__(
        self,
        *,
        tokens: TokenSpec,
        dim: int,
        positions: Positions = "none",
        dropout: float = 0.0,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens.vocabulary, dim, padding_idx=tokens.pad)
        nn.init.normal_(self.tokens.weight, std=dim**-0.5 if positions == "sinusoidal" else 0.1)
        self.tokens.weight.data[tokens.pad].zero_()
        self.positions: nn.Module | None = None
        if positions == "learned":
            self.positions = LearnedPositions(length=tokens.max_length, dim=dim)
        elif positions == "sinusoidal":
            self.positions = SinusoidalPositions(dim=dim)
        self.scale = dim**0.5 if positions == "sinusoidal" else 1.0  # so that they do not drown the tokens
        self.dropout, self.word_dropout = Dropout(dropout), word_dropout

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        x = self.tokens(tokens) * self.scale
        if self.training and self.word_dropout:
            x = x * (torch.rand(tokens.shape, device=x.device) >= self.word_dropout)[..., None].to(x.dtype)
        if self.positions is not None:
            x = self.positions(x, start)
        dropped: Tensor = self.dropout(x)
        return dropped
