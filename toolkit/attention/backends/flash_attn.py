"""The flash-attn package: fused kernels for windows, padding, packed segments, ALiBi and soft caps on CUDA."""

from __future__ import annotations

import inspect
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.backends import sdpa, trust
from toolkit.attention.backends.flash_terms import FlashTerms, read
from toolkit.attention.call import Call
from toolkit.attention.need import Weights

if TYPE_CHECKING:
    from toolkit.attention.pairwise import InnerProduct, Pairwise

_DEVICES = ("cuda",)
_DTYPES = (torch.float16, torch.bfloat16)
_WIDEST = 256  # features of a head that its kernels take
CASES = ("padding", "causal and padding", "causal in segments", "window with slopes", "window with a soft cap")


def refusal(mechanism: Pairwise, call: Call) -> str | None:
    from toolkit.attention.pairwise import InnerProduct

    if not isinstance(mechanism, InnerProduct):
        return "its score is not an inner product"
    if (why := _unlike(mechanism, call)) is not None:
        return why
    if torch.compiler.is_compiling():
        return "it reads lengths, which a compiler cannot follow"
    if not trust.installed("flash_attn"):
        return "flash-attn is not installed; pip install flash-attn --no-build-isolation"
    if call.q.device.type not in _DEVICES:
        return f"it runs on {' and '.join(_DEVICES)}, not on {call.q.device.type}"
    if call.q.dtype not in _DTYPES or not call.q.dtype == call.k.dtype == call.v.dtype:
        return f"its kernels take half precision alone, and not {call.q.dtype}"
    if call.q.device.type == "cuda" and torch.cuda.get_device_capability(call.q.device) < (8, 0):
        return "its kernels want a GPU of compute capability 8.0 (Ampere) or newer"
    if "softcap" not in _parameters():
        return "flash-attn 2.6 or newer is wanted; pip install -U flash-attn --no-build-isolation"
    terms = read(call, sloped=_slopes(mechanism) is not None)
    return terms if isinstance(terms, str) else None


def _unlike(mechanism: InnerProduct, call: Call) -> str | None:
    """Say what the kernels cannot do wherever they run."""
    from toolkit.attention.pairwise import InnerProduct, Pairwise
    from toolkit.attention.soft_capped import SoftCapped

    if mechanism.normalize != "softmax":
        return f"it has softmax only, not {mechanism.normalize}"
    if call.layout != "dense":
        return "it has no edge layout"
    if call.need is not None and call.need.gradient:
        return "its weights carry no gradient"
    if 0 in call.q.shape or 0 in call.k.shape:
        return "there is no key to look at"
    if type(mechanism).scores is not InnerProduct.scores or type(mechanism).reweigh is not Pairwise.reweigh:
        return "its scores or weights are made from all keys together"
    if mechanism.linked and type(mechanism).link is not SoftCapped.link:
        return "of scores that are not linear in the inner product it has the soft cap alone"
    if mechanism.linked and call.dropout:
        return "with a soft cap its kernels drop no weights"
    if type(mechanism).position_bias is not Pairwise.position_bias and _slopes(mechanism) is None:
        return "of position biases it has ALiBi's alone"
    if call.bias is not None:
        return "it takes no bias tensor"
    if call.q.shape[-1] > call.v.shape[-1]:
        return "its kernels want values at least as wide as keys"
    return f"its kernels take at most {_WIDEST} features a head" if call.v.shape[-1] > _WIDEST else None


def hesitation(mechanism: Pairwise, call: Call) -> str | None:
    """Say why another backend does as well."""
    terms = read(call, sloped=_slopes(mechanism) is not None)
    assert isinstance(terms, FlashTerms)
    whole = terms.padding is None and terms.segments is None
    plain = terms.window == (None, None) or (terms.window == (None, 0) and call.queries == call.k.shape[2])
    if whole and plain and _slopes(mechanism) is None and sdpa.refusal(mechanism, call) is None:
        return "the pattern needs no mask, so torch's own flash kernel does the same"
    return None


