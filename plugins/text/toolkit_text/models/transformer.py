"""A transformer encoder that classifies, trained from the start with any attention mechanism."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toolkit.attention import Need, Weights
from toolkit.attention.mechanism import Buildable
from toolkit.attention.transformer import Activation, Order, TransformerLayer
from toolkit.binding import Positive, Probability
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import Positions, TokenEmbedding

Pooling = Literal["mean", "first"]


class TransformerClassifier(nn.Module):
    """Embedding with positions, layers of attention, the mean of the tokens (or the first), and a linear layer.

    attention: the mechanism of every layer. positions: `none` where the mechanism knows places itself.
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
        positions: Positions = "learned",
        order: Order = "pre",
        activation: Activation = "gelu",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(tokens=tokens, dim=dim, positions=positions, dropout=dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim=dim,
                heads=heads,
                attention=attention,
                hidden=hidden,
                dropout=dropout,
                order=order,
                activation=activation,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if order == "pre" else nn.Identity()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, classes)

    def forward(self, batch: TextBatch) -> Tensor:
        """Return logits of each sequence. Shapes: (B, classes)."""
        x, _ = self._walk(batch, None)
        logits: Tensor = self.classify(self.dropout(pool(x, batch, self.pooling)))
        return logits

    def attention_weights(self, batch: TextBatch, need: Need | None = None) -> list[Weights]:
        """Return each layer's exact weights. Shapes: (B, heads, L, L)."""
        with torch.set_grad_enabled(need is not None and need.gradient):
            return self._walk(batch, need or Need())[1]

    def _walk(self, batch: TextBatch, need: Need | None) -> tuple[Tensor, list[Weights]]:
        x, pattern = self.embedding(batch.tokens), batch.pattern
        seen: list[Weights] = []
        for layer in self.layers:
            output = layer(x, pattern, need=need)
            x = output.x
            if output.attention.weights is not None:
                seen.append(output.attention.weights)
        return self.norm(x), seen


def pool(x: Tensor, batch: TextBatch, how: Pooling) -> Tensor:
    """Return one vector a sequence: the first token's, or the mean of those there. Shapes: (B, L, D) -> (B, D)."""
    if how == "first":
        return x[:, 0]
    mask = batch.mask[..., None].to(x.dtype)
    return (x * mask).sum(1) / mask.sum(1)
