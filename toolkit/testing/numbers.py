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
    """An approximation misses no more than it declares of what the exact function adds to the mean of values.

    With a quarter of what buys accuracy (`error_at`) it misses more.

    Why: an approximation without a measured error is a different model. Against the size of the output even zeros look
    close; against the mean of the values only what attends does. Queries and keys are small, as those are for which
    estimates are proven: on large ones softmax picks single keys, and random features miss all of them.
    """
    declared = subject.declared
    if not declared.approximates or declared.error is None:
        raise Broken("it is declared approximate, but not of what and how closely (`approximates`, `error`)")
    option = {} if declared.error_at is None else dict([declared.error_at])
    missed = _missed(subject, replace(case, options={**case.options, **option}))
    if not missed <= declared.error:
        raise Broken(
            f"it is farther from {declared.approximates} than declared: with {option or 'its defaults'} it misses "
            f"{missed:.3g} of what attention adds to the mean of the values, where at most {declared.error} is declared"
        )
    fewer = {name: max(1, value // 4) for name, value in option.items()}
    if fewer and not (less := _missed(subject, replace(case, options={**case.options, **fewer}))) > 1.2 * missed:
        raise Broken(f"{option} buys no accuracy: it misses {missed:.3g}, and with {fewer} {less:.3g}")


@torch.no_grad()
def _missed(subject: Subject, case: Case) -> float:
    """Return |found - exact| / |mean - exact| over some draws, of the mechanism as well where it draws."""
    target, off, whole = _target(subject.declared.approximates), 0.0, 0.0
    for seed in range(8 * case.seed, 8 * case.seed + 8):
        made = trial(subject.target, replace(case, seed=seed), own_weights=True)
        exact = trial(target, replace(case, seed=seed, options={}), own_weights=True)
        small = {"q": made.q / 2, "k": made.k / 2, "v": made.v}
        found, wanted = made.values(**small), exact.values(**small)
        off += (found - wanted).square().sum().item()
        whole += (made.v.mean(2, keepdim=True) - wanted).square().sum().item()
    return float((off / whole) ** 0.5)


def _target(name: str) -> type[Mechanism]:
    return subject(name).target


def _approximation_unless(subject: Subject) -> str:
    if subject.declared.exactness == "exact":
        return "it is exact"
    defaults = not subject.examples[0] or subject.needs_options
    return "" if defaults else "the error is declared for the default options"


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

    What has no backends may do either.

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
    Check(approximation, _approximation_cases, _approximation_unless, firm=True, shrinks=False),
    Check(gradcheck, lambda subject: _small(subject, "full", "causal", "mask", "graph"), _estimates),
    Check(
        double_backward,
        lambda subject: _small(subject, "causal" if subject.declared.causal else "full", "graph"),
        _estimates,
    ),
)
