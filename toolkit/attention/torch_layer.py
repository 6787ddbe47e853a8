"""A drop-in for `torch.nn.MultiheadAttention`: the same constructor, weights and output, with any mechanism inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.importers import from_multihead
from toolkit.attention.layer import mechanism_of
from toolkit.attention.mechanism import Mechanism
from toolkit.attention.need import Need
from toolkit.attention.pattern import Pattern, causal
from toolkit.errors import CapabilityError, ShapeError


class TorchMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with its weights and arguments, computed by a mechanism of this toolkit.

    Put `TorchMultiheadAttention(...).load_state_dict(theirs.state_dict())`, or `from_torch(theirs)`, in its place.
    masks: what True means in boolean masks, to be said by whoever builds the module: `blocked`, torch's convention, or
    `may_look`, this toolkit's. A row that may look at nothing gives the output bias, where torch gives NaN.
    attention, options: the mechanism by name, and its constructor's options; `dropout` is torch's argument.
    Raises: CapabilityError for add_bias_kv and add_zero_attn, which change the keys: see `persistent_memory` and
    normalize="softmax_plus_one". Source: arXiv:1706.03762, sec. 3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        masks: Literal["blocked", "may_look"],
        attention: str | Mechanism = "scaled_dot_product",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if add_bias_kv or add_zero_attn:
            raise CapabilityError(
                "add_bias_kv and add_zero_attn append keys of their own; use attention='persistent_memory', or "
                "options={'normalize': 'softmax_plus_one'} for a key of zeros"
            )
        if masks not in ("blocked", "may_look"):
            raise ValueError(f"masks says what True means, 'blocked' or 'may_look', but {masks!r} was given")
        super().__init__(
            embed_dim,
            num_heads,
            dropout,
            bias,
            kdim=kdim,
            vdim=vdim,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )
        self.masks = masks
        self._joint = self._qkv_same_embed_dim
        # Else nn.TransformerEncoderLayer computes torch's own attention from these weights when no gradient is needed.
        self._qkv_same_embed_dim = False
        given = dict(options or {})
        if dropout and isinstance(attention, str):  # a mechanism that drops no weights refuses the option
            given = {"dropout": dropout} | given
        self.mechanism = mechanism_of(attention, num_heads, self.head_dim, given)
        if dropout and getattr(self.mechanism, "dropout", 0.0) != dropout:
            raise ValueError(f"dropout={dropout} was given, but the mechanism was made with another; give it one way")
        self.mechanism.to(device=device, dtype=dtype)

    @classmethod
    def from_torch(
        cls,
        module: nn.MultiheadAttention,
        *,
        attention: str | Mechanism = "scaled_dot_product",
        options: Mapping[str, Any] | None = None,
    ) -> TorchMultiheadAttention:
        """Return a module with the weights of `module`, which keeps torch's convention for masks."""
        weight = module.out_proj.weight
        made = cls(
            module.embed_dim,
            module.num_heads,
            module.dropout,
            module.in_proj_bias is not None,
            module.bias_k is not None,
            module.add_zero_attn,
            module.kdim,
            module.vdim,
            module.batch_first,
            weight.device,
            weight.dtype,
            masks="blocked",
            attention=attention,
            options=options,
        )
        made.load_state_dict(module.state_dict(), strict=not made.mechanism.state_dict())
        return made.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as `nn.MultiheadAttention.forward` does; its documentation gives the shapes."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, as in torch: give the mask too")
        batched = query.dim() == 3
        if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
            raise ShapeError(
                f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}: want 3-D"
            )
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._split(x) for x in self._project(query, key, value))
        pattern, bias = self._read_masks(attn_mask, key_padding_mask, is_causal and q.shape[2] == k.shape[2])
        need = Need(gradient=torch.is_grad_enabled()) if need_weights else None
        output = self.mechanism(q, k, v, pattern, bias=bias, need=need)
        values = self.out_proj(output.values.transpose(1, 2).flatten(2))
        values = values[0] if not batched else values if self.batch_first else values.transpose(0, 1)
        if output.weights is None:
            return values, None
        weights = output.weights.values
        assert weights is not None
        weights = weights.mean(1) if average_attn_weights else weights
        return values, weights if batched else weights[0]

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self._joint and query is key is value:
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            q, k, v = projected.chunk(3, -1)
            return q, k, v
        weights = (
            self.in_proj_weight.chunk(3)
            if self._joint
            else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, H, L, D)

    def _read_masks(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, is_causal: bool
    ) -> tuple[Pattern | None, Tensor | None]:
        masks = [attn_mask if not is_causal else None, key_padding_mask]
        if self.masks == "may_look":
            masks = [mask if mask is None or mask.dtype != torch.bool else ~mask for mask in masks]
        if masks == [None, None]:
            return (causal() if is_causal else None), None
        pattern, bias = from_multihead(*masks, heads=self.num_heads)
        return (pattern & causal() if is_causal else pattern), bias
