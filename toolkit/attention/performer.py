"""Performer: softmax attention estimated by positive orthogonal random features (FAVOR+). Choromanski et al. 2021."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.kernel import Features, KernelAttention
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.binding import Positive

_HEADROOM = 20.0  # largest features are exp(20): products of opposite q and k, down to exp(-127), stay above 0


class Performer(KernelAttention):
    """phi(x)_f = exp(w_f . x - |x|^2 / 2) / sqrt(m) for x = q / D^(1/4): E phi(q) . phi(k) = exp(q . k / sqrt(D)).

    features: how many, m; None is D ln D. That few are for training with, not for taking the place of softmax in a
    trained model: on random q and k as small as `Capabilities.error` takes, they are farther from softmax attention
    than the mean of the values is (1.3 of that distance; 1024 features 0.35, 4096 features 0.17), and more so on
    larger ones. orthogonal: draw the w_f orthogonal in blocks of D, each still normally distributed: the estimate
    stays unbiased and varies less. redraw: in training, draw anew every so many calls; None keeps the first. Do not
    redraw under activation checkpointing, which calls twice.
    The first draw is seeded by torch's global generator; draws and their seed are buffers, so a restored module
    computes and redraws the same.
    Nothing leaks through stabilisers. The paper's code subtracts the largest exponent over all keys and adds 1e-4, so
    padded and future keys show. Here a query's features are relative to its own largest exponent, which cancels. A
    key's are too, and that exponent goes with it as a scale, relative to the largest among the keys that the query may
    look at (`running_sums`). So nothing overflows, and a key is lost to underflow only beside far larger ones. But a
    query whose keys all point away from it gets 0 in single precision once |q| and |k| pass some 17 D^(1/4).
    Source: arXiv:2009.14794, lemma 1 (positive features), sec. 2.4 (orthogonal), sec. 4.2 (redrawing).
    """

    name = "performer"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        sums="one",
        exactness="approximate",
        approximates="scaled_dot_product",
        error=0.2,
        error_at=("features", 4096),
        state="keys",
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L D m for m features",
        paper="Choromanski et al. 2021, Rethinking Attention with Performers, arXiv:2009.14794",
        equation="phi(q_i) . phi(k_j) / sum_j phi(q_i) . phi(k_j), phi(x)_f = exp(w_f . x - |x|^2 / 2) / sqrt(m)",
    )
    projection: Tensor
    seed: Tensor
    calls: Tensor

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        features: Positive | None = None,
        orthogonal: bool = True,
        redraw: Positive | None = None,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        for what, given in (("features", features), ("redraw", redraw)):
            if given is not None and given < 1:
                raise ValueError(f"performer wants a positive number or None for {what}, but {given} was given")
        self.features = max(1, round(dim * math.log(dim))) if features is None else features
        self.orthogonal, self.redraw = orthogonal, redraw
        self.register_buffer("seed", torch.randint(2**62, (), device="cpu"))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long, device="cpu"))
        self.register_buffer("projection", self._draw(0).to(torch.get_default_dtype()))

    def attend(self, request: Request) -> AttentionOutput:
        if self.training and self.redraw is not None:
            if self.calls and self.calls % self.redraw == 0:  # a new tensor: graphs of earlier calls hold the old one
                self.projection = self._draw(int(self.calls) // self.redraw).to(self.projection)
            self.calls += 1
        return super().attend(request)

    def query_features(self, q: Tensor) -> Features:
        x = q * self.dim**-0.25
        exponent = x @ self.projection.to(x.dtype).mT - (x.square().sum(-1, keepdim=True) + math.log(self.features)) / 2
        scale = exponent.detach().amax(-1) - _HEADROOM
        return (exponent - scale[..., None]).exp(), scale

    def key_features(self, k: Tensor) -> Features:
        return self.query_features(k)

    def _draw(self, number: int) -> Tensor:
        """Draw features, the same for the same seed and number. Shapes: (F, D)."""
        generator = torch.Generator().manual_seed(int(self.seed) + number)
        shape = (-(-self.features // self.dim), self.dim, self.dim)
        drawn = torch.randn(shape, dtype=torch.double, device="cpu", generator=generator)
        if self.orthogonal:
            turned, upper = torch.linalg.qr(drawn)
            turned = turned * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # uniform over all rotations
            length = torch.randn(shape, dtype=torch.double, device="cpu", generator=generator).norm(dim=-1)
            drawn = turned * length[..., None]
        return drawn.flatten(0, 1)[: self.features]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, features={self.features}, orthogonal={self.orthogonal}, redraw={self.redraw}"
