"""What a search needs of a model that is in the middle of writing."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Decoder(Protocol):
    """A model with the state of B texts that it has begun: what it has read, and its caches."""

    def advance(self, tokens: Tensor) -> Tensor:
        """Take in the next tokens of each text, and score what may follow the last of them.

        Shapes: tokens (B, n), n = 1 but for a prompt -> logits (B, V).
        """

    def reorder(self, samples: Tensor) -> None:
        """Let each text go on from another, as beam search does. Shapes: samples (B',) places among the B texts."""
