"""torch's scaled_dot_product_attention: flash kernels for inner products on dense sequences."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.call import Call
from toolkit.attention.need import Weights
from toolkit.attention.pattern import Window

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise

_SHORT = 192
"""Keys up to which plain maths trains faster in bfloat16 on a CPU."""


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    from toolkit.attention.pairwise import InnerProduct

    if not isinstance(mechanism, InnerProduct):
        return "its score is not an inner product"
    if mechanism.normalize != "softmax":
        return f"it has softmax only, not {mechanism.normalize}"
    if mechanism.linked:
        return "its score is not linear in the inner product"
    if call.layout != "dense":
        return "it has no edge layout"
    if call.need is not None and call.need.gradient:
        return "its weights carry no gradient"
    return "there is no key to look at" if 0 in call.q.shape or 0 in call.k.shape else None


def hesitation(mechanism: Pairwise, call: Call) -> str | None:
    """Say why this is left unless it is asked for.

    Forward and backward of 32 x 4 heads of 64 in bfloat16, milliseconds of one core with avx512_bf16, this and plain
    maths: 22 and 8 for 64 keys, 52 and 25 for 128, 67 and 50 for 192, 204 and 450 for 384. Not so in single precision.
    """
    trains = torch.is_grad_enabled() and call.q.requires_grad
    short = max(call.q.shape[2], call.k.shape[2]) <= _SHORT
    if trains and short and call.q.device.type == "cpu" and call.q.dtype == torch.bfloat16:
        return "torch's backward pass for bfloat16 on CPUs is slower than plain maths for so few keys"
    return None


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    from toolkit.attention.pairwise import InnerProduct

    assert isinstance(mechanism, InnerProduct)
    (q, k), v, bias = mechanism.factors(call.q, call.k), call.v, mechanism.bias(call)
    # torch aligns its causal flag top-left, which is ours only when the lengths agree
    if bias is None and call.pattern == Window(None, 0) and q.shape[2] == k.shape[2]:
        (q, k), scale, rate = widened(q, k, v), mechanism.scale, call.dropout
        return F.scaled_dot_product_attention(q, k, v, dropout_p=rate, scale=scale, is_causal=True), None, None
    return attend(q, k, v, call.mask(), bias, dropout=call.dropout, scale=mechanism.scale), None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, *, dropout: float, scale: float
) -> Tensor:
    """Attend where the mask is True, everywhere without one.

    Shapes: q (B, H, Lq, D), k (B, H, Lk, D), v (B, H, Lk, Dv); mask and bias broadcast to (B, H, Lq, Lk).
    """
    q, k = widened(q, k, v)
    kernel = partial(F.scaled_dot_product_attention, q, k, v, dropout_p=dropout, scale=scale)
    if mask is None:
        return kernel(attn_mask=None if bias is None else bias.to(q.dtype).expand(-1, -1, q.shape[2], k.shape[2]))
    empty = ~mask.any(-1, keepdim=True)
    # a row without keys looks everywhere and is then set to 0: kernels disagree on what softmax of nothing is
    mask = mask | empty
    if bias is not None:
        bias = bias.to(q.dtype)
        none_empty = not torch.compiler.is_compiling() and not bool(empty.any())
        bias = bias if none_empty else bias.masked_fill(empty, 0)
        mask = bias.masked_fill(~mask, float("-inf"))
    return kernel(attn_mask=mask).masked_fill(empty, 0)


def widened(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Give queries and keys as many features as wider values have, by zeros, which change no product.

    torch's flash kernel for CPUs wants one width; without it attention takes 2.7 times as long (1024 keys, 32 and 64).
    """
    more = v.shape[-1] - q.shape[-1]
    if more <= 0 or q.device.type != "cpu":
        return q, k
    return F.pad(q, (0, more)), F.pad(k, (0, more))
