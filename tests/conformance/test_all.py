"""The kit on every registered mechanism, ours and those of every plugin that is installed here."""

from __future__ import annotations

import pytest

from toolkit.plugins import load_toolkit
from toolkit.testing.check import run_check
from toolkit.testing.kit import CHECKS
from toolkit.testing.subject import COVERED, Subject, not_covered

ENTRIES = {entry.full_name: entry for entry in load_toolkit().registry.all("attention")}
NOT_COVERED = {name: why for name, entry in ENTRIES.items() if (why := not_covered(entry))}


def test_there_are_mechanisms_and_those_left_out_have_another_layout():
    assert {"core:gat", "core:gatv2", "core:scaled_dot_product"} <= set(ENTRIES) - set(NOT_COVERED)
    for name in NOT_COVERED:
        assert not set(ENTRIES[name].load().capabilities.layouts) & set(COVERED), NOT_COVERED[name]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", sorted(set(ENTRIES) - set(NOT_COVERED)))
def test_mechanism_holds(name, check):
    outcome = run_check(CHECKS[check], Subject.of(name, ENTRIES[name].load()))
    if outcome.status == "skipped":
        pytest.skip(outcome.detail)
    assert outcome.status == "passed", f"{outcome.detail}\n{outcome.case}\n{outcome.rerun}"