def run(mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
    from toolkit.attention.pairwise import InnerProduct

    assert isinstance(mechanism, InnerProduct)
    slopes = _slopes(mechanism)
    terms = read(call, sloped=slopes is not None)
    assert isinstance(terms, FlashTerms)
    options = {
        "dropout_p": call.dropout,
        "softmax_scale": mechanism.scale,
        "softcap": float(getattr(mechanism, "cap", 0.0)) if mechanism.linked else 0.0,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    kernels = import_module("flash_attn")
    whole, packed = (partial(each, **options) for each in (kernels.flash_attn_func, kernels.flash_attn_varlen_func))
    q, k = mechanism.factors(call.q, call.k)
    q, k = (F.pad(x, (0, call.v.shape[-1] - x.shape[-1])) for x in (q, k))  # zeros change no product
    q, k, v = (x.transpose(1, 2) for x in (q, k, call.v))  # (B, L, H, D)
    shown = {"causal": terms.causal, "window_size": terms.sides, "alibi_slopes": slopes}
    if terms.segments is not None:
        values = _in_segments(packed, terms.segments, q, k, v, shown)
    elif terms.padding is None:
        values = whole(q, k, v, **shown)
    else:
        lengths = terms.padding.clamp_max(k.shape[1])
        apart = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device)
        values = torch.zeros_like(v[:, :1]).expand(-1, q.shape[1], -1, -1)
        if terms.causal:  # up to its sample's length a query sees no padding, and behind it all that is none
            apart = torch.arange(q.shape[1], device=q.device) >= lengths[:, None]
            values = whole(q, k, v, **shown)
        values = _padded(packed, lengths, apart, values, q, k, v)
    return values.transpose(1, 2), None, None


def _in_segments(packed: Any, ids: Tensor, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    """Attend within runs of the same id, which the kernel takes for sequences. Shapes: ids (B, L)."""
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    start = first.flatten().nonzero().flatten()
    bounds = torch.cat([start, start.new_tensor([ids.numel()])])
    longest = int(bounds.diff().max())
    each = (x.flatten(0, 1) for x in (q, k, v))
    values: Tensor = packed(*each, bounds.int(), bounds.int(), longest, longest, **options)
    return values.unflatten(0, ids.shape)


def _padded(packed: Any, lengths: Tensor, apart: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Answer the queries that stand `apart` from all keys of their sample.

    Shapes: lengths (B,), apart (B, Lq), q, values (B, Lq, H, D), k, v (B, Lk, H, D) -> as values.
    """
    shown = torch.arange(k.shape[1], device=k.device) < lengths[:, None]
    asked = apart & (lengths > 0)[:, None]  # a sample without keys gives 0
    shown = shown & asked.any(1, keepdim=True)
    values = values.masked_fill(apart[..., None, None], 0)
    counts = torch.stack([asked.sum(1), shown.sum(1)])
    counts = counts[:, counts[0] > 0]
    if not counts.numel():
        return values
    bounds = F.pad(counts.cumsum(1), (1, 0)).int()
    most = [int(each) for each in counts.amax(1)]
    found = packed(q[asked], k[shown], v[shown], bounds[0], bounds[1], *most)
    return values.index_put(tuple(asked.nonzero().T), found)


def _slopes(mechanism: Pairwise) -> Tensor | None:
    """Return ALiBi's slopes (H,) in single precision; None for a mechanism that has none."""
    from toolkit.attention.alibi import ALiBi

    if not isinstance(mechanism, ALiBi) or type(mechanism).position_bias is not ALiBi.position_bias:
        return None
    return (-mechanism.exponents.float()).exp2()


@lru_cache
def _parameters() -> frozenset[str]:
    return frozenset(inspect.signature(import_module("flash_attn").flash_attn_func).parameters)
