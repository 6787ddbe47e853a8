"""Hierarchical attention: words make sentences, sentences make the document, and attention reads both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from toolkit.attention import AttentionPooling, Need, Weights, padding
from toolkit.attention.dropout import Dropout
from toolkit.attention.mechanism import Buildable
from toolkit.binding import Positive, Probability
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import TokenEmbedding
from toolkit_text.models.pooling import pool
from toolkit_text.models.recurrent import run_packed

ENDS = (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f", "\n")
"""What a sentence ends with: full stop, exclamation and question mark, ellipsis, full-width ones, the end of a line."""


class Level(nn.Module):
    """A bidirectional GRU over vectors and attention that pools its states. Source: Yang et al. 2016, eqs. 1 to 7."""

    def __init__(self, *, dim: int, hidden: int, heads: int, attention: Buildable | None) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, hidden, batch_first=True, bidirectional=True)
        self.pooling: AttentionPooling | None = None
        if attention is not None:
            mechanism = attention.build(heads=heads, dim=2 * hidden // heads)
            self.pooling = AttentionPooling(dim=2 * hidden, heads=heads, attention=mechanism, project=False)

    def forward(self, x: Tensor, lengths: Tensor, need: Need | None = None) -> tuple[Tensor, Weights | None]:
        """Shapes: x (B, L, dim), lengths (B,) -> (B, 2 hidden), and weights (B, heads, 1, L) if they are asked for."""
        states = run_packed(self.gru, x, lengths)
        if self.pooling is None:
            return pool(states, torch.arange(x.shape[1], device=x.device) < lengths[:, None]), None
        output = self.pooling(states, padding(lengths), need=need)
        return output.values, output.weights


class Sentences(NamedTuple):
    """The sentences of some documents, N in all.

    Shapes: lengths (N,), document (N,) and place (N,) in it, counts (B,) sentences of each document;
    of the documents' tokens: sentence (B, L) which of the N, within (B, L) where in it.
    """

    lengths: Tensor
    document: Tensor
    place: Tensor
    counts: Tensor
    sentence: Tensor
    within: Tensor


class HierarchicalClassifier(nn.Module):
    """Hierarchical attention network: each sentence is encoded and pooled by attention, then the document of sentences.

    A sentence ends with a mark of `ENDS`, or after `sentence_length` tokens. It reads the same batches as other models:
    sentences are found in them by their tokens. attention: the mechanism at both levels; None takes means in its place.
    dim: size of a token's vector. hidden: units of each GRU in each direction. heads: of the pooling. dropout: rate on
    token and sentence vectors and on the document's. word_dropout: as in `TokenEmbedding`.
    Source: Yang et al. 2016, NAACL, sec. 2, when the mechanism is `saliency_pooling`.
    """

    ends: Tensor

    def __init__(
        self,
        *,
        classes: int,
        tokens: TokenSpec,
        attention: Buildable | None = None,
        dim: Positive = 128,
        hidden: Positive = 64,
        heads: Positive = 1,
        sentence_length: Positive = 64,
        dropout: Probability = 0.3,
        word_dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.sentence_length = sentence_length
        self.register_buffer("ends", sentence_ends(tokens), persistent=False)
        self.embedding = TokenEmbedding(tokens=tokens, dim=dim, dropout=dropout, word_dropout=word_dropout)
        self.words = Level(dim=dim, hidden=hidden, heads=heads, attention=attention)
        self.sentences = Level(dim=2 * hidden, hidden=hidden, heads=heads, attention=attention)
        self.dropout = Dropout(dropout)
        self.classify = nn.Linear(2 * hidden, classes)

    @property
    def vectors(self) -> nn.Module:
        """What gives each token its vector."""
        return self.embedding.tokens

    def forward(self, batch: TextBatch) -> Tensor:
        """Return logits of each document. Shapes: (B, classes)."""
        document, _, _, _ = self._read(batch, None)
        logits: Tensor = self.classify(self.dropout(document))
        return logits

    def attention_weights(self, batch: TextBatch, need: Need | None = None) -> list[Weights]:
        """Return how much of each token there is in the document: its weight times that of its sentence.

        Shapes: (B, heads, 1, L).
        """
        _, found, words, sentences = self._read(batch, need or Need())
        if words is None or sentences is None or words.values is None or sentences.values is None:
            return []
        of_word = words.values[found.sentence, :, 0, found.within]  # (B, L, heads)
        place = found.place[found.sentence]
        of_sentence = sentences.values[:, :, 0].transpose(1, 2).gather(1, place[..., None].expand_as(of_word))
        both = (of_word * of_sentence).masked_fill(~batch.mask[..., None], 0.0)
        return [Weights(pattern=batch.pattern, values=both.transpose(1, 2)[:, :, None])]

    def _read(self, batch: TextBatch, need: Need | None) -> tuple[Tensor, Sentences, Weights | None, Weights | None]:
        found = self.split(batch)
        # Documents get their vectors as a whole, so that what looks at these sees a document and not its sentences.
        embedded, mask = self.embedding(batch.tokens), batch.mask
        x = embedded.new_zeros(len(found.lengths), int(found.lengths.max()), embedded.shape[2])
        x = x.index_put((found.sentence[mask], found.within[mask]), embedded[mask])
        pooled, words = self.words(x, found.lengths, need)
        pooled = self.dropout(pooled)
        side_by_side = pooled.new_zeros(len(batch.tokens), int(found.counts.max()), pooled.shape[1])
        side_by_side = side_by_side.index_put((found.document, found.place), pooled)
        document, sentences = self.sentences(side_by_side, found.counts, need)
        return document, found, words, sentences

    def split(self, batch: TextBatch) -> Sentences:
        """Cut documents into sentences; those of no more than `sentence_length` tokens keep all of their marks."""
        tokens, mask = batch.tokens, batch.mask
        steps = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        end = self.ends[tokens] & mask
        begins = torch.ones_like(end)
        begins[:, 1:] = end[:, :-1] & ~end[:, 1:]  # several marks in a row end one sentence
        within = (steps - steps.where(begins, 0).cummax(1).values) % self.sentence_length
        begins = begins | (within == 0)
        place = begins.cumsum(1) - 1
        counts = place.masked_fill(~mask, 0).amax(1) + 1
        sentence = place + (counts.cumsum(0) - counts)[:, None]
        number = int(counts.sum())
        lengths = torch.bincount(sentence[mask], minlength=number)
        document = torch.arange(len(tokens), device=tokens.device).repeat_interleave(counts)
        own = torch.arange(number, device=tokens.device) - (counts.cumsum(0) - counts)[document]
        nowhere = ~mask
        return Sentences(
            lengths, document, own, counts, sentence.masked_fill(nowhere, 0), within.masked_fill(nowhere, 0)
        )


def sentence_ends(tokens: TokenSpec) -> Tensor:
    """Return which tokens end a sentence; none where the tokenizer is unknown. Shapes: (vocabulary,)."""
    found = torch.zeros(tokens.vocabulary, dtype=torch.bool)
    if tokens.tokenizer:
        made = Tokenizer.from_str(tokens.tokenizer)
        for token in range(tokens.vocabulary):
            name = made.id_to_token(token)
            text = name if name is None or made.decoder is None else made.decode([token], skip_special_tokens=True)
            found[token] = text is not None and text.endswith(ENDS)
    return found
