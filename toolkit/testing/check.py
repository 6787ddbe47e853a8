"""What a check is, how it is run over its cases, and how a failing case is made small."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from toolkit.errors import ToolkitError
from toolkit.testing.case import Case
from toolkit.testing.subject import Subject

Run = Callable[[Subject, Case], None]
_ATTEMPTS, _SECONDS = 300, 5.0  # how long to try to make a failing case smaller
_NO_KERNEL = ("not implemented for 'Half'", "not implemented for 'BFloat16'")


class Broken(AssertionError):  # noqa: N818 (a verdict, not an error of the kit)
    """What a check raises when a mechanism does not hold what it should."""


@dataclass(frozen=True)
class Check:
    """One property. cases: the requests it is held on; unless: why it does not apply, or an empty string.

    firm: a refusal breaks it too, because the mechanism declares that it answers. Else a refused case is left out.
    shrinks: whether it means the same on smaller cases.
    """

    run: Run
    cases: Callable[[Subject], Iterable[Case]]
    unless: Callable[[Subject], str] = lambda subject: ""
    firm: bool = False
    shrinks: bool = True

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def what(self) -> str:
        """The first sentence of its docstring: what it holds."""
        return " ".join((inspect.getdoc(self.run) or "").split("\n\n")[0].split())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one check of one mechanism.

    status: `skipped` does not apply, by what is declared; `unanswered` does, but no request got an answer.
    detail: what broke, or why it was skipped. answered, refused: numbers of cases. case: the small failing example.
    """

    mechanism: str
    check: str
    status: Literal["passed", "failed", "unanswered", "skipped"]
    detail: str = ""
    answered: int = 0
    refused: int = 0
    case: Case | None = None
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return the outcome as plain values."""
        case = None if self.case is None else repr(self.case)
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"case": case, "rerun": self.rerun}

    @property
    def rerun(self) -> str:
        """A line of Python that runs the failing example again; empty unless it failed."""
        if self.case is None:
            return ""
        return (
            "import torch; from toolkit.testing.case import Case; from toolkit.testing.kit import rerun; "
            f"rerun({self.mechanism!r}, {self.check!r}, {self.case!r})"
        )


def run_check(check: Check, subject: Subject, *, seed: int = 0, device: str = "cpu") -> Outcome:
    """Hold a mechanism to a check with all its examples and on all cases; the first that breaks it is made small."""
    start = time.perf_counter()
    found = [_run_example(check, each, seed, device) for each in subject.variants()]
    by_status = {each.status: each for each in reversed(found)}
    worst = next(by_status[status] for status in ("failed", "passed", "unanswered", "skipped") if status in by_status)
    answered, refused = sum(each.answered for each in found), sum(each.refused for each in found)
    return replace(worst, answered=answered, refused=refused, seconds=time.perf_counter() - start)


def _run_example(check: Check, subject: Subject, seed: int, device: str) -> Outcome:
    base = Outcome(mechanism=subject.name, check=check.name, status="passed")
    if subject.not_built:
        return replace(base, status="failed" if check.firm else "skipped", detail=subject.not_built)
    if why := check.unless(subject):
        return replace(base, status="skipped", detail=why)
    answered, refused, first_refusal = 0, 0, ""
    for case in check.cases(subject):
        case = replace(case, seed=seed, device=device)
        broken, refusal = attempt(check, subject, case)
        if broken:
            case, broken = shrink(check, subject, case, broken) if check.shrinks else (case, broken)
            return replace(base, status="failed", detail=broken, case=case, answered=answered, refused=refused)
        answered += not refusal
        refused += bool(refusal)
        first_refusal = first_refusal or refusal
    if not answered:
        why = f"all {refused} requests were refused, the first so: {first_refusal}" if refused else "no case fits it"
        base = replace(base, status="unanswered", detail=why)
    return replace(base, answered=answered, refused=refused)


@contextmanager
def quiet(level: int) -> Iterator[None]:
    """Keep everyone from logging up to a level: torch's compilers log whole programs, and an error says why already."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)


def _untraced(case: Case) -> AbstractContextManager[object]:
    """Run flex on a CPU as it stands: torch would trace it anew for every shape, only to do the same thing after."""
    traced = case.backend == "flex" and case.device == "cpu"
    return torch.compiler.set_stance("force_eager") if traced else nullcontext()


def attempt(check: Check, subject: Subject, case: Case) -> tuple[str, str]:
    """Return what broke, and why the case was refused; both empty if it holds."""
    try:
        with quiet(logging.INFO), _untraced(case):
            check.run(subject, case)
    except Broken as error:
        return str(error), ""
    except ToolkitError as error:
        return (f"it is declared, but refused: {error}" if check.firm else ""), str(error)
    except Exception as error:
        if any(part in str(error) for part in _NO_KERNEL):
            return "", str(error)
        first = (str(error).splitlines() or [""])[0]
        return f"it raised {type(error).__name__}: {first}", ""
    return "", ""


def shrink(check: Check, subject: Subject, case: Case, broken: str) -> tuple[Case, str]:
    """Return the simplest case found that breaks the check in the same way, greedily, and what broke in it."""
    kind, left, end = _kind(broken), _ATTEMPTS, time.perf_counter() + _SECONDS
    smaller = True
    while smaller and left:
        smaller = False
        for simpler in case.smaller():
            left = left - 1 if time.perf_counter() < end else 0
            found, _ = attempt(check, subject, simpler)
            if found and _kind(found) == kind:
                case, broken, smaller = simpler, found, True
                break
            if not left:
                break
    return case, broken


def _kind(broken: str) -> str:
    """Return what makes two failures the same: the words before the first number or colon."""
    return broken.partition(":")[0]


TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Differences that sums of a few terms in another order may have: some hundred units in the last place."""


def same(found: Tensor, wanted: Tensor, what: str, tolerance: float | None = None) -> None:
    """Raise Broken, saying `what` and by how much, unless two tensors agree to the tolerance of the coarser type.

    Differences are relative to the largest value that is wanted, or to 1 where all are smaller; NaN equals nothing.
    """
    if found.shape != wanted.shape:
        raise Broken(f"{what}: the shape is {tuple(found.shape)} where {tuple(wanted.shape)} is wanted")
    if not found.numel():
        return
    allowed = max(TOLERANCE[found.dtype], TOLERANCE[wanted.dtype]) if tolerance is None else tolerance
    found, wanted = found.detach().double(), wanted.detach().double()
    gap = (found - wanted).abs().nan_to_num(nan=torch.inf).max().item()
    scale = max(1.0, wanted.abs().nan_to_num(posinf=0).max().item())
    if gap > allowed * scale:
        raise Broken(f"{what}: differs by {gap:.3g} where values reach {scale:.3g}; {allowed:.0e} of that is allowed")
