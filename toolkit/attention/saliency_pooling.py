"""Saliency pooling: u . tanh(W k + b), the same for every query. Yang et al. 2016, NAACL, sec. 2.2."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.pairwise import Separable, head_dot, head_linear
from toolkit.binding import Positive


class SaliencyPooling(Separable):
    """score(q, k) = u . tanh(W k + b): how salient a key is by itself; what the query holds is not read.

    With one query a sample it is the pooling of hierarchical attention networks, on edges the attention pooling of a
    graph; `AttentionPooling` brings the query. hidden: the size C of W k; None is dim.
    Shapes: weight W (H, D, C), offset b (H, C), context u (H, C).
    Source: Yang et al. 2016, NAACL, https://aclanthology.org/N16-1174, sec. 2.2, word attention: one head there.
    """

    name = "saliency_pooling"
    reads_queries: ClassVar[bool] = False
    capabilities = Capabilities(
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L D C (one query), L^2 + L D C (dense), E + N D C (edges), with C hidden units",
        paper="Yang et al. 2016, Hierarchical Attention Networks for Document Classification, "
        "https://aclanthology.org/N16-1174",
        equation="softmax_j u . tanh(W k_j + b)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"hidden": 3})

    def __init__(self, *, heads: int, dim: int, hidden: Positive | None = None, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.hidden = dim if hidden is None else hidden
        if self.hidden < 1:
            raise ValueError(f"{self.name} wants a positive number of hidden units, but hidden={hidden}")
        self.weight = nn.Parameter(torch.empty(heads, dim, self.hidden))
        self.offset = nn.Parameter(torch.empty(heads, self.hidden))
        self.context = nn.Parameter(torch.empty(heads, self.hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in self.weight:
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.offset)
        nn.init.xavier_uniform_(self.context)

    def query_term(self, q: Tensor) -> Tensor:
        # 0 whatever q holds, NaN included, and still part of the graph, so that its gradient is 0 and not missing
        return q[..., 0].masked_fill(torch.ones((), dtype=torch.bool, device=q.device), 0)

    def key_term(self, k: Tensor) -> Tensor:
        return head_dot((head_linear(k, self.weight) + self.offset).tanh(), self.context)

    def link(self, total: Tensor) -> Tensor:
        return total

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hidden={self.hidden}"
