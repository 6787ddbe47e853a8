"""Checks of the numbers: every backend and type against double precision, and gradients against differences."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from toolkit.attention.mechanism import Mechanism
from toolkit.attention.pairwise import Pairwise
from toolkit.errors import CapabilityError
from toolkit.testing.case import Case, Trial, trial
from toolkit.testing.check import TOLERANCE, Broken, Check, same
from toolkit.testing.subject import Subject, subject

PATTERNS = ("full", "causal", "causal & padding", "mask", "window | global", "head_mask", "graph", "graph & window")


def exact_twin(made: Trial) -> Trial:
    """Return the same request with the same numbers in double precision; pairwise ones by the reference backend."""

    def double(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().double()

    mechanism: Mechanism = copy.deepcopy(made.mechanism).double()
    if isinstance(mechanism, Pairwise):
        mechanism.backend = "reference"
    q, k, v = (each.detach().double() for each in (made.q, made.k, made.v))
    return Trial(mechanism, q, k, v, made.pattern, double(made.bias))


def gradients(made: Trial) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the values and the gradients of a fixed mixture of them, by name."""
    values = made.require_grad().values()
    leaves = made.leaves()
    if not values.requires_grad:
        return values, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    mixture = torch.linspace(-1, 1, values.numel(), dtype=torch.float64, device=values.device).view(values.shape)
    total = (values * mixture.to(values.dtype)).sum()
    grads = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return values.detach(), dict(zip(leaves, grads, strict=True))


def reference(subject: Subject, case: Case) -> None:
    """Values and gradients equal those in double precision: of the reference backend where there is one, else its own.

    Why: a backend is another way to compute the same thing. Where it cannot, it says so.
    """
    made = trial(subject.target, case)
    values, grads = gradients(made)
    wanted, slopes = gradients(exact_twin(made))
    allowed = TOLERANCE[case.dtype]
    same(values, wanted, f"values are not those of the {'reference' if subject.pairwise else 'exact'} result", allowed)
    for name, grad in grads.items():
        same(grad, slopes[name], f"the gradient with respect to {name} is not that of the reference", allowed)


def _reference_cases(subject: Subject) -> Iterator[Case]:
    dtypes = (torch.float32, torch.float64) if subject.pairwise else (torch.float32,)
    for dtype in dtypes:
        yield from subject.cases(*PATTERNS, each_backend=True, dtype=dtype, bias=True)
    yield from subject.cases("causal", "mask", each_backend=True, heads=4, kv_heads=2, value_dim=3)
    yield from subject.cases("full", "causal", "graph", each_backend=True, dtype=torch.float32)


def approximation(subject: Subject, case: Case) -> None:
    """The function that an approximation declares to estimate is met within the error that it declares.

    Why: an approximation without a measured error is a different model.
    """
    made = trial(subject.target, case, own_weights=True)
    exact = trial(_target(subject.declared.approximates), replace(case, options={}), own_weights=True)
    found, wanted = made.values(), exact.values()
    error = ((found - wanted).norm() / wanted.norm()).item()
    if subject.declared.error is None or not error <= subject.declared.error:
        raise Broken(
            f"the relative error is larger than declared: {error:.3g} against {subject.declared.approximates}, "
            f"where at most {subject.declared.error} is declared"
        )


def _target(name: str) -> type[Mechanism]:
    return subject(name).target


def _approximation_unless(subject: Subject) -> str:
    if subject.declared.exactness == "exact":
        return "it is exact"
    if subject.examples[0] and not subject.needs_options:
        return "the error is declared for the default options"
    if subject.declared.approximates and subject.declared.error is not None:
        return ""
    return "it is approximate, but declares no function and error to be held to (`approximates`, `error`)"


def _approximation_cases(subject: Subject) -> Iterator[Case]:
    for options in subject.examples[:1]:
        yield Case(batch=1, heads=4, queries=64, keys=64, dim=16, options=options)


def gradcheck(subject: Subject, case: Case) -> None:
    """The gradient with respect to q, k, v, the bias and all parameters is that of finite differences.

    Why: a value that was detached by mistake still trains, only worse.
    """
    made = trial(subject.target, case).require_grad()
    leaves = made.leaves()

    def right(*chosen: Tensor, raises: bool = False) -> bool:  # fast mode: one random direction of each
        return torch.autograd.gradcheck(lambda *_: made.values(), chosen, fast_mode=True, raise_exception=raises)

    if right(*leaves.values()):
        return
    for name, leaf in leaves.items():  # which of them is wrong
        try:
            right(leaf, raises=True)
        except GradcheckError as error:
            raise Broken(f"the gradient with respect to {name} is not the derivative: {_brief(error)}") from error
    raise Broken("the gradient is not the derivative: that of all leaves together is wrong")


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300]


