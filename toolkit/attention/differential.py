"""Differential attention: what two maps have in common is taken out. Ye et al. 2024, arXiv:2410.05258."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toolkit.attention.backends import Choice
from toolkit.attention.call import checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.mechanism import AttentionOutput, Mechanism, Request
from toolkit.attention.need import Weights
from toolkit.attention.pairwise import InnerProduct, Pairwise
from toolkit.binding import Positive, Probability
from toolkit.errors import CapabilityError, ShapeError

_EPSILON = 1e-5  # beside the mean square, as in the reference implementation


class Differential(Mechanism):
    """values = (softmax(q1 k1) - lambda softmax(q2 k2)) v, where q1 and q2 are the halves of q, and k1, k2 of k.

    lambda = exp(a1 . b1) - exp(a2 . b2) + lambda_init is one number for all heads, of four learned vectors; they start
    with a standard deviation of 0.1, as in the reference implementation.
    score: the inner product of each half, by name: `scaled_dot_product`, or `rotary`, `alibi`, `sliding_window` and the
    like, with `score_options`. It is built once, for dim / 2, and shared by both maps.
    lambda_init: its value, or `layer`, from 1, for 0.8 - 0.6 exp(-0.3 (layer - 1)); 0.8 without either.
    norm: `rms` divides each head's output by its root mean square and multiplies by 1 - lambda_init, as in the paper,
    without a gain, which the projection after it has; `none` returns the difference itself.
    normalize, backend: those of both maps. dropout: the rate at which each map drops weights, each on its own. They are
    not given in score_options.
    Weights shown are the difference of both maps: some are negative, and a row adds up to 1 - lambda. Times the values
    they are the output before `norm`: exact with norm="none", else a proxy.
    Shapes: query_vectors a and key_vectors b (2, dim / 2). Raises: ShapeError if dim is odd; ValueError for another
    kind of score; TypeError for score_options that are its own. Source: arXiv:2410.05258, sec. 2.1 (the two maps and
    lambda), and headwise normalization (norm).
    """

    name = "differential"
    capabilities = Capabilities(
        weights="proxy",
        sums="any",
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L^2 D (dense), E D (edges): two maps of half the size, and the values twice",
        paper="Ye et al. 2024, Differential Transformer, arXiv:2410.05258",
        equation="softmax_j(q1_i . k1_j / sqrt(D/2)) - lambda softmax_j(q2_i . k2_j / sqrt(D/2))",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"norm": "none", "lambda_init": 0.5},
        {"norm": "none", "layer": 2, "score": "alibi"},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        score: str = "scaled_dot_product",
        score_options: dict[str, Any] | None = None,
        layer: Positive | None = None,
        lambda_init: float | None = None,
        norm: Literal["rms", "none"] = "rms",
        dropout: Probability = 0.0,
        normalize: str = "softmax",
        backend: str = "auto",
    ) -> None:
        super().__init__(heads=heads, dim=dim)
        if dim % 2:
            raise ShapeError(f"differential halves queries and keys, so it wants an even dim, but dim={dim} was given")
        if norm not in ("rms", "none"):
            raise ValueError(f"differential knows norm 'rms' and 'none', but {norm!r} was given")
        self.norm = norm
        self.lambda_init = _first_lambda(layer, lambda_init)
        shared = {"dropout": dropout, "normalize": normalize, "backend": backend}
        self.score = _built(score, {"heads": heads, "dim": dim // 2, **shared}, score_options or {})
        self.query_vectors = nn.Parameter(torch.empty(2, dim // 2))
        self.key_vectors = nn.Parameter(torch.empty(2, dim // 2))
        self.capabilities = self._declared(self.score.capabilities)
        self.reset_parameters()

    @property
    def dropout(self) -> float:
        return self.score.dropout

    def reset_parameters(self) -> None:
        for vectors in (self.query_vectors, self.key_vectors):
            nn.init.normal_(vectors, std=0.1)

    def _declared(self, inner: Capabilities) -> Capabilities:
        own = type(self).capabilities
        biased = type(self.score).position_bias is not Pairwise.position_bias
        return replace(
            own,
            layouts=inner.layouts,
            causal=inner.causal,
            cross=inner.cross,
            positional=biased if inner.positional is None else inner.positional,
            weights="exact" if self.norm == "none" else "proxy",
            compiles=own.compiles & inner.compiles,
            exports=own.exports & inner.exports,
        )

    def factor(self) -> Tensor:
        """Return lambda as it is now. Shapes: ()."""
        kind = torch.promote_types(self.query_vectors.dtype, torch.float32)
        first, second = (self.query_vectors.to(kind) * self.key_vectors.to(kind)).sum(-1).exp()
        return first - second + self.lambda_init

    def attend(self, request: Request) -> AttentionOutput:
        need = request.need
        if request.state is not None:
            raise CapabilityError(f"{self.name} keeps no state between calls, so it takes none")
        if need is not None and need.lse:
            raise CapabilityError(
                f"{self.name} has two maps and no log-sum-exp of its own; ask for weights or received"
            )
        call, looked = checked(request, self).quarantined()
        if looked is not None:
            looked = self._looked(request)
        request = replace(request, v=call.v, bias=call.bias)
        halves = zip(call.q.chunk(2, -1), call.k.chunk(2, -1), strict=True)
        one, other = (self.score.attend(replace(request, q=q, k=k)) for q, k in halves)
        factor, values = self.factor(), (one.values, other.values)
        if not torch.compiler.is_compiling():  # NaN in one row must give no NaN gradient to lambda
            bad = ~(torch.isfinite(values[0]) & torch.isfinite(values[1])).all(-1)
            looked = bad if looked is None else looked | bad
        if looked is not None:
            values = (values[0].masked_fill(looked[..., None], 0), values[1].masked_fill(looked[..., None], 0))
        first, second = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in values)
        difference = first - factor * second
        if self.norm == "rms":
            scale = (difference.square().mean(-1, keepdim=True) + _EPSILON).rsqrt()
            difference = difference * scale * (1 - self.lambda_init)
        shown = None
        if one.weights is not None and other.weights is not None:
            gradient = need is not None and need.gradient
            shown = _subtracted(one.weights, other.weights, factor if gradient else factor.detach())
        difference, shown, _ = call.spoiled(looked, difference, shown)
        return AttentionOutput(values=difference.to(one.values.dtype), weights=shown)

    def _looked(self, request: Request) -> Tensor | None:
        """Say which rows look at NaN as the score does: it may narrow the pattern, or mix heads."""
        size = self.dim // 2
        parts = [
            self.score.read(replace(request, q=q, k=k)).quarantined()[1]
            for q, k in zip(request.q.split(size, -1), request.k.split(size, -1), strict=True)
        ]
        found = [part for part in parts if part is not None]
        return torch.stack(found).any(0) if found else None

    def explain(self, request: Request) -> Choice:
        """Say which backend each of the two maps would get and why the others would not do."""
        call = checked(request, self)
        half = self.dim // 2
        return self.score.explain(replace(request, q=call.q[..., :half], k=call.k[..., :half], v=call.v))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, lambda_init={self.lambda_init:.4g}, norm={self.norm!r}"


def _first_lambda(layer: int | None, value: float | None) -> float:
    if layer is not None and value is not None:
        raise ValueError(
            f"differential takes layer or lambda_init, but layer={layer} and lambda_init={value} were given"
        )
    if layer is not None and layer < 1:
        raise ValueError(f"differential counts layers from 1, but layer={layer} was given")
    if layer is not None:
        return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
    return 0.8 if value is None else value


def _built(name: str, shared: dict[str, Any], options: dict[str, Any]) -> InnerProduct:
    from toolkit.plugins import current_toolkit

    target = current_toolkit().registry.get("attention", name).load()
    if isinstance(target, type) and not issubclass(target, InnerProduct):
        raise ValueError(_unfit(name))
    if twice := sorted(shared.keys() & options.keys()):
        raise TypeError(
            f"differential gives its score {', '.join(shared)} itself, but score_options has {', '.join(twice)}; "
            "give them to differential, for both maps"
        )
    made = target(**shared, **options)
    shown = made.capabilities
    if not isinstance(made, InnerProduct) or shown.weights != "exact" or shown.state != "none":
        raise ValueError(_unfit(name))
    return made


def _unfit(name: str) -> str:
    return (
        f"differential subtracts maps of inner products with exact weights, and {name} is none; "
        "scaled_dot_product, rotary, alibi and sliding_window are"
    )


def _subtracted(one: Weights, other: Weights, factor: Tensor) -> Weights:
    """Return one - factor * other. Shapes: factor ()."""

    def apart(first: Tensor | None, second: Tensor | None) -> Tensor | None:
        return None if first is None or second is None else first - (factor * second).to(first.dtype)

    return replace(one, values=apart(one.values, other.values), received=apart(one.received, other.received))
