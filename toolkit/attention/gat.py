"""Graph attention (GAT): LeakyReLU(a_q . q + a_k . k). Velickovic et al. 2018, arXiv:1710.10903, eq. 3."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.pairwise import Separable, head_dot


class GAT(Separable):
    """score(q, k) = LeakyReLU(a_q . q + a_k . k), static: the ranking of keys is the same for every query.

    negative_slope: slope of LeakyReLU below 0. Shapes: query_weight a_q (H, D), key_weight a_k (H, D).
    Source: arXiv:1710.10903, eq. 3 and 4; a there is [a_q || a_k].
    """

    name = "gat"
    projections: ClassVar[Literal["shared", "shared_kv", "separate"]] = "shared"
    capabilities = Capabilities(
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 + L D (dense), E + N D (edges)",
        paper="Velickovic et al. 2018, Graph Attention Networks, arXiv:1710.10903",
        equation="softmax_j LeakyReLU(a_q . q_i + a_k . k_j)",
    )

    def __init__(self, *, heads: int, dim: int, negative_slope: float = 0.2, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.negative_slope = negative_slope
        self.query_weight = nn.Parameter(torch.empty(heads, dim))
        self.key_weight = nn.Parameter(torch.empty(heads, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.query_weight)
        nn.init.xavier_uniform_(self.key_weight)

    def query_term(self, q: Tensor) -> Tensor:
        return head_dot(q, self.query_weight)

    def key_term(self, k: Tensor) -> Tensor:
        return head_dot(k, self.key_weight)

    def link(self, total: Tensor) -> Tensor:
        return F.leaky_relu(total, self.negative_slope)
