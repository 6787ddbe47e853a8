"""A bidirectional LSTM read by attention, as texts were classified before transformers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from toolkit.attention import AttentionPooling, Need, Weights
from toolkit.attention.dropout import Dropout
from toolkit.attention.mechanism import Buildable
from toolkit.binding import Positive, Probability
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import TokenEmbedding
from toolkit_text.models.pooling import pool


class RecurrentClassifier(nn.Module):
    """Embedding, bidirectional LSTM, pooling by any attention mechanism, and a linear layer.

    attention: the mechanism that pools; None takes the mean of all tokens in its place. dim: size of a token's vector.
    hidden: units of the LSTM in each direction. heads: of the pooling. dropout: rate on token vectors, between LSTM
    layers and on the pooled vector. word_dropout: as in `TokenEmbedding`. state_dropout: rate on the LSTM's states.
    Source: Yang et al. 2016, NAACL, sec. 2.2, on words (there with a GRU), when the mechanism is `saliency_pooling`.
    """

    def __init__(
        self,
        *,
        classes: int,
        tokens: TokenSpec,
        attention: Buildable | None = None,
        dim: Positive = 128,
        hidden: Positive = 128,
        num_layers: Positive = 1,
        heads: Positive = 1,
        dropout: Probability = 0.3,
        word_dropout: Probability = 0.0,
        state_dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(tokens=tokens, dim=dim, dropout=dropout, word_dropout=word_dropout)
        between = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(dim, hidden, num_layers=num_layers, batch_first=True, bidirectional=True, dropout=between)
        width = 2 * hidden
        self.pooling: AttentionPooling | None = None
        if attention is not None:
            mechanism = attention.build(heads=heads, dim=width // heads)
            self.pooling = AttentionPooling(dim=width, heads=heads, attention=mechanism, project=False)
        self.state_dropout = Dropout(state_dropout)
        self.dropout = Dropout(dropout)
        self.classify = nn.Linear(width, classes)

    @property
    def vectors(self) -> nn.Module:
        """What gives each token its vector."""
        return self.embedding.tokens

    def forward(self, batch: TextBatch) -> Tensor:
        """Return logits of each sequence. Shapes: (B, classes)."""
        states = self._states(batch)
        pooled = pool(states, batch.mask) if self.pooling is None else self.pooling(states, batch.pattern).values
        logits: Tensor = self.classify(self.dropout(pooled))
        return logits

    def attention_weights(self, batch: TextBatch, need: Need | None = None) -> list[Weights]:
        """Return how much of each token there is in the pooled vector, if attention pools. Shapes: (B, heads, 1, L)."""
        if self.pooling is None:
            return []
        return [self.pooling(self._states(batch), batch.pattern, need=need or Need()).weights]

    def _states(self, batch: TextBatch) -> Tensor:
        dropped: Tensor = self.state_dropout(run_packed(self.lstm, self.embedding(batch.tokens), batch.lengths))
        return dropped


def run_packed(network: nn.RNNBase, x: Tensor, lengths: Tensor) -> Tensor:
    """Run a recurrent network over sequences up to their ends. Shapes: x (B, L, D), lengths (B,) -> (B, L, width)."""
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states: Tensor = pad_packed_sequence(network(packed)[0], batch_first=True, total_length=x.shape[1])[0]
    return states
