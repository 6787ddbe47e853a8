"""What each check of the kit means on feature maps, and on which cases it is held there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import wraps

import torch

from toolkit.attention.feature_maps import FeatureReader
from toolkit.testing import map_behaving, map_looking
from toolkit.testing.case import Case
from toolkit.testing.check import Check
from toolkit.testing.map_trial import MASKS, map_cases
from toolkit.testing.subject import Subject


def _reader(subject: Subject) -> bool:
    return issubclass(subject.target, FeatureReader)


def _half_cases(subject: Subject) -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float16):
        yield from map_cases(subject, "full", "holes", dtype=dtype, height=12, width=9)


def _row_sums_unless(subject: Subject) -> str:
    if not _reader(subject):
        return "gates add up to nothing in particular"
    if subject.declared.weights == "none":
        return "it declares no weights"
    return "" if subject.declared.sums in ("one", "below_one") else "it declares nothing that weights add up to"


def _places_unless(subject: Subject) -> str:
    if _reader(subject):
        return "its queries have places of their own, so those of the map matter"
    return "" if subject.declared.positional is False else "places matter to it, so order does"


ON_MAPS = {
    check.name: check
    for check in (
        Check(map_looking.declared, lambda subject: map_cases(subject, *MASKS)),
        Check(map_looking.padding_leak, lambda subject: map_cases(subject, "padding")),
        Check(map_looking.mask_leak, lambda subject: map_cases(subject, "padding", "holes")),
        Check(map_looking.empty_rows, lambda subject: map_cases(subject, "empty_sample")),
        Check(map_looking.poison, lambda subject: map_cases(subject, "padding", "holes", "empty_sample")),
        Check(map_behaving.reference, lambda subject: map_cases(subject, "full", "holes", dtype=torch.float32)),
        Check(map_behaving.gradcheck, lambda subject: map_cases(subject, "full", "holes", batch=1, height=2, width=3)),
        Check(map_behaving.double_backward, lambda subject: map_cases(subject, "holes", batch=1, height=2, width=3)),
        Check(map_behaving.half_precision, _half_cases),
        Check(
            map_looking.weights,
            lambda subject: map_cases(subject, *MASKS),
            lambda subject: "it declares no weights" if subject.declared.weights == "none" else "",
        ),
        Check(map_looking.row_sums, lambda subject: map_cases(subject, *MASKS), _row_sums_unless),
        Check(map_behaving.batch_independence, lambda subject: map_cases(subject, *MASKS, batch=3)),
        Check(
            map_behaving.query_permutation,
            lambda subject: map_cases(subject, "full", "holes"),
            lambda subject: "" if _reader(subject) else "it has no queries",
        ),
        Check(map_behaving.key_permutation, lambda subject: map_cases(subject, "full", "holes"), _places_unless),
        Check(map_behaving.deterministic, lambda subject: map_cases(subject, "full", "holes")),
        Check(map_behaving.state_dict, lambda subject: map_cases(subject, "full", "holes")),
        Check(
            map_behaving.compiles,
            lambda subject: map_cases(subject, "holes"),
            lambda subject: "" if "map" in subject.declared.compiles else "it is not declared to compile (`compiles`)",
        ),
        Check(
            map_behaving.exports,
            lambda subject: map_cases(subject, "holes"),
            lambda subject: "" if "map" in subject.declared.exports else "it is not declared to export (`exports`)",
        ),
    )
}


def with_maps(check: Check) -> Check:
    """Return a check that means what it means, and on feature maps what `ON_MAPS` has under its name."""
    other = ON_MAPS.get(check.name)

    @wraps(check.run)
    def run(subject: Subject, case: Case) -> None:
        (check if other is None or case.layout != "map" else other).run(subject, case)

    def cases(subject: Subject) -> Iterable[Case]:
        if not subject.on_maps:
            return check.cases(subject)
        return () if other is None else other.cases(subject)

    def unless(subject: Subject) -> str:
        if not subject.on_maps:
            return check.unless(subject)
        if not subject.declared.batch_independent and check.name == "batch_independence":
            return check.unless(subject)
        return "it means nothing on feature maps" if other is None else other.unless(subject)

    return replace(check, run=run, cases=cases, unless=unless)
