"""T5's relative positions: a learned bias for each head and bucket of distances. Raffel et al. 2020."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.binding import Positive


class T5Relative(ScaledDotProduct):
    """score = scale q . k + table[bucket(j - i), h].

    buckets, max_distance: half of the buckets are for one distance each, the others grow as its logarithm, and all from
    `max_distance` on share the last. bidirectional: half of the buckets are for keys ahead, as in T5's encoder; without
    it all keys ahead share bucket 0, which is for causal patterns, as in its decoder.
    scale: 1, for T5 has none; None is 1 / sqrt(dim). Shapes: table (buckets, H), as `relative_attention_bias` in
    Hugging Face's T5. Source: arXiv:1910.10683, sec. 2.1; the rule for buckets is in its released code.
    """

    name = "t5_relative"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D",
        paper="Raffel et al. 2020, Exploring the Limits of Transfer Learning (T5), arXiv:1910.10683",
        equation="softmax_j scale q_i . k_j + table[bucket(j - i), h]",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"buckets": 8, "max_distance": 5},
        {"buckets": 4, "max_distance": 4, "bidirectional": False},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        buckets: Positive = 32,
        max_distance: Positive = 128,
        bidirectional: bool = True,
        scale: float | None = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, scale=scale, **options)
        single = buckets // (4 if bidirectional else 2)
        if buckets % 2 or single < 1 or max_distance <= single:
            least = 4 if bidirectional else 2
            raise ValueError(
                f"{self.name} wants an even number of buckets, at least {least}, and max_distance above the {single} "
                f"distances that have a bucket each, but buckets={buckets}, max_distance={max_distance} were given"
            )
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional
        self.table = nn.Parameter(torch.empty(buckets, heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=self.dim**-0.5)

    def bucket(self, ahead: Tensor) -> Tensor:
        """Return the bucket of each distance j - i, which is positive for keys ahead. Shapes: any."""
        side = self.buckets // 2 if self.bidirectional else self.buckets
        distance = ahead.abs() if self.bidirectional else (-ahead).clamp_min(0)
        single = side // 2
        # in single precision and in this order, as the released code: at the edges of buckets rounding decides
        share = (distance.clamp_min(1).float() / single).log() / math.log(self.max_distance / single)
        grown = single + (share * (side - single)).long()
        bucket = torch.where(distance < single, distance, grown.clamp_max(side - 1))
        return bucket + side * (ahead > 0) if self.bidirectional else bucket

    def position_bias(self, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        bucket = self.bucket(j - i)
        if head.dim() != bucket.dim() or head.dim() < 2 or bucket.shape[1] != 1 or head.numel() != head.shape[1]:
            return self.table[bucket, head]
        # the same for heads along dimension 1; an embedding adds up the gradients of its rows far faster than indexing
        chosen = F.embedding(bucket.squeeze(1), self.table.index_select(1, head.flatten()))
        return chosen.movedim(-1, 1).contiguous()

    def extra_repr(self) -> str:
        options = f"buckets={self.buckets}, max_distance={self.max_distance}, bidirectional={self.bidirectional}"
        return f"{super().extra_repr()}, {options}"
