"""What models of translation share: the sizes they are given, and the vectors of tokens on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention import Need, Weights
from toolkit.data import Spec
from toolkit.decoding.decoder import Decoder
from toolkit_text.data.pair_batch import PairBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import Positions, TokenEmbedding


@dataclass(frozen=True)
class PairSpec:
    """What a model needs to know of the tokens on both sides, as the data's spec holds it.

    joint: whether both sides have one vocabulary. end: the mark behind each text.
    """

    source: TokenSpec
    target: TokenSpec
    joint: bool
    end: int

    @classmethod
    def of(cls, spec: Spec) -> PairSpec:
        source, target = (
            TokenSpec(spec[name], spec["pad"], spec["max_length"]) for name in ("vocabulary", "target_vocabulary")
        )
        return cls(source, target, joint=spec["target_tokenizer"] is None, end=spec["end"])


class Translator(Protocol):
    """What `text:translation` wants of its model, beside the scores of target tokens that calling it gives."""

    def begin(self, batch: PairBatch, longest: int) -> Decoder:
        """Read the sources, and return what writes up to `longest` tokens after the begin's mark."""

    def attention_weights(self, batch: PairBatch, need: Need | None = None) -> list[Weights]:
        """Return how each layer that attends to the source looks at it. Shapes: (B, heads, T, L)."""


class PairEmbedding(nn.Module):
    """The vectors of source tokens and of target tokens, and the scores of what is written.

    tied: one matrix does all that it can: target tokens and scores, and source tokens where the vocabulary is joint.
    positions, dropout: as in `TokenEmbedding`. Source of tied: Press & Wolf 2017, arXiv:1608.05859.
    """

    def __init__(
        self, *, tokens: PairSpec, dim: int, tied: bool, positions: Positions = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.target = TokenEmbedding(tokens=tokens.target, dim=dim, positions=positions, dropout=dropout)
        self.source = self.target
        if not (tied and tokens.joint):
            self.source = TokenEmbedding(tokens=tokens.source, dim=dim, positions=positions, dropout=dropout)
        self.output = None if tied else nn.Linear(dim, tokens.target.vocabulary, bias=False)
        self.offset = nn.Parameter(self.target.tokens.weight.new_zeros(tokens.target.vocabulary))

    def scores(self, x: Tensor) -> Tensor:
        """Return a score for each target token. Shapes: (..., dim) -> (..., V)."""
        weight = self.target.tokens.weight if self.output is None else self.output.weight
        return F.linear(x, weight, self.offset)
