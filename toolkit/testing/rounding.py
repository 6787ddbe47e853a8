"""Checks of half precision: values and gradients against double precision on the same rounded numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from toolkit.testing.case import Case, Trial, trial
from toolkit.testing.check import Broken, Check
from toolkit.testing.numbers import answered, exact_twin
from toolkit.testing.subject import Subject

_DRAWS = 8  # of small changes to what goes in


def half_precision(subject: Subject, case: Case) -> None:
    """In half precision errors are at most 2 times those of the plain formula in that type, 3 times for gradients.

    Why: sums in half precision lose whole terms, in the backward pass too. The factors are flash-attention's, errors
    are against double precision on the same rounded numbers, and the slack is half a unit in the last place of the
    largest number: who returns this type rounds once, while the plain formula may be exact by chance. Gradients that
    cancel, as of the only key of a row, are 0 but for what others round: for them it is 3 times that of the largest.
    What has no plain formula is held to what changing all that goes in by 12 roundings does to its exact result; so is
    every mechanism where thousands of edges meet: there the plain formula loses count itself.
    """
    made = trial(subject.target, case)
    exact = exact_twin(made)
    found, wanted = answered(made, case), answered(exact, case)
    if found["values"].dtype != case.dtype:
        raise Broken(f"values have another type than q, k and v: {found['values'].dtype} for {case.dtype}")
    factors: tuple[float, float]  # of values, of gradients
    if subject.pairwise and not _crowded(case):
        plain = answered(trial(subject.target, replace(case, backend="reference")), case)
        others, factors = [plain], (2, 3)
    else:
        generator = torch.Generator().manual_seed(case.seed)
        draws = _DRAWS if subject.declared.gradient == "exact" else 20  # a choice is turned by few of them
        draws = 2 if _crowded(case) else draws  # each moves thousands of numbers
        others = [answered(_moved(exact, case, generator), case) for _ in range(draws)]
        factors = (1, 1.5)
    steepest = max((_largest(each) for name, each in wanted.items() if name != "values"), default=0.0)
    for name, each in found.items():
        factor = factors[name != "values"]
        for part in _parts(each, case):
            right = wanted[name][part]
            error = _largest(each[part].double() - right)
            allowed = factor * max(_largest(other[name][part].double() - right) for other in others)
            own = name == "values" or _crowded(case)
            slack = _slack(case.dtype, _largest(right) if own else 3 * steepest)
            if not error <= allowed + slack:
                what = "values" if name == "values" else f"the gradient with respect to {name}"
                raise Broken(
                    f"the error of {what} in {case.dtype} is too large: {error:.3g}, "
                    f"where {allowed:.3g} + {slack:.1g} is allowed"
                )


def _crowded(case: Case) -> bool:
    return "crowded" in case.pattern


def _parts(x: Tensor, case: Case) -> list[slice]:
    """Take crowded nodes by themselves: means of thousands are small, and sums large, beside those of other nodes."""
    return [slice(0, 1), slice(1, None)] if _crowded(case) and x.dim() == 3 and len(x) > 1 else [slice(None)]


def _slack(dtype: torch.dtype, largest: float) -> float:
    kind = torch.finfo(dtype)
    return kind.eps / 2 * largest + kind.smallest_normal * kind.eps


def _largest(x: Tensor) -> float:
    return x.detach().abs().nan_to_num(nan=torch.inf).max().item() if x.numel() else 0.0


@torch.no_grad()
def _moved(exact: Trial, case: Case, generator: torch.Generator) -> Trial:
    """Return a trial with each of its numbers moved by up to 12 times its own rounding."""

    def near(x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device) * 2 - 1
        return x.detach() * (1 + 6 * torch.finfo(case.dtype).eps * noise)

    mechanism = copy.deepcopy(exact.mechanism)
    for parameter in mechanism.parameters():
        parameter.copy_(near(parameter))
    bias = None if exact.bias is None else near(exact.bias)
    return Trial(mechanism, near(exact.q), near(exact.k), near(exact.v), exact.pattern, bias)


def _half_cases(subject: Subject) -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float16):
        for case in subject.cases("full", "causal", "mask", "graph", each_backend=True, dtype=dtype):
            if case.queries == case.keys and not (subject.pairwise and case.backend == "reference"):
                yield replace(case, queries=24, keys=24, dim=16)
        for case in subject.cases("crowded", dtype=dtype):  # too many choices to tell turned ones from wrong ones
            if case.queries == case.keys and subject.declared.gradient == "exact":
                yield replace(case, queries=500, keys=500, heads=1)  # 2000 edges of one node


ROUNDING = (Check(half_precision, _half_cases),)
