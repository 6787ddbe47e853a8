"""Multi-head attention around any mechanism: projections, groups of heads, self and cross attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from toolkit.attention.mechanism import AttentionOutput, Mechanism
from toolkit.attention.need import Need
from toolkit.attention.pattern import Pattern
from toolkit.errors import CapabilityError, ShapeError


class MultiHeadAttention(nn.Module):
    """out = W_o concat_h attention(W_q x, W_k context, W_v context), with any registered mechanism in the middle.

    dim: features of x and of the output. heads, head_dim: query heads and the size of each, dim / heads by default.
    kv_heads: heads of keys and values, each shared by heads / kv_heads query heads: `heads` is multi-head attention,
    1 is multi-query, in between is grouped-query. context_dim: features of what is attended to, dim by default.
    attention: the name of a mechanism, with `options` for its constructor, or a mechanism made for heads and head_dim.
    A mechanism that projects q, k or v with the same weights (`Mechanism.projections`) has them shared here.
    Raises: ShapeError if the sizes do not divide. Source: arXiv:1706.03762, sec. 3.2.2; arXiv:1911.02150 (multi-query);
    arXiv:2305.13245 (grouped-query).
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        head_dim: int | None = None,
        kv_heads: int | None = None,
        context_dim: int | None = None,
        attention: str | Mechanism = "scaled_dot_product",
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if min(dim, heads) < 1:
            raise ShapeError(f"attention wants positive sizes, but dim={dim}, heads={heads}")
        if head_dim is None and dim % heads:
            raise ShapeError(f"dim={dim} is no multiple of heads={heads}; give head_dim, or heads that divide dim")
        self.dim, self.heads = dim, heads
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.kv_heads = heads if kv_heads is None else kv_heads
        if self.kv_heads < 1 or heads % self.kv_heads:
            raise ShapeError(f"kv_heads={kv_heads} does not divide heads={heads}")
        self.mechanism = mechanism_of(attention, heads, self.head_dim, options)
        shared = self.mechanism.projections
        context = dim if context_dim is None else context_dim
        if shared == "shared" and (self.kv_heads != heads or context != dim):
            raise ShapeError(
                f"{self.mechanism.name} projects queries and keys with the same weights, so "
                f"kv_heads={self.kv_heads} must be heads={heads} and context_dim={context} must be dim={dim}"
            )
        self.query = nn.Linear(dim, heads * self.head_dim, bias=bias)
        kv_width = self.kv_heads * self.head_dim
        self.key = self.query if shared == "shared" else nn.Linear(context, kv_width, bias=bias)
        self.value = self.key if shared != "separate" else nn.Linear(context, kv_width, bias=bias)
        self.out = nn.Linear(heads * self.head_dim, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every projection by Glorot's rule, with biases of 0."""
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        pattern: Pattern | None = None,
        *,
        bias: Tensor | None = None,
        state: Any = None,
        need: Need | None = None,
    ) -> AttentionOutput:
        """Attend from x to itself, or to `context`. The output's `values` are (B, Lq, dim).

        Shapes: x (B, Lq, dim), context (B, Lk, context_dim); bias, state and need as the mechanism takes them.
        Raises: ShapeError, CapabilityError.
        """
        context = x if context is None else context
        for what, given, width in (("x", x, self.query.in_features), ("context", context, self.key.in_features)):
            if given.dim() != 3 or given.shape[-1] != width:
                raise ShapeError(f"attention wants {what} (batch, length, {width}), but {tuple(given.shape)} was given")
        q = self._split(self.query(x), self.heads)
        k = q if self.key is self.query and context is x else self._split(self.key(context), self.kv_heads)
        v = k if self.value is self.key else self._split(self.value(context), self.kv_heads)
        output: AttentionOutput = self.mechanism(q, k, v, pattern, bias=bias, state=state, need=need)
        return replace(output, values=self.out(output.values.transpose(1, 2).flatten(2)))

    def _split(self, projected: Tensor, heads: int) -> Tensor:
        return projected.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)  # (B, H, L, D)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}"


def mechanism_of(attention: str | Mechanism, heads: int, dim: int, options: dict[str, Any]) -> Mechanism:
    """Return the mechanism that a layer is given by name and options, or ready made.

    Raises: ShapeError, TypeError; CapabilityError for attention that is not between queries and keys.
    """
    from toolkit.attention import build

    if isinstance(attention, str):
        made = build(attention, heads=heads, dim=dim, **options)
        if not isinstance(made, Mechanism):
            layouts = ", ".join(sorted(made.capabilities.layouts))
            raise CapabilityError(
                f"attention {attention!r} runs on the layout {layouts}, but a layer of tokens on dense"
            )
        return made
    if options:
        raise TypeError(f"options {sorted(options)} belong to a mechanism that is named, but one was given ready made")
    if (attention.heads, attention.dim) != (heads, dim):
        raise ShapeError(
            f"the mechanism was made for heads={attention.heads}, dim={attention.dim}, "
            f"but the layer has heads={heads}, head_dim={dim}"
        )
    return attention
