"""Talking-heads attention: heads mix their scores and their weights. Shazeer et al. 2020, arXiv:2003.02436."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.pattern import Full
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.binding import NonNegativeFloat
from toolkit.errors import CapabilityError


class TalkingHeads(ScaledDotProduct):
    """w = softmax(P q . k / sqrt(D)) and values = (W w) v: each head's scores and weights are mixtures of all heads'.

    The caller's bias and pattern come between both mixtures, so no infinity is ever multiplied by a weight, and a pair
    that is masked has weight 0 before and after. Heads that mix cannot each have a pattern of their own: such a one is
    refused. A row that looks at NaN in one head is NaN in all.
    scores, weights: whether those are mixed. noise: both matrices start as the identity, which is scaled dot-product
    attention, plus normal numbers of this standard deviation.
    Weights shown are those after mixing, and lse is that of the mixed scores.
    Shapes: score_mixture P and weight_mixture W (H, H), from the second to the first.
    Source: arXiv:2003.02436, sec. 4; with as many heads for scores, weights and values.
    """

    name = "talking_heads"
    capabilities = Capabilities(
        sums="any",
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 (D + H) (dense), E (D + H) (edges) a head, with all scores in memory on edges",
        paper="Shazeer et al. 2020, Talking-Heads Attention, arXiv:2003.02436",
        equation="sum_h W_gh softmax_j (sum_f P_hf q_if . k_jf / sqrt(D))",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"weights": False}, {"scores": False, "noise": 0.1})

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        scores: bool = True,
        weights: bool = True,
        noise: NonNegativeFloat = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if noise < 0:
            raise ValueError(f"{self.name} wants a noise of 0 or more, but {noise} was given")
        self.noise = noise
        self.score_mixture = nn.Parameter(torch.empty(heads, heads)) if scores else None
        self.weight_mixture = nn.Parameter(torch.empty(heads, heads)) if weights else None
        if not weights:
            self.capabilities = replace(type(self).capabilities, sums=None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for mixture in (self.score_mixture, self.weight_mixture):
            if mixture is not None:
                nn.init.eye_(mixture)
                with torch.no_grad():
                    mixture.add_(torch.randn_like(mixture), alpha=self.noise)

    @property
    def _mixes(self) -> bool:
        return self.score_mixture is not None or self.weight_mixture is not None

    def prepare(self, call: Call) -> Call:
        call = super().prepare(call)
        pattern = call.pattern
        if pattern is not None and not isinstance(pattern, Full) and pattern.per_head:
            raise CapabilityError(
                f"{self.name} mixes its heads, so they cannot each have a pattern of their own; give one pattern for "
                "all heads, or use scaled_dot_product"
            )
        return _Mixed(**vars(call)) if self._mixes else call

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().score(q, k)
        return scores if self.score_mixture is None else _mixed(scores, self.score_mixture, -1)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().scores(q, k)
        return scores if self.score_mixture is None else _mixed(scores, self.score_mixture, 1)

    def reweigh(self, weights: Tensor, call: Call, rows: Tensor | None = None) -> Tensor:
        return weights if self.weight_mixture is None else _mixed(weights, self.weight_mixture, 1)

    def refusal(self, backend: str, call: Call) -> str | None:
        return "its heads are mixed around softmax" if self._mixes and backend not in ("reference", "rows") else None

    def extra_repr(self) -> str:
        mixed = [name for name in ("score_mixture", "weight_mixture") if getattr(self, name) is not None]
        return f"{super().extra_repr()}, mixes={mixed}, noise={self.noise}"


class _Mixed(Call):
    """A call whose heads share what they look at: one that looks at NaN spoils its row for all."""

    def quarantined(self) -> tuple[Call, Tensor | None]:
        call, looked = super().quarantined()
        return call, None if looked is None else looked.any(1, keepdim=True).expand_as(looked)


def _mixed(x: Tensor, mixture: Tensor, axis: int) -> Tensor:
    """Mix the heads, which lie along `axis`. Shapes: mixture (H, H), from the second to the first."""
    mixture = mixture.to(x.dtype)
    if axis == -1 or x.dim() == 2:  # edges (E, H)
        return x @ mixture.T
    return torch.einsum("gh,bhij->bgij", mixture, x)
