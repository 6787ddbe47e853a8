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


def answered(made: Trial, case: Case) -> dict[str, Tensor]:
    """Return `values`, and the gradients of a fixed mixture of them by name, where there is a backward pass.

    The mixture is rounded to the type of the case, so that all that answer the case are asked for the same.
    """
    with torch.no_grad():
        values = made.values()
    try:
        again = made.require_grad().values()
    except CapabilityError:
        if case.backend == "auto":
            raise
        return {"values": values}  # a backend for inference
    same(again, values, "values change when gradients are asked for")
    leaves = made.leaves()
    if not again.requires_grad:
        return {"values": values} | {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    mixture = torch.linspace(-0.5, 1.5, values.numel(), dtype=torch.float64, device=values.device).view(values.shape)
    total = (again * mixture.to(case.dtype).to(values.dtype)).sum()
    grads = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return {"values": values} | dict(zip(leaves, grads, strict=True))


def reference(subject: Subject, case: Case) -> None:
    """Values and gradients equal those in double precision: of the reference backend where there is one, else its own.

    Why: a backend is another way to compute the same thing. Where it cannot, it says so.
    """
    made = trial(subject.target, case)
    found, wanted = answered(made, case), answered(exact_twin(made), case)
    allowed = TOLERANCE[case.dtype]
    for name, each in found.items():
        what = f"the gradient with respect to {name} is" if name != "values" else "values are"
        of = "reference" if subject.pairwise else "exact result"
        same(each, wanted[name], f"{what} not that of the {of}", allowed)


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


NUMBERS = (
    Check(reference, _reference_cases),
    Check(approximation, _approximation_cases, _approximation_unless, shrinks=False),
    Check(gradcheck, lambda subject: _small(subject, "full", "causal", "mask", "graph"), _estimates),
    Check(
        double_backward,
        lambda subject: _small(subject, "causal", "graph"),
        lambda subject: _estimates(subject) or ("" if subject.pairwise else "it has no backends to declare it for"),
    ),
)
