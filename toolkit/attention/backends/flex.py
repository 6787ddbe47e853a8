"""FlexAttention: a fused kernel for any pattern and bias of an inner product, with no L x L mask or bias in memory.

Compiled and trained on CUDA, where it is chosen by itself once it has passed a self-check. On a CPU torch gives it no
backward pass, and compiling takes longer than it saves (12 s against 2 s the first time, for 1024 tokens), so there it
runs without, for inference, and only when it is asked for.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.attention.backends import sdpa
from toolkit.attention.call import Call
from toolkit.attention.need import Weights
from toolkit.attention.pattern import Full, Lengths, Window

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise

_LEAST = 1024 * 1024  # pairs below which a mask is cheap, and compiling for this shape is not
_NARROWEST = 16  # features of a head that the CUDA kernel takes
CASES = ("window and padding with slopes",)  # of `trust`: one, for each takes seconds to compile


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    from toolkit.attention.pairwise import InnerProduct

    if not isinstance(mechanism, InnerProduct):
        return "its score is not an inner product"
    if mechanism.normalize != "softmax":
        return f"it has softmax only, not {mechanism.normalize}"
    if call.layout != "dense":
        return "it has no edge layout"
    if call.need is not None and call.need.gradient:
        return "its weights carry no gradient"
    if type(mechanism).scores is not InnerProduct.scores:
        return "its scores are made from all keys together"
    if 0 in call.q.shape or 0 in call.k.shape:
        return "there is no key to look at"
    if call.dropout:
        return "it has no dropout"
    kind = call.q.device.type
    if kind == "cpu":
        return "on a CPU it has no backward pass; use torch.no_grad()" if _wants_gradient(mechanism, call) else None
    if kind != "cuda":
        return f"it runs on CUDA and CPUs, not on {kind}"
    if find_spec("triton") is None:
        return "its kernels need triton, which is not installed"
    if call.q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"its kernels do not take {call.q.dtype}"
    widths = (call.q.shape[-1], call.v.shape[-1])
    if min(widths) < _NARROWEST:
        return f"its kernels want at least {_NARROWEST} features a head"
    if torch.is_grad_enabled() and call.bias is not None and call.bias.requires_grad:
        return "it gives a bias no gradient"
    return None


def hesitation(mechanism: Pairwise, call: Call) -> str | None:
    """Say why another backend is likely to be faster."""
    from toolkit.attention.pairwise import Pairwise

    if call.q.device.type != "cuda":
        return "outside CUDA it is slow, and runs only when it is asked for"
    biased = call.bias is not None or type(mechanism).position_bias is not Pairwise.position_bias
    plain = call.pattern is None or isinstance(call.pattern, Full)
    causal = call.pattern == Window(None, 0) and call.queries == call.k.shape[2]
    if sdpa.refusal(mechanism, call) is None and not biased and (plain or causal):
        return "the pattern needs no mask, so sdpa is faster"
    if biased and any(parameter.requires_grad for parameter in mechanism.parameters()):
        return "gradients of a learned bias are summed by atomics, which is slow and not the same each time"
    return None if call.queries * call.k.shape[2] >= _LEAST else "so small a mask is cheaper than compiling"


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    from torch.nn.attention.flex_attention import create_block_mask

    from toolkit.attention.pairwise import InnerProduct, Pairwise

    assert isinstance(mechanism, InnerProduct)
    (q, k), v, pattern, given = mechanism.factors(call.q, call.k), call.v, call.pattern, call.bias
    shape, fused = Lengths(call.queries, k.shape[2]), q.device.type == "cuda"
    own = type(mechanism).position_bias is not Pairwise.position_bias

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        score = mechanism.link(score)
        bias = mechanism.position_bias(h, i + (shape.keys - shape.queries), j) if own else None
        score = score if bias is None else score + bias.to(score.dtype)
        if given is None:
            return score
        place = (x if size > 1 else x * 0 for x, size in zip((b, h, i, j), given.shape, strict=True))
        return score + given[tuple(place)].to(score.dtype)

    mask = None
    if pattern is not None and not isinstance(pattern, Full):
        pattern.check(len(q), q.shape[1], shape)

        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return pattern.allowed(b, h, i, j, shape)

        sizes = (len(q) if pattern.per_sample else None, q.shape[1] if pattern.per_head else None, *shape)
        mask = create_block_mask(mask_mod, *sizes, device=q.device, _compile=fused)
    changed = mechanism.linked or own or given is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")  # as is meant on a CPU
        values = _kernel(fused)(q, k, v, score_mod if changed else None, mask, scale=mechanism.scale)
    return values.to(v.dtype), None, None


@lru_cache(maxsize=2)
def _kernel(fused: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if fused else flex_attention


def _wants_gradient(mechanism: Pairwise, call: Call) -> bool:
    if not torch.is_grad_enabled():  # first: the walk over parameters is a good part of a step of decoding
        return False
    tensors = (call.q, call.k, call.v, *mechanism.parameters(), *([] if call.bias is None else [call.bias]))
    return any(tensor.requires_grad for tensor in tensors)
