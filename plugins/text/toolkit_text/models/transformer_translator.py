"""A transformer that reads a text and writes another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.attention import Need, Pattern, Weights, causal, padding
from toolkit.attention.mechanism import Buildable
from toolkit.attention.stack import TransformerStack
from toolkit.attention.transformer import Activation, Order
from toolkit.binding import Positive, Probability
from toolkit.errors import CapabilityError
from toolkit_text.data.pair_batch import PairBatch
from toolkit_text.models.embedding import Positions
from toolkit_text.models.translator import PairEmbedding, PairSpec


class TransformerTranslator(nn.Module):
    """An encoder, and a decoder that attends to what it has written and to the encoder.

    attention: the mechanism of all three kinds of attention. writing, crossing: names of other mechanisms for the
    decoder's attention to itself and to the encoder, where that one cannot be either. hidden: width of the feed-forward
    networks, 4 dim by default. tied: one matrix for target tokens and scores, and for source tokens where the
    vocabulary is joint. positions: `none` where the mechanism knows places itself.
    Raises: CapabilityError for a mechanism that cannot be asked token by token.
    Source: arXiv:1706.03762, sec. 3.
    """

    def __init__(
        self,
        *,
        tokens: PairSpec,
        attention: Buildable,
        dim: Positive = 256,
        heads: Positive = 4,
        num_layers: Positive = 3,
        decoder_layers: Positive | None = None,
        hidden: Positive | None = None,
        dropout: Probability = 0.1,
        positions: Positions = "sinusoidal",
        order: Order = "pre",
        activation: Activation = "relu",
        tied: bool = True,
        writing: str | None = None,
        crossing: str | None = None,
    ) -> None:
        super().__init__()
        self.embedding = PairEmbedding(tokens=tokens, dim=dim, tied=tied, positions=positions, dropout=dropout)
        self.encoder = TransformerStack(
            dim=dim,
            heads=heads,
            num_layers=num_layers,
            attention=attention,
            hidden=hidden,
            dropout=dropout,
            order=order,
            activation=activation,
        )
        self.decoder = TransformerStack(
            dim=dim,
            heads=heads,
            num_layers=num_layers if decoder_layers is None else decoder_layers,
            attention=writing or attention,
            cross=crossing or attention,
            hidden=hidden,
            dropout=dropout,
            order=order,
            activation=activation,
        )
        try:  # what training would only meet at the first validation
            with torch.no_grad():
                self.decoder.begin(batch=1, capacity=1, context=torch.zeros(1, 1, dim))
        except CapabilityError as error:
            raise CapabilityError(
                f"{error}; model.writing and model.crossing name other mechanisms for the decoder's attention to "
                "itself and to the source"
            ) from error

    def forward(self, batch: PairBatch) -> Tensor:
        """Return the scores of each target token that is there, pair after pair. Shapes: (S, V)."""
        written = self._walk(batch, None)[0][: len(batch.target)]
        return self.embedding.scores(written[batch.written])

    def attention_weights(self, batch: PairBatch, need: Need | None = None) -> list[Weights]:
        """Return how each layer of the decoder looks at the source. Shapes: (B, heads, T, L)."""
        with torch.set_grad_enabled(need is not None and need.gradient):
            return self._walk(batch, need or Need())[1]

    def begin(self, batch: PairBatch, longest: int) -> TransformerWriting:
        """Read the sources, and return what writes up to `longest` tokens after the begin's mark."""
        return TransformerWriting(self, batch, longest)

    def read(self, batch: PairBatch, pattern: Pattern | None) -> Tensor:
        """Shapes: (B, L, dim)."""
        encoded: Tensor = self.encoder(self.embedding.source(batch.source), pattern).x
        return encoded

    def _walk(self, batch: PairBatch, need: Need | None) -> tuple[Tensor, list[Weights]]:
        pattern = batch.source_pattern
        context = self.read(batch, pattern)
        output = self.decoder(
            self.embedding.target(batch.previous), causal(), context=context, context_pattern=pattern, need=need
        )
        return output.x, output.cross


class TransformerWriting:
    """A transformer in the middle of writing: caches of each text, and what it reads. See `Decoder`."""

    def __init__(self, model: TransformerTranslator, batch: PairBatch, longest: int) -> None:
        self.model, self.lengths = model, batch.source_lengths
        context = model.read(batch, batch.source_pattern)
        self.state = model.decoder.begin(batch=len(context), capacity=longest, context=context)

    def advance(self, tokens: Tensor) -> Tensor:
        x = self.model.embedding.target(tokens, start=self.state.length)
        output = self.model.decoder(x, causal(), context_pattern=padding(self.lengths), state=self.state)
        return self.model.embedding.scores(output.x[:, -1])

    def reorder(self, samples: Tensor) -> None:
        self.state.reorder(samples)
        self.lengths = self.lengths[samples]
