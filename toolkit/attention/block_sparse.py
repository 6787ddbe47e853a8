"""Attention within blocks, and BigBird's neighbouring, global and random blocks (arXiv:2007.14062)."""

from __future__ import annotations

from typing import Any, ClassVar

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.narrowed import Narrowed
from toolkit.attention.pattern import Pattern
from toolkit.attention.sparse_pattern import Side, blocks, global_tokens, random_blocks
from toolkit.binding import NonNegative, Positive


class BlockLocal(Narrowed):
    """Positions are cut into blocks of `block`, and each sees its own and `around` blocks on either side.

    Source: arXiv:1802.05751, sec. 3.3, local self-attention in blocks; around: arXiv:2007.14062, app. D.
    """

    name = "block_local"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L S D for blocks of S",
        paper="Parmar et al. 2018, Image Transformer, arXiv:1802.05751",
        equation="softmax_j q_i . k_j / sqrt(D), |i // S - j // S| <= around",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"block": 2}, {"block": 2, "around": 1})

    def __init__(self, *, heads: int, dim: int, block: Positive = 64, around: NonNegative = 0, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.block, self.around = block, around
        self._pattern = blocks(block, around)

    def own_pattern(self, call: Call) -> Pattern:
        return self._pattern

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, block={self.block}, around={self.around}"


class BigBird(Narrowed):
    """Each block of queries sees its own block, `around` blocks on either side, global blocks and random ones.

    block: positions a block. global_blocks: blocks at the start that see all and are seen by all; the paper's code also
    takes the last one, which a decoder cannot. random: how many further blocks are drawn, the same for all heads: half
    of them, rounded up, from earlier blocks, the others from later ones. The earlier ones follow from `seed` and the
    block's place alone, whatever the pattern and the length, so a decoder sees what it saw in training; under a causal
    pattern they are all that is left. The later ones depend on how many later blocks there are.
    Source: arXiv:2007.14062, sec. 2 and app. D, where all are drawn at once; the defaults are BigBird-ITC's there.
    """

    name = "big_bird"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L (W + G + R) S D for W + G + R blocks of S",
        paper="Zaheer et al. 2020, Big Bird: Transformers for Longer Sequences, arXiv:2007.14062",
        equation="softmax_j q_i . k_j / sqrt(D), j near, global or drawn",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"block": 2, "around": 0, "global_blocks": 1, "random": 1},)

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        block: Positive = 64,
        around: NonNegative = 1,
        global_blocks: NonNegative = 2,
        random: NonNegative = 3,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.block, self.around, self.global_blocks, self.random, self.seed = block, around, global_blocks, random, seed

    def own_pattern(self, call: Call) -> Pattern:
        own = blocks(self.block, self.around)
        if self.global_blocks:
            own = own | global_tokens(range(self.global_blocks * self.block))
        if self.random:
            own = own | self._drawn(-(-self.random // 2), "past")
        if self.random > 1:
            own = own | self._drawn(self.random // 2, "ahead")
        return own

    def _drawn(self, count: int, side: Side) -> Pattern:
        return random_blocks(self.block, count, seed=self.seed, skip=self.global_blocks, apart=self.around, side=side)

    def extra_repr(self) -> str:
        options = f"block={self.block}, around={self.around}, global_blocks={self.global_blocks}"
        return f"{super().extra_repr()}, {options}, random={self.random}, seed={self.seed}"
