"""Top-down attention with a bottom-up bias: what the query looks for, and what stands out by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.pairwise import InnerProduct, head_dot, head_linear
from toolkit.binding import Positive


class BottomUp(InnerProduct):
    """score(q, k) = q . k / sqrt(D) + strength * saliency(k), where the saliency of a key is learned from it alone.

    saliency: `linear` is w . k, which is the global content bias of Transformer-XL; `tanh` is u . tanh(W k + b) with
    `hidden` units, None for dim. strength: how much it counts, a number for all heads. learned: strength is one number
    a head, learned from there; otherwise it is fixed.
    It is the inner product of [q, 1] and [k, sqrt(D) strength saliency(k)], so that kernels for inner products run it.
    Shapes: context w or u (H, D) or (H, C), weight W (H, D, C), offset b (H, C), strength (H,) or a number.
    Source: the formula is our own. Two streams of which one knows no task: Itti, Koch, Niebur 1998, IEEE PAMI 20(11);
    both words in deep models: Anderson et al. 2018, arXiv:1707.07998, where bottom-up are regions, not scores.
    `linear`: Dai et al. 2019, arXiv:1901.02860, sec. 3.3, term (c).
    """

    name = "bottom_up"
    capabilities = Capabilities(
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D + L D C (dense), E D + N D C (edges), with C hidden units",
        paper="our own formula, after Itti, Koch, Niebur 1998, A Model of Saliency-Based Visual Attention, IEEE PAMI",
        equation="softmax_j q_i . k_j / sqrt(D) + strength u . tanh(W k_j + b)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"saliency": "linear", "strength": 0.5, "learned": False},
        {"hidden": 3},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        saliency: Literal["linear", "tanh"] = "tanh",
        hidden: Positive | None = None,
        strength: float = 1.0,
        learned: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if saliency not in ("linear", "tanh"):
            raise ValueError(f"{self.name} learns a linear or tanh saliency, but {saliency!r} was given")
        if hidden is not None and (hidden < 1 or saliency == "linear"):
            raise ValueError(f"{self.name} has hidden units, one or more, with saliency='tanh'; given hidden={hidden}")
        self.saliency, self.scale, self.start = saliency, dim**-0.5, strength
        width = dim if hidden is None else hidden
        self.weight = nn.Parameter(torch.empty(heads, dim, width)) if saliency == "tanh" else None
        self.offset = nn.Parameter(torch.empty(heads, width)) if saliency == "tanh" else None
        self.context = nn.Parameter(torch.empty(heads, width))
        self.strength = nn.Parameter(torch.empty(heads)) if learned else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.context)
        if self.weight is not None and self.offset is not None:
            for weight in self.weight:
                nn.init.xavier_uniform_(weight)
            nn.init.zeros_(self.offset)
        if self.strength is not None:
            nn.init.constant_(self.strength, self.start)

    def salience(self, k: Tensor) -> Tensor:
        """Say how much keys stand out by themselves: what is added to their scores. Shapes: (..., H, D) -> (..., H)."""
        if self.weight is not None and self.offset is not None:
            k = (head_linear(k, self.weight) + self.offset).tanh()
        return head_dot(k, self.context) * (self.start if self.strength is None else self.strength)

    def query_factor(self, q: Tensor) -> Tensor:
        return F.pad(q, (0, 1), value=1.0)

    def key_factor(self, k: Tensor) -> Tensor:
        return torch.cat([k, (self.salience(k) / self.scale)[..., None].to(k.dtype)], -1)

    def attend(self, request: Request) -> AttentionOutput:
        width = request.v.shape[-1]
        if request.q.dim() != 4 or width != self.dim:
            return super().attend(request)
        # kernels are twice as fast where values are as wide as keys, which are one feature wider here
        output = super().attend(replace(request, v=F.pad(request.v, (0, 1))))
        return replace(output, values=output.values[..., :width])

    def weighed(self, request: Request) -> Call | None:
        return self.read(request)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, saliency={self.saliency!r}, strength={self.start}"
