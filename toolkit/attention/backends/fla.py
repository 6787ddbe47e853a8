"""The flash-linear-attention package: a fused kernel for sums along a causal sequence, on CUDA."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.backends import Reasons, trust
from toolkit.attention.call import Call
from toolkit.attention.running_sums import Keys, Sums, add, empty
from toolkit.attention.running_sums import along as plainly_along
from toolkit.attention.terms import Terms
from toolkit.errors import CapabilityError

_DEVICES = ("cuda",)
_ALLOWED = 4e-3  # products of numbers rounded to TF32, as far from exact as half precision
_PLAIN = "sums in chunks of plain torch"


def refusal(call: Call, terms: Terms) -> str | None:
    """Say why the kernel will not sum along a call's keys."""
    if not terms.causal or terms.segments is not None:
        return "it sums along causal sequences alone"
    if torch.compiler.is_compiling():
        return "its kernel is closed to compilers"
    if not trust.installed("fla"):
        return "flash-linear-attention is not installed; pip install flash-linear-attention"
    kind, dtype = call.q.device.type, call.q.dtype
    if kind not in _DEVICES:
        return f"it runs on {' and '.join(_DEVICES)}, not on {kind}"
    if dtype == torch.float64:
        return "its kernel does not take torch.float64"
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        return "it rounds single precision to TF32; torch.set_float32_matmul_precision('high') permits that"
    if min(call.queries, call.k.shape[2]) < call.q.shape[1]:
        return "it takes sequences of fewer tokens than heads for a mistake"
    return None


def choose(wanted: str, call: Call, terms: Terms) -> Reasons:
    """Choose between the kernel and plain torch.

    Raises: CapabilityError where the kernel was asked for and will not run.
    """
    if wanted == "torch":
        return Reasons("torch", "it was asked for", {})
    why = refusal(call, terms)
    if wanted == "fla":
        if why is not None:
            raise CapabilityError(f"backend 'fla' cannot run this: {why}. What can: torch")
        return Reasons("fla", "it was asked for", {})
    why = why or trust.doubt("fla", call.q.device, call.q.dtype, _measure, _ALLOWED)
    if why is None:
        return Reasons("fla", (__doc__ or "").partition("\n")[0], {})
    return Reasons("torch", _PLAIN, {"fla": why})


def along(
    q: Tensor, keys: Keys, before: Sums, *, runs: Tensor | None = None, causal: bool = True
) -> tuple[Tensor, Tensor, Sums]:
    """Do what `running_sums.along` does for keys without a scale whose last value is 1; shapes are given there."""
    assert keys.scale is None
    assert runs is None
    assert causal
    turned = (x.transpose(1, 2).contiguous() for x in (q, keys.k, keys.v[..., :-1]))
    options: dict[str, Any] = {"head_first": False} if "head_first" in _parameters() else {}
    summed, after = _kernel()(
        *turned,
        scale=1.0,
        initial_state=before.sums[..., :-1].contiguous(),
        output_final_state=True,
        normalize=False,  # its own adds a small number to each sum
        **options,
    )
    running = keys.k.cumsum(2) + before.sums[..., None, :, -1]
    total = (q * running).sum(-1, keepdim=True)
    sums = torch.cat([after.to(q.dtype), running[:, :, -1, :, None]], -1)
    return torch.cat([summed.transpose(1, 2), total], -1), q.new_zeros(q.shape[:3]), Sums(sums, before.peak)


@lru_cache
def _parameters() -> frozenset[str]:
    return frozenset(inspect.signature(_kernel()).parameters)


def _kernel() -> Any:
    return import_module("fla.ops.linear_attn").chunk_linear_attn


def _measure(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Compare with plain sums, after some keys that came before."""

    def mixed(sums: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kind = torch.promote_types(q.dtype, torch.float32)
        q, k, v = F.elu(q.to(kind)) + 1, F.elu(k.to(kind)) + 1, v.to(kind)
        keys = Keys(k, None, torch.cat([v, torch.ones_like(v[..., :1])], -1))
        found, _, after = sums(q, keys, add(empty(keys), keys.cut(0, 10)))
        return torch.cat([found[..., :-1] / found[..., -1:], after.sums.mean(-2, keepdim=True)[..., :-1]], 2)

    q, k, v = (trust.drawn(2, 2, 192, 32, seed=seed).to(device, dtype) for seed in range(3))
    yield from trust.compared(
        lambda q, k, v: mixed(along, q, k, v), lambda q, k, v: mixed(plainly_along, q, k, v), (q, k, v)
    )
