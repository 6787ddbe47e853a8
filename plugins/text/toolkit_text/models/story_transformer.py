"""A transformer that reads a question and its story as one sequence: what memory networks are compared with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.attention import Need, Weights
from toolkit.attention.mechanism import Buildable
from toolkit.attention.transformer import Activation, Order
from toolkit.binding import Positive, Probability
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.story import StorySpec
from toolkit_text.data.story_batch import StoryBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import Positions
from toolkit_text.models.transformer import TransformerClassifier

MARKS = 2
"""Tokens beside the words: one before the question, one behind it and behind each sentence."""


class Laid(NamedTuple):
    """Stories as sequences. sentence: which sentence each token is of, M for the question and what fills up.

    Shapes: sentence (S, L).
    """

    batch: TextBatch
    sentence: Tensor


class StoryTransformer(nn.Module):
    """Mark, question, mark, sentence, mark, sentence, mark ...: encoded, and answered from the first mark.

    The sentence told last stands first, so that a place says how long ago something was told. The options are those of
    `text:transformer`.
    """

    def __init__(
        self,
        *,
        classes: int,
        stories: StorySpec,
        attention: Buildable,
        dim: Positive = 64,
        heads: Positive = 4,
        num_layers: Positive = 3,
        hidden: Positive | None = None,
        dropout: Probability = 0.1,
        positions: Positions = "learned",
        order: Order = "pre",
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.mark = stories.words + 1  # answers that are no words are never read
        longest = (stories.memory + 1) * (stories.width + 1) + 1
        self.encoder = TransformerClassifier(
            classes=classes,
            tokens=TokenSpec(vocabulary=self.mark + MARKS, pad=0, max_length=longest),
            attention=attention,
            dim=dim,
            heads=heads,
            num_layers=num_layers,
            hidden=hidden,
            dropout=dropout,
            positions=positions,
            order=order,
            activation=activation,
            pooling="first",
        )

    def forward(self, batch: StoryBatch) -> Tensor:
        """Return logits of each question. Shapes: (S, classes)."""
        logits: Tensor = self.encoder(self.laid(batch).batch)
        return logits

    def attention_weights(self, batch: StoryBatch, need: Need | None = None) -> list[Weights]:
        """Return each layer's exact weights between tokens. Shapes: (S, heads, L, L)."""
        return self.encoder.attention_weights(self.laid(batch).batch, need)

    def sentence_weights(self, batch: StoryBatch) -> Tensor:
        """Return how much each layer's first mark takes of each sentence's tokens, the mean over heads.

        Shapes: (S, layers, M).
        """
        laid, sentences = self.laid(batch), batch.memory.shape[1]
        seen = self.encoder.attention_weights(laid.batch, Need(rows=[0]))
        first = torch.stack([weights.values.mean(1)[:, 0] for weights in seen if weights.values is not None], 1)
        total = first.new_zeros(*first.shape[:2], sentences + 1)
        return total.scatter_add(2, laid.sentence[:, None].expand_as(first), first)[..., :sentences]

    def laid(self, batch: StoryBatch) -> Laid:
        """Lay each question and story out as one sequence of tokens."""
        rows, sentences = batch.memory.shape
        width = batch.words.shape[1] + 1
        ended = torch.cat([batch.words, batch.words.new_zeros(len(batch.words), 1)], 1)
        ended = ended.scatter(1, batch.sizes[:, None], self.mark + 1)  # a mark behind the last word
        order = (batch.lengths[:, None] - 1 - torch.arange(sentences, device=batch.memory.device)).clamp_min(0)
        told = torch.cat([batch.question[:, None], batch.memory.gather(1, order)], 1)  # the latest first
        place = torch.cat([order.new_full((rows, 1), sentences), order], 1)
        there = torch.cat([batch.mask.new_ones(rows, 1), batch.mask], 1)
        steps = torch.arange(width, device=told.device)
        kept = (steps <= batch.sizes[told][..., None]) & there[..., None]  # (S, M + 1, W + 1)
        first = kept.new_ones(rows, 1)
        mask = torch.cat([first, kept.flatten(1)], 1)
        tokens = torch.cat([first * self.mark, ended[told].flatten(1)], 1)
        sentence = torch.cat([first * sentences, place[..., None].expand_as(kept).flatten(1)], 1)
        lengths = mask.sum(1)
        close = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : int(lengths.max()) if rows else 1]
        inside = torch.arange(close.shape[1], device=close.device) < lengths[:, None]
        nothing = tokens.new_zeros(())
        return Laid(
            TextBatch(
                target=batch.target,
                total=batch.total,
                tokens=tokens.gather(1, close).where(inside, nothing),
                lengths=lengths,
                owner=torch.arange(rows, device=close.device),
                row=batch.row,
            ),
            sentence.gather(1, close).where(inside, nothing + sentences),
        )
