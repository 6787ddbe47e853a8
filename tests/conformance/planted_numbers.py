"""Small mechanisms with one bug each in their numbers: gradients, precision, estimates, and what compilers see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from planted import Sound
from torch import Tensor

from toolkit.attention import Capabilities, Pairwise
from toolkit.attention.call import Call
from toolkit.attention.scaled_dot_product import ScaledDotProduct


class Detached(Sound):
    """The weights are taken for constants in the backward pass."""

    def mix(self, weights: Tensor, call: Call) -> Tensor:
        return weights.detach() @ call.v


class Coarse(Sound):
    """Scores of single precision are rounded to half of it."""

    def scores(self, call: Call) -> Tensor:
        scores = super().scores(call)
        return scores if scores.dtype == torch.float64 else scores.bfloat16().to(scores.dtype)


class CoarseHalf(Sound):
    """In half precision the weights keep three bits."""

    def weigh(self, scores: Tensor, mask: Tensor) -> Tensor:
        weights = super().weigh(scores, mask)
        coarse = weights.to(torch.float8_e4m3fn).to(weights.dtype)
        return coarse if weights.dtype in (torch.float16, torch.bfloat16) else weights


class ForgetsItsLink(ScaledDotProduct):
    """Scores are soft-capped, but it does not say that its link does anything: fast kernels leave it out."""

    name = "forgets_its_link"

    def link(self, product: Tensor) -> Tensor:
        return 2 * torch.tanh(product / 2)


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.x * grad


class LosesSecondDerivative(Pairwise):
    """The first derivative is right and the second is a constant's."""

    name = "loses_second_derivative"
    capabilities = Capabilities(cost="L^2 D", paper="none", equation="(q + k)^2")

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        squared: Tensor = _Square.apply(q + k)
        return squared.sum(-1)


class LosesItWithoutBackends(Sound):
    """The same in a mechanism that has no backends to declare it for."""

    def scores(self, call: Call) -> Tensor:
        squared: Tensor = _Square.apply(call.q)
        return super().scores(call) + squared @ call.k.transpose(-2, -1)


class FarFromDeclared(Sound):
    """The mean of all values is declared to be scaled dot-product attention but for one part in a hundred."""

    capabilities = replace(Sound.capabilities, exactness="approximate", approximates="scaled_dot_product", error=0.01)

    def scores(self, call: Call) -> Tensor:
        return super().scores(call) * 0


class ZerosForDeclared(Sound):
    """Zeros are declared to be scaled dot-product attention but for a rest that would be worth nothing."""

    capabilities = replace(Sound.capabilities, exactness="approximate", approximates="scaled_dot_product", error=0.99)

    def mix(self, weights: Tensor, call: Call) -> Tensor:
        return super().mix(weights, call) * 0


class NoBetterWithMore(Sound):
    """It is as close as it declares, but the number of features that it asks for does nothing."""

    capabilities = replace(
        Sound.capabilities,
        exactness="approximate",
        approximates="scaled_dot_product",
        error=0.6,
        error_at=("features", 64),
    )

    def __init__(self, *, heads: int, dim: int, features: int = 8, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        self.features = features

    def scores(self, call: Call) -> Tensor:
        return super().scores(call) / 2


class ApproximatesNothing(Sound):
    """It is approximate, and does not say what it approximates."""

    capabilities = replace(Sound.capabilities, exactness="approximate")


class BranchesOnData(Sound):
    """It looks at a value to decide, and declares that it compiles and exports."""

    capabilities = replace(Sound.capabilities, compiles=frozenset({"dense"}), exports=frozenset({"dense"}))

    def scores(self, call: Call) -> Tensor:
        scores = super().scores(call)
        return scores / 2 if float(scores.max()) > 1 else scores


class SumsInHalf(Sound):
    """The gradients of a node's edges are added up one after another in the type of the node."""

    def taken(self, x: Tensor, source: Tensor) -> Tensor:
        return x[source]
