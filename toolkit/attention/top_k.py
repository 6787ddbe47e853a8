"""Top-k attention: each query keeps its k largest scores. Gupta et al. 2021, arXiv:2106.06899."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.normalizers import EdgeRows, Normalizer, Rows, Weigh
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.binding import Positive


class TopK(ScaledDotProduct):
    """Scaled dot-product over the `keep` largest scores of each query, bias included; equals of the least stay.

    A query with fewer keys keeps them all. Source: arXiv:2106.06899, sec. 2; arXiv:1912.11637, eq. 4 (ties).
    """

    name = "top_k"
    capabilities = Capabilities(
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D (dense), E D (edges), with all scores in memory",
        paper="Gupta et al. 2021, Memory-efficient Transformers via Top-k Attention, arXiv:2106.06899",
        equation="softmax over the k largest of q_i . k_j / sqrt(D)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"keep": 2}, {})

    def __init__(self, *, heads: int, dim: int, keep: Positive = 32, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if keep < 1:
            raise ValueError(f"{self.name} wants to keep at least 1 score, but keep={keep} was given")
        self.keep = keep
        weigh = partial(_weigh_largest, keep=keep, whole=self.normalizer.weigh)
        self.normalizer = Normalizer(weigh, self.normalizer.sums)

    def refusal(self, backend: str, call: Call) -> str | None:
        return None if backend in ("reference", "rows", "chunked") else "its scores are ranked before they are weighed"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep={self.keep}"


def _weigh_largest(scores: Tensor, rows: Rows, *, keep: int, whole: Weigh) -> tuple[Tensor, Tensor | None]:
    least = rows.spread(smallest_kept(scores.detach(), rows, keep))
    return whole(scores.masked_fill(scores < least, -torch.inf), rows)


def smallest_kept(scores: Tensor, rows: Rows, keep: int) -> Tensor:
    """Return the `keep`-th largest score of each row, -inf for shorter rows. Shapes: a reduction of the rows."""
    if not isinstance(rows, EdgeRows):
        if scores.shape[-1] < keep:
            return scores.new_full((*scores.shape[:-1], 1), -torch.inf)
        return scores.topk(keep, -1).values[..., -1:]
    target = rows.target[:, None].expand_as(scores)
    order = scores.argsort(dim=0, descending=True)
    order = order.gather(0, target.gather(0, order).argsort(stable=True, dim=0))  # by target, then by score
    count = torch.bincount(rows.target, minlength=rows.num_targets)
    place = (count.cumsum(0) - count + keep - 1).clamp_max(max(0, len(scores) - 1))
    least = scores.new_full((rows.num_targets, scores.shape[1]), -torch.inf)
    if len(scores):
        least = torch.where(count[:, None] >= keep, scores.gather(0, order[place]), least)
    return least
