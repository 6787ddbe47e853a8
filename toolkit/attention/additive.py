"""Additive attention: v . tanh(q + k + b). Bahdanau et al. 2014, arXiv:1409.0473, sec. A.1.2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.pairwise import Pairwise, head_dot


class Additive(Pairwise):
    """score(q, k) = v . tanh(q + k + b), where q = W s and k = U h are what a layer projects.

    offset: whether b is there; the paper has none, others do. Shapes: weight v (H, D), offset b (H, D) or None.
    Source: arXiv:1409.0473, sec. A.1.2; b as in arXiv:1506.07503, eq. 7.
    """

    name = "additive"
    capabilities = Capabilities(
        cost="L^2 D (dense), E D (edges)",
        paper="Bahdanau, Cho, Bengio 2014, Neural Machine Translation by Jointly Learning to Align and Translate, "
        "arXiv:1409.0473",
        equation="softmax_j v . tanh(q_i + k_j + b)",
    )

    def __init__(self, *, heads: int, dim: int, offset: bool = True, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.weight = nn.Parameter(torch.empty(heads, dim))
        self.offset = nn.Parameter(torch.empty(heads, dim)) if offset else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.offset is not None:
            nn.init.zeros_(self.offset)

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        k = k if self.offset is None else k + self.offset  # on the keys alone it is once a key in the dense layout
        return head_dot(torch.tanh(q + k), self.weight)
