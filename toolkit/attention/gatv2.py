"""Dynamic graph attention (GATv2): a . LeakyReLU(q + k). Brody et al. 2022, arXiv:2105.14491, eq. 7."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.pairwise import Pairwise, head_dot


class GATv2(Pairwise):
    """score(q, k) = a . LeakyReLU(q + k): the nonlinearity stands inside, so each query can rank keys its own way.

    negative_slope: slope of LeakyReLU below 0. Shapes: weight a (H, D).
    Source: arXiv:2105.14491, eq. 7, where q = W_l h_i and k = W_r h_j.
    """

    name = "gatv2"
    projections: ClassVar[Literal["shared", "shared_kv", "separate"]] = "shared_kv"
    capabilities = Capabilities(
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D (dense), E D (edges)",
        paper="Brody, Alon, Yahav 2022, How Attentive are Graph Attention Networks?, arXiv:2105.14491",
        equation="softmax_j a . LeakyReLU(q_i + k_j)",
    )

    def __init__(self, *, heads: int, dim: int, negative_slope: float = 0.2, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.negative_slope = negative_slope
        self.weight = nn.Parameter(torch.empty(heads, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        return head_dot(F.leaky_relu(q + k, self.negative_slope), self.weight)
