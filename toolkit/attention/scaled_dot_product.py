"""Scaled dot-product attention: q . k / sqrt(D). Vaswani et al. 2017, arXiv:1706.03762; on edges, arXiv:2009.03509."""

from __future__ import annotations

from typing import Any

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.pairwise import InnerProduct


class ScaledDotProduct(InnerProduct):
    """score(q, k) = q . k / sqrt(D). On edges it is the attention of the graph transformer.

    scale: the factor before the inner product; None is 1 / sqrt(dim).
    Source: arXiv:1706.03762, eq. 1; arXiv:2009.03509, eq. 3, without edge features.
    """

    name = "scaled_dot_product"
    capabilities = Capabilities(
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D (dense), E D (edges)",
        paper="Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762",
        equation="softmax_j q_i . k_j / sqrt(D)",
    )

    def __init__(self, *, heads: int, dim: int, scale: float | None = None, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.scale = dim**-0.5 if scale is None else scale
