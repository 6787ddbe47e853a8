"""Masks in other conventions, read as patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.attention.pattern import Dense, Pattern, dense, full
from toolkit.errors import ShapeError


def from_multihead(
    attn_mask: Tensor | None = None, key_padding_mask: Tensor | None = None, *, heads: int = 1
) -> tuple[Pattern, Tensor | None]:
    """Read the masks of `nn.MultiheadAttention`, where True means may NOT look, as a pattern and a bias.

    Shapes: attn_mask (Lq, Lk) or (B * heads, Lq, Lk), key_padding_mask (B, Lk); boolean, or float to be added.
    """
    pattern, bias = full(), None
    for mask, name in ((attn_mask, "attn_mask"), (key_padding_mask, "key_padding_mask")):
        if mask is None:
            continue
        if name == "key_padding_mask":
            if mask.dim() != 2:
                raise ShapeError(f"key_padding_mask wants (B, Lk), but {tuple(mask.shape)} was given")
            mask = mask[:, None, None, :]
        elif mask.dim() == 3:
            if mask.shape[0] % heads:
                raise ShapeError(f"attn_mask wants (B * heads, Lq, Lk) with heads={heads}, given {tuple(mask.shape)}")
            mask = mask.unflatten(0, (-1, heads))
        if mask.dtype == torch.bool:
            pattern = pattern & _spread(~mask)
        else:
            allowed, added = from_additive(mask)
            pattern, bias = pattern & allowed, added if bias is None else bias + added
    return pattern, bias


def from_additive(mask: Tensor) -> tuple[Pattern, Tensor]:
    """Read a float mask that is added to scores: -inf, or the lowest number of its type, means may not look.

    Shapes: mask (Lq, Lk) or (B or 1, H or 1, Lq, Lk) -> pattern, bias of the mask's shape, 0 where nothing may look.
    """
    if not mask.dtype.is_floating_point:
        raise ShapeError(f"an additive mask is floating point, but {mask.dtype} {tuple(mask.shape)} was given")
    if mask.dim() not in (2, 4):
        raise ShapeError(f"an additive mask is (Lq, Lk) or (B, H, Lq, Lk), but {tuple(mask.shape)} was given")
    allowed = mask > torch.finfo(mask.dtype).min
    return _spread(allowed), mask.masked_fill(~allowed, 0)


def from_hugging_face(attention_mask: Tensor) -> tuple[Pattern, Tensor | None]:
    """Read a `transformers` mask: (B, Lk) with 1 = keep, 4-D boolean with True = keep, or 4-D float to be added."""
    if attention_mask.dim() == 2:
        return _spread(attention_mask.bool()[:, None, None, :]), None
    if attention_mask.dtype == torch.bool:
        return _spread(attention_mask), None
    return from_additive(attention_mask)


def _spread(allowed: Tensor) -> Pattern:
    if allowed.dim() == 4 and allowed.shape[2] == 1:  # keys alone: the same for every query
        return Dense(allowed)
    return dense(allowed)
