"""A one-time check of a kernel that others wrote, on the device and type at hand, before it is chosen by itself.

Such kernels are compiled or loaded where they run, by versions that we have not seen. So each answers a small request,
forward and backward, and is compared with plain maths in double precision. What fails, or raises, is not chosen in this
process; `Choice.refused` says so, and a warning once.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from toolkit.attention.backends import reference
from toolkit.attention.call import Call, checked
from toolkit.attention.mechanism import Request
from toolkit.attention.need import Weights
from toolkit.attention.pattern import Pattern, causal, padding, segments, window
from toolkit.errors import CapabilityError

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise


class Backend(Protocol):
    """What a module of this package has."""

    def refusal(self, mechanism: Pairwise, call: Call) -> str | None:
        """Say why it will not run a call."""

    def run(self, mechanism: Pairwise, call: Call) -> tuple[Tensor, Weights | None, Tensor | None]:
        """Compute values, and weights and log-sum-exp where it has them."""


Measure = Callable[[torch.device, torch.dtype], Iterator[tuple[str, float]]]
"""(device, type) -> what was compared, and its relative L2 error."""

_ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# a wrong mask, sign or alignment errs by 0.1 and more
_FOUND: dict[tuple[str, str, torch.dtype], str | None] = {}


@lru_cache
def installed(package: str) -> bool:
    """Tell whether a package could be imported, without doing so."""
    return package in sys.modules or find_spec(package) is not None


def doubt(
    name: str, device: torch.device, dtype: torch.dtype, measure: Measure, allowed: float | None = None
) -> str | None:
    """Say why the kernel of a backend is not to be trusted here; None once it has passed its check.

    allowed: the relative L2 error that it may have, by default eight times that of torch's own kernels in this type.
    """
    if torch.compiler.is_compiling():
        return "it is checked before it is chosen, and cannot be while a compiler looks on; ask for it by name"
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return "it is checked before it is chosen, and cannot be while a CUDA graph is captured"
    key = (name, str(device), dtype)
    if key not in _FOUND:
        _FOUND[key] = found = _failure(device, dtype, measure, _ALLOWED[dtype] if allowed is None else allowed)
        if found is not None:
            warnings.warn(f"attention backend {name!r} is left out: {found}", stacklevel=2)
    return _FOUND[key]


def _failure(device: torch.device, dtype: torch.dtype, measure: Measure, allowed: float) -> str | None:
    where = f"its self-check with {dtype} on {device} failed"
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            errors = list(measure(device, dtype))
    except Exception as error:  # whatever a foreign kernel raises, another backend can answer
        return f"{where}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    wrong = [f"{what} by {error:.2g}" for what, error in errors if not error <= allowed]
    if wrong or not errors:
        return f"{where}: {', '.join(wrong) or 'it answered nothing'}, where {allowed:.0e} is allowed"
    return None


def pairwise(backend: Backend, cases: tuple[str, ...]) -> Measure:
    """Return the check of a backend for inner products, on some of the cases by name."""

    def measure(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
        for case in cases:
            for what, error in _measured(backend, case, device, dtype):
                yield f"{case}: {what}", error

    return measure


def _measured(backend: Backend, case: str, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    mechanism, call = _made(case, device, dtype)
    exact = copy.deepcopy(mechanism).double()
    if (why := backend.refusal(mechanism, call)) is not None:
        raise CapabilityError(f"it refused {case}: {why}")

    def fast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return backend.run(mechanism, replace(call, q=q, k=k, v=v))[0]

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference.run(exact, replace(call, q=q, k=k, v=v))[0]

    yield from compared(fast, plain, (call.q, call.k, call.v))


def _made(case: str, device: torch.device, dtype: torch.dtype) -> tuple[Pairwise, Call]:
    from toolkit.attention.alibi import ALiBi
    from toolkit.attention.scaled_dot_product import ScaledDotProduct
    from toolkit.attention.soft_capped import SoftCapped

    keys, dim = 192, 32
    padded = padding(torch.tensor([keys, 100]))
    packed = segments((torch.arange(keys) // 50).expand(2, -1))
    plain, sloped, capped = (
        ScaledDotProduct(heads=2, dim=dim),
        ALiBi(heads=2, dim=dim),
        SoftCapped(heads=2, dim=dim, cap=2.0),
    )
    cases: dict[str, tuple[Pairwise, Pattern, int]] = {
        "padding": (plain, padded, 100),
        "causal and padding": (plain, causal() & padded, keys),
        "causal in segments": (plain, packed & causal(), keys),
        "window with slopes": (sloped, window(40, 0), 100),
        "window with a soft cap": (capped, window(30, 20), keys),
        "window and padding with slopes": (sloped, window(40, 0) & padded, keys),
    }
    mechanism, pattern, queries = cases[case]
    lengths = (queries, keys, keys)
    q, k, v = (drawn(2, 2, n, dim, seed=seed).to(device, dtype) for seed, n in enumerate(lengths))
    mechanism.to(device, dtype).eval()
    return mechanism, mechanism.prepare(checked(Request(q=q, k=k, v=v, pattern=pattern.to(device)), mechanism))


def compared(
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    plain: Callable[[Tensor, Tensor, Tensor], Tensor],
    inputs: tuple[Tensor, Tensor, Tensor],
) -> Iterator[tuple[str, float]]:
    """Compare values and gradients with those of plain maths on the same numbers in double precision."""
    found, wanted = (
        _answer(run, tuple(x.detach().requires_grad_() for x in inputs)),
        _answer(plain, tuple(x.detach().double().requires_grad_() for x in inputs)),
    )
    for what, one, other in zip(("values", "the gradient of q", "of k", "of v"), found, wanted, strict=True):
        yield what, float((one.double() - other).norm() / other.norm())


def _answer(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    values = run(*inputs)
    slope = drawn(*values.shape).to(values)
    return [values.detach(), *torch.autograd.grad(values, inputs, slope)]


def drawn(*shape: int, seed: int = 7) -> Tensor:
    """Draw normal numbers, the same each time, whatever torch's own generators hold."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
