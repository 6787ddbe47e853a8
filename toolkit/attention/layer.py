"""Multi-head attention around any mechanism: projections, groups of heads, self and cross attention, decoding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.attention.cache import Evict, KVCache
from toolkit.attention.mechanism import AttentionOutput, Mechanism
from toolkit.attention.need import Need
from toolkit.attention.pattern import Pattern
from toolkit.errors import CapabilityError, ShapeError


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Keys and values of a context as one layer projected them, to attend to as often as is wanted.

    Shapes: k, v (B, Hkv, Lk, D). by: what projected the keys; no other layer takes them.
    """

    k: Tensor
    v: Tensor
    by: nn.Module = field(repr=False)

    def reorder(self, samples: Tensor) -> Projected:
        """Let each sample go on with another's context, as beam search does. Shapes: samples (B',) of the batch."""
        k = self.k.index_select(0, samples)
        return replace(self, k=k, v=k if self.v is self.k else self.v.index_select(0, samples))


class MultiHeadAttention(nn.Module):
    """out = W_o concat_h attention(W_q x, W_k context, W_v context), with any registered mechanism in the middle.

    dim: features of x and of the output. heads, head_dim: query heads and the size of each, dim / heads by default.
    kv_heads: heads of keys and values, each shared by heads / kv_heads query heads: `heads` is multi-head attention,
    1 is multi-query, in between is grouped-query. context_dim: features of what is attended to, dim by default.
    attention: the name of a mechanism, with `options` for its constructor, or a mechanism made for heads and head_dim.
    A mechanism that projects q, k or v with the same weights (`Mechanism.projections`) has them shared here.
    Decoding: `cache` makes a `KVCache` for this layer. Given as `state`, it takes in the keys and values of each call,
    whose queries look at all that it keeps, and comes back as the output's state; patterns speak of all tokens since
    the start. An encoder's context is projected once, by `project`, and the result given as `context` in every call.
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
        context: Tensor | Projected | None = None,
        pattern: Pattern | None = None,
        *,
        bias: Tensor | None = None,
        state: Any = None,
        need: Need | None = None,
    ) -> AttentionOutput:
        """Attend from x to itself, or to `context`. The output's `values` are (B, Lq, dim).

        Shapes: x (B, Lq, dim), context (B, Lk, context_dim); bias, state and need as the mechanism takes them, or a
        `KVCache` as state: a bias then is for the keys that it keeps.
        Raises: ShapeError, CapabilityError.
        """
        _check("x", x, self.query.in_features)
        cache = state if isinstance(state, KVCache) else None
        if cache is not None:
            self._check_cached(context)
        q = self._split(self.query(x), self.heads)
        k, v = self._keys(x if context is None else context, x, q)
        if cache is not None:
            k, v = cache.append(k, v)
            pattern, state = cache.pattern(pattern), None
        output: AttentionOutput = self.mechanism(q, k, v, pattern, bias=bias, state=state, need=need)
        values = self.out(output.values.transpose(1, 2).flatten(2))
        return replace(output, values=values, state=output.state if cache is None else cache)

    def project(self, context: Tensor) -> Projected:
        """Project a context once, for the many calls of a decoder: `layer(x, layer.project(encoded))`.

        Shapes: context (B, Lk, context_dim). Raises: ShapeError; CapabilityError for a mechanism that places queries
        from the last key on: a single step would stand elsewhere than in the whole.
        """
        name, can = self.mechanism.name, self.mechanism.capabilities
        if self.mechanism.positional and can.state != "queries":
            raise CapabilityError(
                f"{name} has positions, and places the last query at the last key: one step after another would give "
                "something else than all at once, so its context cannot be projected once. Give the context itself "
                "with all queries, or take a mechanism without positions for cross-attention"
            )
        return self._projected(context)

    def _projected(self, context: Tensor) -> Projected:
        _check("context", context, self.key.in_features)
        k = self._split(self.key(context), self.kv_heads)
        v = k if self.value is self.key else self._split(self.value(context), self.kv_heads)
        return Projected(k=k, v=v, by=self.key)

    def cache(
        self,
        *,
        batch: int,
        capacity: int,
        evict: Evict = "none",
        sinks: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """Make an empty cache for this layer; `KVCache` says what the options mean.

        dtype: that of projected keys, by default the weights' or, under autocast, autocast's.
        Raises: CapabilityError for a mechanism that keeps a state of its own.
        """
        self._check_cached(None)
        weight = self.key.weight
        kind = weight.device.type
        if dtype is None:
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        return KVCache(
            batch=batch,
            heads=self.kv_heads,
            dim=self.head_dim,
            capacity=capacity,
            evict=evict,
            sinks=sinks,
            dtype=dtype,
            device=weight.device,
        )

    def _keys(self, context: Tensor | Projected, x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values. Shapes: q (B, H, Lq, D) -> (B, Hkv, Lk, D), twice."""
        if context is x and self.key is self.query:
            return q, q
        projected = context if isinstance(context, Projected) else self._projected(context)
        if projected.by is not self.key:
            raise ShapeError(
                "this context was projected by another layer, with other weights; give it what its own layer.project "
                "returned"
            )
        return projected.k, projected.v

    def _check_cached(self, context: Tensor | Projected | None) -> None:
        name, own = self.mechanism.name, self.mechanism.capabilities.state
        if own != "none":
            raise CapabilityError(
                f"{name} keeps a state of its own ({own}), so it takes no KVCache; begin with state=None and give each "
                "call the state that the one before returned"
                + (", with all keys so far as context" if own == "queries" else "")
            )
        if isinstance(context, Projected):
            raise CapabilityError(
                "a projected context is whole, so a KVCache has nothing to take in; give the context without state, or "
                "as a tensor if it grows"
            )

    def _split(self, projected: Tensor, heads: int) -> Tensor:
        return projected.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)  # (B, H, L, D)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}"


def _check(what: str, given: Tensor, width: int) -> None:
    if given.dim() != 3 or given.shape[-1] != width:
        raise ShapeError(f"attention wants {what} (batch, length, {width}), but {tuple(given.shape)} was given")


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
    if not isinstance(attention, Mechanism):
        raise CapabilityError(f"{type(attention).__name__} is no attention between queries and keys of a sequence")
    if options:
        raise TypeError(f"options {sorted(options)} belong to a mechanism that is named, but one was given ready made")
    if (attention.heads, attention.dim) != (heads, dim):
        raise ShapeError(
            f"the mechanism was made for heads={attention.heads}, dim={attention.dim}, "
            f"but the layer has heads={heads}, head_dim={dim}"
        )
    return attention
