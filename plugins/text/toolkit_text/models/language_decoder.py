"""A language model in the middle of writing: the texts it has read, and what its layers keep of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor

from toolkit.attention import LearnedPositions, causal
from toolkit.attention.cache import Evict
from toolkit.attention.sliding_window import SlidingWindow
from toolkit.errors import ShapeError

if TYPE_CHECKING:
    from toolkit_text.models.language_model import LanguageModel

PIECE = 256
"""Tokens of a prompt that a sliding window takes in at a time."""


class LanguageDecoder:
    """Goes on with B texts of `length` tokens at most, prompt and all; see `toolkit.decoding.Decoder`.

    What is kept: of a sliding window the keys that it still reaches; of a mechanism with a state of its own that state;
    otherwise the keys of the context that the model was trained with, and past that, as places among the kept keys
    count, the first four and the newest, so that a text may grow longer than any text in training. A longer prompt
    then goes in by quarters of the context, and what goes is gone for a whole quarter.
    Raises: ShapeError for texts longer than learned positions; CapabilityError for a mechanism that cannot write token
    by token. Source: keeping the first: Xiao et al. 2024, arXiv:2309.17453, sec. 3.2.
    """

    def __init__(self, model: LanguageModel, *, batch: int, length: int) -> None:
        if (over := -room(model, length)) > 0:
            raise ShapeError(
                f"this model has learned {length - over} positions, but a text of {length} tokens was asked for, its "
                "prompt and the mark before it among them: ask for fewer, shorten the prompt, or train a model with "
                "attention=rotary model.positions=none, which may go on"
            )
        self.model = model
        reach = _reach(model)
        kept = model.context if reach is None else reach + PIECE + 1
        evict: Evict = "none" if length <= kept else "sinks" if reach is None else "oldest"
        sinks = min(4, kept - 1) if evict == "sinks" else None
        self.first = min(length, kept)
        self.piece = length if evict == "none" else PIECE if reach is not None else max(1, kept // 4)
        self.state = model.stack.begin(batch=batch, capacity=min(length, kept), evict=evict, sinks=sinks)
        if self.state.layers[0] is None:  # nothing fills up
            self.first = self.piece = length

    def advance(self, tokens: Tensor) -> Tensor:
        """Take in the next tokens of each text, and score what may follow. Shapes: (B, n) -> (B, V)."""
        room = self.piece if self.state.length or self.piece == PIECE else self.first
        while tokens.shape[1] > room:
            self._take(tokens[:, :room])
            tokens, room = tokens[:, room:], self.piece
        return self.model.logits(self._take(tokens)[:, -1])

    def reorder(self, samples: Tensor) -> None:
        self.state.reorder(samples)

    def _take(self, tokens: Tensor) -> Tensor:
        state = self.state
        # a single query stands at the last key, so that nothing is ahead of it; a state tells apart, None does not
        alone = tokens.shape[1] == 1 and state.layers[0] is not None
        x = self.model.embedding(tokens, state.length)
        found: Tensor = self.model.stack(x, None if alone else causal(), state=state).x
        return found


def room(model: LanguageModel, length: int) -> int:
    """Return how many tokens a text of some length may still grow by: learned positions end, others do not."""
    positions = model.embedding.positions
    return len(positions.weight) - length if isinstance(positions, LearnedPositions) else sys.maxsize


def _reach(model: LanguageModel) -> int | None:
    """Return how many tokens behind its own a layer looks; None without a bound."""
    first: Any = model.stack.layers[0]
    mechanism = first.attention.mechanism
    if isinstance(mechanism, SlidingWindow) and not mechanism.global_tokens:
        return mechanism.window * mechanism.dilation
    return None