def _small(subject: Subject, *patterns: str) -> Iterator[Case]:
    """The cases whose gradients are cheap to check: one sample and few dimensions."""
    for case in subject.cases(*patterns, each_backend=True, batch=1, dim=2, value_dim=2, bias=True):
        if case.queries <= case.keys:
            yield case
            yield replace(case, bias=False)


def _estimates(subject: Subject) -> str:
    return "" if subject.declared.gradient == "exact" else "its gradient is declared an estimate"


def double_backward(subject: Subject, case: Case) -> None:
    """A second derivative is right on the backends that declare one, and refused on the others.

    Why: torch drops a missing second derivative without a word, and a gradient penalty then does nothing.
    """
    made = trial(subject.target, case).require_grad()
    (first,) = torch.autograd.grad(made.values().square().sum(), made.q, create_graph=True)
    declared = case.backend in subject.declared.double_backward
    if not declared:
        try:
            torch.autograd.grad(first.sum(), made.k, materialize_grads=True)
        except (CapabilityError, RuntimeError):
            return
    if not torch.autograd.gradgradcheck(
        lambda *_: made.values(), (made.q, made.k, made.v), raise_exception=False, fast_mode=True
    ):
        raise Broken(
            "the second derivative is wrong"
            + ("" if declared else ", and neither declared nor refused on this backend")
        )


def half_precision(subject: Subject, case: Case) -> None:
    """The error in half precision is at most twice that of the plain formula in the same type (flash-attention's rule).

    Why: sums in half precision lose whole terms. Errors are against double precision on the same rounded numbers. The
    slack is half a unit in the last place of the largest output: who returns this type rounds once, whatever came
    before, while the plain formula may be exact by chance. What has no plain formula is held to what rounding q, k, v
    and its parameters once more does to its exact result, times 8.
    """
    made = trial(subject.target, case)
    twin = exact_twin(made)
    wanted, values = twin.values(), made.values()
    if values.dtype != case.dtype:
        raise Broken(f"values have another type than q, k and v: {values.dtype} for {case.dtype}")
    if subject.pairwise:
        plain = trial(subject.target, replace(case, backend="reference")).values()
        allowed = 2 * _largest(plain.double() - wanted)
    else:
        allowed = 8 * _sensitivity(twin, wanted, case)
    slack = torch.finfo(case.dtype).eps / 2 * _largest(wanted)
    error = _largest(values.double() - wanted)
    if not error <= allowed + slack:
        raise Broken(
            f"the error in {case.dtype} is too large: {error:.3g}, where {allowed:.3g} + {slack:.1g} is allowed"
        )


def _largest(x: Tensor) -> float:
    return x.detach().abs().nan_to_num(nan=torch.inf).max().item() if x.numel() else 0.0


@torch.no_grad()
def _sensitivity(twin: Trial, wanted: Tensor, case: Case) -> float:
    """Return how much the exact result moves when every number that goes in moves by its own rounding."""
    generator = torch.Generator().manual_seed(case.seed)

    def rounded(x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device) * 2 - 1
        return x * (1 + torch.finfo(case.dtype).eps / 2 * noise)

    moved = copy.deepcopy(twin.mechanism)
    for parameter in moved.parameters():
        parameter.copy_(rounded(parameter))
    bias = None if twin.bias is None else rounded(twin.bias)
    other = Trial(moved, rounded(twin.q), rounded(twin.k), rounded(twin.v), twin.pattern, bias)
    return _largest(other.values() - wanted)


def _half_cases(subject: Subject) -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float16):
        for case in subject.cases("full", "causal", "mask", "graph", each_backend=True, dtype=dtype):
            if case.queries == case.keys and not (subject.pairwise and case.backend == "reference"):
                yield replace(case, queries=24, keys=24, dim=16)


NUMBERS = (
    Check(reference, _reference_cases),
    Check(approximation, _approximation_cases, _approximation_unless, shrinks=False),
    Check(gradcheck, lambda subject: _small(subject, "full", "causal", "mask", "graph"), _estimates),
    Check(
        double_backward,
        lambda subject: _small(subject, "causal", "graph"),
        lambda subject: _estimates(subject) or ("" if subject.pairwise else "it has no backends to declare it for"),
    ),
    Check(half_precision, _half_cases),
)
