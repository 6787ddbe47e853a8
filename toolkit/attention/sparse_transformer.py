"""The strided and fixed patterns of Sparse Transformers. Child et al. 2019, arXiv:1904.10509."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.narrowed import Narrowed
from toolkit.attention.pattern import Pattern, window
from toolkit.attention.sparse_pattern import blocks, fixed, strided
from toolkit.binding import Positive

_PAPER = "Child et al. 2019, Generating Long Sequences with Sparse Transformers, arXiv:1904.10509"


class _Factorized(Narrowed):
    """Two patterns that reach any key in two steps. part: `both` joins them in each head, `near` or `far` is one alone.

    With one alone, layers take turns. The paper is about decoders, under a causal pattern; without one, windows and
    strides look ahead as well.
    """

    def __init__(self, *, heads: int, dim: int, part: Literal["both", "near", "far"] = "both", **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if part not in ("both", "near", "far"):
            raise ValueError(f"{self.name} wants part 'both', 'near' or 'far', but {part!r} was given")
        self.part = part

    def _joined(self, near: Pattern, far: Pattern) -> Pattern:
        return {"near": near, "far": far, "both": near | far}[self.part]


class StridedSparse(_Factorized):
    """near: the `stride` keys on either side. far: the keys whole strides away.

    Source: arXiv:1904.10509, sec. 4.3, strided; eq. 7 (layers take turns) and 8 (joined in each head).
    """

    name = "strided"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D (part both), L S D (near), L^2 D / S (far) for stride S",
        paper=_PAPER,
        equation="softmax_j q_i . k_j / sqrt(D), |i - j| <= S or (i - j) mod S = 0",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"stride": 2}, {"stride": 3, "part": "far"})

    def __init__(self, *, heads: int, dim: int, stride: Positive = 128, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.stride = stride
        self._pattern = self._joined(window(stride, stride), strided(stride))

    def own_pattern(self, call: Call) -> Pattern:
        return self._pattern

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stride={self.stride}, part={self.part!r}"


class FixedSparse(_Factorized):
    """near: the keys of the own block of `stride`. far: the last `summary` keys of every block.

    Source: arXiv:1904.10509, sec. 4.3, fixed, where summary is c, 8 to 32 for a stride of 128 or 256.
    """

    name = "fixed"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L (S + c L / S) D for stride S, summary c",
        paper=_PAPER,
        equation="softmax_j q_i . k_j / sqrt(D), i // S = j // S or j mod S >= S - c",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"stride": 3, "summary": 1},
        {"stride": 2, "summary": 1, "part": "far"},
    )

    def __init__(self, *, heads: int, dim: int, stride: Positive = 128, summary: Positive = 8, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.stride, self.summary = stride, summary
        self._pattern = self._joined(blocks(stride), fixed(stride, summary))

    def own_pattern(self, call: Call) -> Pattern:
        return self._pattern

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stride={self.stride}, summary={self.summary}, part={self.part!r}"
