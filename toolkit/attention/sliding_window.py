"""Sliding windows with global tokens, as in Longformer. Beltagy, Peters, Cohan 2020, arXiv:2004.05150."""

from __future__ import annotations

from typing import Any, ClassVar

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.narrowed import Narrowed
from toolkit.attention.pattern import Pattern
from toolkit.attention.sparse_pattern import dilated, global_tokens
from toolkit.binding import NonNegative, Positive


class SlidingWindow(Narrowed):
    """Each query sees itself and `window` keys on either side; under a causal pattern, those behind only.

    So `window` is half of Longformer's w, and Mistral's sliding_window - 1. dilation: how far apart those keys are.
    global_tokens: positions that see all and are seen by all; the projections are the same for them.
    Source: arXiv:2004.05150, sec. 3.1.
    """

    name = "sliding_window"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L W D",
        paper="Beltagy, Peters, Cohan 2020, Longformer: The Long-Document Transformer, arXiv:2004.05150",
        equation="softmax_j q_i . k_j / sqrt(D), |i - j| <= W or i or j global",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"window": 1},
        {"window": 1, "dilation": 2, "global_tokens": (0, 3)},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        window: NonNegative = 256,
        dilation: Positive = 1,
        global_tokens: tuple[NonNegative, ...] = (),
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.window, self.dilation, self.global_tokens = window, dilation, tuple(global_tokens)
        self._pattern = self._made()

    def _made(self) -> Pattern:
        near = dilated(self.window, self.window, self.dilation)
        return near | global_tokens(self.global_tokens) if self.global_tokens else near

    def own_pattern(self, call: Call) -> Pattern:
        return self._pattern

    def extra_repr(self) -> str:
        options = f"window={self.window}, dilation={self.dilation}, global_tokens={self.global_tokens}"
        return f"{super().extra_repr()}, {options}"
