"""A transformer layer around any mechanism: self-attention, cross-attention in a decoder, a feed-forward network."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from toolkit.attention.dropout import Dropout
from toolkit.attention.layer import MultiHeadAttention, Projected
from toolkit.attention.mechanism import AttentionOutput, Buildable, Mechanism
from toolkit.attention.need import Need
from toolkit.attention.pattern import Pattern
from toolkit.errors import ShapeError

Order = Literal["pre", "post"]
Activation = Literal["relu", "gelu", "gelu_tanh"]
"""`gelu_tanh` is the approximation by tanh, which GPT-2 was trained with."""


class LayerOutput(NamedTuple):
    """What a layer returns. Shapes: x (B, L, dim). attention, cross: what each attention gave besides its values."""

    x: Tensor
    attention: AttentionOutput
    cross: AttentionOutput | None


class TransformerLayer(nn.Module):
    """x + attention(x), then x + cross(x, context) in a decoder, then x + W_2 f(W_1 x), each with its layer norm.

    dim, heads, kv_heads: as in `MultiHeadAttention`. attention: the mechanism of self-attention, by name, ready made
    for heads and dim / heads, or as a recipe chooses it. cross: that of the attention to a context; None for a layer
    without. hidden: width of the feed-forward network, 4 dim by default.
    order: `post` normalises each sum, as the paper does; `pre` normalises what goes into each part, which trains
    without a warm-up; the last layer then wants a norm behind it. dropout: rate on what each part adds, and on the
    hidden units. The mechanism has its own rate for weights.
    Source: arXiv:1706.03762, sec. 3.1 and 3.3; order: arXiv:2002.04745.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        attention: str | Mechanism | Buildable = "scaled_dot_product",
        cross: str | Mechanism | Buildable | None = None,
        hidden: int | None = None,
        kv_heads: int | None = None,
        dropout: float = 0.1,
        order: Order = "pre",
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        if min(dim, heads) < 1 or dim % heads:
            raise ShapeError(f"a layer wants heads that divide dim, but dim={dim}, heads={heads}")
        for what, given, known in (("order", order, get_args(Order)), ("activation", activation, get_args(Activation))):
            if given not in known:
                raise ValueError(f"a layer knows {what} {' and '.join(known)}, but {given!r} was given")
        self.order = order

        def attend(chosen: str | Mechanism | Buildable) -> MultiHeadAttention:
            made = chosen if isinstance(chosen, str | Mechanism) else chosen.build(heads=heads, dim=dim // heads)
            return MultiHeadAttention(dim=dim, heads=heads, kv_heads=kv_heads, attention=made)

        self.attention = attend(attention)
        self.cross = None if cross is None else attend(cross)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 if cross is None else 3))
        width = 4 * dim if hidden is None else hidden
        self.feedforward = nn.Sequential(
            nn.Linear(dim, width),
            _activation(activation),
            Dropout(dropout),
            nn.Linear(width, dim),
        )
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        pattern: Pattern | None = None,
        *,
        context: Tensor | Projected | None = None,
        context_pattern: Pattern | None = None,
        state: Any = None,
        context_state: Any = None,
        need: Need | None = None,
    ) -> LayerOutput:
        """Shapes: x (B, L, dim), context (B, Lk, dim) or as `cross.project` projected it once for all steps.

        state: of self-attention, a cache that `attention.cache` made, or as its mechanism takes it. context_state: of
        the attention to the context, for a mechanism that counts its queries or knows where it looked. need: of both.

        Raises: ShapeError for a context without cross-attention, or the reverse.
        """
        if (context is None) != (self.cross is None):
            raise ShapeError(
                f"this layer has {'no ' if self.cross is None else ''}cross-attention, but a context was "
                f"{'not ' if context is None else ''}given"
            )
        norm, *between = self.norms
        output = self.attention(self._before(norm, x), None, pattern, state=state, need=need)
        x = self._after(norm, x, output.values)
        crossed = None
        if self.cross is not None:
            norm = between.pop(0)
            crossed = self.cross(self._before(norm, x), context, context_pattern, state=context_state, need=need)
            x = self._after(norm, x, crossed.values)
        norm = between[0]
        x = self._after(norm, x, self.feedforward(self._before(norm, x)))
        return LayerOutput(x, output, crossed)

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.order == "pre" else x

    def _after(self, norm: nn.Module, x: Tensor, added: Tensor) -> Tensor:
        total = x + self.dropout(added)
        return total if self.order == "pre" else norm(total)


def _activation(name: Activation) -> nn.Module:
    return nn.ReLU() if name == "relu" else nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")
