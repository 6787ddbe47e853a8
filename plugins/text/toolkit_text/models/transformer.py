"""A transformer encoder that classifies, trained from the start with any attention mechanism."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.attention import Need, Weights
from toolkit.attention.dropout import Dropout
from toolkit.attention.mechanism import Buildable
from toolkit.attention.stack import TransformerStack
from toolkit.attention.transformer import Activation, Order
from toolkit.binding import Positive, Probability
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import Positions, TokenEmbedding
from toolkit_text.models.pooling import Pooling, pool


class TransformerClassifier(nn.Module):
    """Embedding with positions, layers of attention, the mean of the tokens (or the first), and a linear layer.

    attention: the mechanism of every layer. positions: `none` where the mechanism knows places itself. word_dropout: as
    in `TokenEmbedding`.
    Source: arXiv:1706.03762, sec. 3.1, the encoder.
    """

    def __init__(
        self,
        *,
        classes: int,
        tokens: TokenSpec,
        attention: Buildable,
        dim: Positive = 128,
        heads: Positive = 4,
        num_layers: Positive = 2,
        hidden: Positive | None = None,
        dropout: Probability = 0.2,
        word_dropout: Probability = 0.0,
        positions: Positions = "learned",
        order: Order = "pre",
        activation: Activation = "gelu",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(
            tokens=tokens, dim=dim, positions=positions, dropout=dropout, word_dropout=word_dropout
        )
        self.stack = TransformerStack(
            dim=dim,
            heads=heads,
            num_layers=num_layers,
            attention=attention,
            hidden=hidden,
            dropout=dropout,
            order=order,
            activation=activation,
        )
        self.pooling = pooling
        self.dropout = Dropout(dropout)
        self.classify = nn.Linear(dim, classes)

    @property
    def vectors(self) -> nn.Module:
        """What gives each token its vector."""
        return self.embedding.tokens

    def forward(self, batch: TextBatch) -> Tensor:
        """Return logits of each sequence. Shapes: (B, classes)."""
        x = self.stack(self.embedding(batch.tokens), batch.pattern).x
        logits: Tensor = self.classify(self.dropout(pool(x, batch.mask, self.pooling)))
        return logits

    def attention_weights(self, batch: TextBatch, need: Need | None = None) -> list[Weights]:
        """Return each layer's exact weights. Shapes: (B, heads, L, L)."""
        with torch.set_grad_enabled(need is not None and need.gradient):
            seen: list[Weights] = self.stack(self.embedding(batch.tokens), batch.pattern, need=need or Need()).attention
        return seen
