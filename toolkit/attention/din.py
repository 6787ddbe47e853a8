"""The attention of the Deep Interest Network: an MLP over query, key, difference and product. arXiv:1706.06978."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toolkit.attention import backends
from toolkit.attention.backends import reference
from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.explicit import answer
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.pairwise import Pairwise, head_dot, head_linear
from toolkit.binding import Positive


class DIN(Pairwise):
    """score(q, k) = MLP([q, k, q - k, q * k]), one MLP a head; by default the scores themselves weigh the values.

    The paper's figure takes an outer product of q and k; the authors' code takes q - k and q * k, as is done here.
    hidden: sizes of the hidden layers. activation: what follows each: `dice` or `prelu` as in the paper, `sigmoid` as
    in the code. normalize: `none` as in the paper, so that the strength of an interest is kept; the code has `softmax`,
    with a scale of 1 / sqrt(dim). scale: the factor before the score.
    Shapes: weights[0] (H, 4 D, C) in the order q, k, q - k, q * k, weights[1:] (H, C, C'), biases (H, C),
    weight (H, C), offset (H,). Source: arXiv:1706.06978, sec. 4.3, eq. 3 (attention), sec. 5.2 (Dice).
    """

    name = "din"
    capabilities = Capabilities(
        cost="L^2 D C (dense), E D C (edges), with C hidden units",
        paper="Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction, arXiv:1706.06978",
        equation="sum_j MLP([q_i, k_j, q_i - k_j, q_i * k_j]) v_j",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"hidden": (5, 3)},)

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        hidden: tuple[Positive, ...] = (80, 40),
        activation: Literal["dice", "prelu", "sigmoid"] = "dice",
        normalize: str = "none",
        scale: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, normalize=normalize, **options)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"din knows the activations {', '.join(_ACTIVATIONS)}, but {activation!r} was given")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"din wants one hidden layer or more, of positive sizes, but {hidden} was given")
        self.hidden, self.activation, self.scale = tuple(hidden), activation, scale
        sizes = zip([4 * dim, *hidden], hidden, strict=False)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(heads, *pair)) for pair in sizes)
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(heads, size)) for size in hidden)
        self.activations = nn.ModuleList(_ACTIVATIONS[activation](heads, size) for size in hidden)
        self.weight, self.offset = nn.Parameter(torch.empty(heads, hidden[-1])), nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in self.weights:
            for weight in layer:
                nn.init.xavier_uniform_(weight)
        nn.init.xavier_uniform_(self.weight)
        for bias in [*self.biases, self.offset]:
            nn.init.zeros_(bias)

    @property
    def pair_width(self) -> int:
        return self.dim + sum(self.hidden)

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        return self._mlp(q, k)

    def _mlp(self, q: Tensor, k: Tensor, seen: Tensor | None = None) -> Tensor:
        on_query, on_key, on_difference, on_product = self.weights[0].split(self.dim, 1)
        # the first layer, put so that what needs one end only is computed once an end in the dense layout
        x = head_linear(q, on_query + on_difference) + head_linear(k, on_key - on_difference)
        x = x + head_linear(q * k, on_product)
        for layer, (bias, activation) in enumerate(zip(self.biases, self.activations, strict=True)):
            x = activation((x if layer == 0 else head_linear(x, self.weights[layer])) + bias, seen)
        return (head_dot(x, self.weight) + self.offset) * self.scale

    def attend(self, request: Request) -> AttentionOutput:
        if not self._counts:
            return super().attend(request)
        call = self.read(request)
        backends.choose(self, call)  # raises if a backend was asked for that will not do
        call, looked = call.quarantined()
        bias = call.bias if call.layout == "edges" else self.bias(call)
        weights, lse = reference.normalized_call(self._scores(call, looked), call, self.normalizer, bias)
        return answer(self, call, weights, lse, looked)

    def weighed(self, request: Request) -> Call | None:
        return None if self._counts else self.read(request)

    @property
    def _counts(self) -> bool:
        return self.training and self.activation == "dice"

    def refusal(self, backend: str, call: Call) -> str | None:
        if self._counts and backend != "reference":
            return "in training Dice takes its mean and variance from all pairs at once"
        return None

    def _scores(self, call: Call, looked: Tensor | None) -> Tensor:
        """Score the pairs that may look, together, and no others; rows that `looked` at NaN stay out of statistics.

        Shapes: (B, H, Lq, Lk) or (E, H).
        """
        if call.layout == "edges":
            source, target = call.edges.index
            return self._mlp(call.q[target], call.k[source], None if looked is None else ~looked[target])
        batch, heads, queries, _ = call.q.shape
        shape = (batch, heads, queries, call.k.shape[2])
        mask = call.mask()
        mask = call.q.new_ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
        mask = mask if looked is None else mask & ~looked[..., None]
        b, i, j = mask.any(1).nonzero(as_tuple=True)
        scores = self._mlp(call.q[b, :, i], call.k[b, :, j], mask[b, :, i, j])
        table = scores.new_zeros(batch, queries, shape[3], heads).index_put((b, i, j), scores)
        return table.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hidden={self.hidden}, activation={self.activation!r}"


class Dice(nn.Module):
    """f(x) = p x + (1 - p) alpha x with p = sigmoid((x - E[x]) / sqrt(Var[x] + 1e-8)), for each head and channel.

    In training mean and variance are those of the batch (of this process), over what is `seen`; in evaluation their
    running averages, so that samples are independent.
    Shapes: x (..., H, C), seen (..., H) bool or None for all, alpha (H, C). Source: arXiv:1706.06978, sec. 5.2.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, heads: int, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.alpha = nn.Parameter(torch.zeros(heads, channels))
        self.register_buffer("running_mean", torch.zeros(heads, channels))
        self.register_buffer("running_variance", torch.ones(heads, channels))

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # 1e-8 is 0 in half precision
        mean, variance = self._moments(wide, seen) if self.training else (self.running_mean, self.running_variance)
        share = torch.sigmoid((wide - mean) * (variance + 1e-8).rsqrt())
        return (wide * (share + (1 - share) * self.alpha)).to(x.dtype)

    def _moments(self, x: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x.flatten(0, -3)
        counted = torch.ones_like(x[..., :1]) if seen is None else seen.flatten(0, -2)[..., None].to(x.dtype)
        count = counted.sum(0)
        mean = (x * counted).sum(0) / count.clamp_min(1)
        variance = ((x - mean).square() * counted).sum(0) / count.clamp_min(1)
        with torch.no_grad():
            step = self.momentum * (count > 0).to(x.dtype)  # a head that saw nothing keeps its averages
            self.running_mean += (step * (mean - self.running_mean)).to(self.running_mean.dtype)
            self.running_variance += (step * (variance - self.running_variance)).to(self.running_variance.dtype)
        return mean, variance


class PReLU(nn.Module):
    """f(x) = max(x, 0) + alpha min(x, 0), for each head and channel. Shapes: x (..., H, C), alpha (H, C)."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((heads, channels), 0.25))

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        return x.clamp_min(0) + self.alpha * x.clamp_max(0)


class Sigmoid(nn.Module):
    """f(x) = 1 / (1 + exp(-x))."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        return x.sigmoid()


_ACTIVATIONS: dict[str, type[nn.Module]] = {"dice": Dice, "prelu": PReLU, "sigmoid": Sigmoid}
