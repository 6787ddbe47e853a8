"""The kit catches planted bugs, each by the check that is meant for it, and finds nothing in a sound mechanism."""

from __future__ import annotations

import logging
from dataclasses import replace

import planted
import planted_answers
import planted_numbers
import pytest

from toolkit.testing.case import Case
from toolkit.testing.check import Broken, attempt
from toolkit.testing.kit import CHECKS, conform, rerun
from toolkit.testing.subject import Subject, subject

CAUGHT_BY = {
    planted.TopLeft: "causal_leak",
    planted.PaddingLeaks: "padding_leak",
    planted.BatchMixes: "batch_independence",
    planted.LongestSampleScales: "batch_independence",
    planted.EmptyRowsAreNaN: "empty_rows",
    planted.InvertedMask: "mask_leak",
    planted.MovedSelfLoops: "edge_order",
    planted.Unnormalised: "row_sums",
    planted.DropsInEvaluation: "dropout_off",
    planted_numbers.Detached: "gradcheck",
    planted.OtherWeights: "weights",
    planted.PoisonSpreads: "poison",
    planted.SeesPlaces: "key_permutation",
    planted.EdgesMeanSomethingElse: "edges_dense",
    planted.QueriesSeePlaces: "query_permutation",
    planted_numbers.Coarse: "reference",
    planted_numbers.ForgetsItsLink: "reference",
    planted_numbers.CoarseHalf: "half_precision",
    planted_numbers.SumsInHalf: "half_precision",
    planted_numbers.LosesSecondDerivative: "double_backward",
    planted_numbers.LosesItWithoutBackends: "double_backward",
    planted_numbers.FarFromDeclared: "approximation",
    planted_numbers.ZerosForDeclared: "approximation",
    planted_numbers.NoBetterWithMore: "approximation",
    planted_numbers.ApproximatesNothing: "approximation",
    planted_numbers.BranchesOnData: "compiles",
    planted.Forgets: "state",
    planted.Noisy: "deterministic",
    planted.ChangesItsInput: "deterministic",
    planted.CausalInSilence: "declared",
    planted_answers.TopLeftRotary: "last_queries",
    planted_answers.WrongLse: "lse",
    planted_answers.NoLse: "lse",
    planted_answers.DetachedWeights: "weight_gradient",
    planted_answers.DetachedProxy: "weight_gradient",
    planted_answers.Unsaved: "state_dict",
}


def outcomes(target, *names, **options):
    found = list(conform(Subject.of(target.__name__, target), [CHECKS[name] for name in names] or None, **options))
    assert found
    return {each.check: each for each in found}


def test_sound_mechanism_breaks_nothing():
    found = outcomes(planted.Sound)
    assert {name: each.detail for name, each in found.items() if each.status == "failed"} == {}
    skipped = {name for name, each in found.items() if each.status == "skipped"}
    assert skipped == {"approximation", "state", "compiles", "exports", "lse", "weight_gradient"}
    assert all(found[name].detail for name in skipped)
    assert all(found[name].answered for name in set(found) - skipped)


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_has_a_bug_that_it_is_meant_for(check):
    assert check in CAUGHT_BY.values() or check == "exports"  # BranchesOnData breaks it too, below
    assert CHECKS[check].what.endswith(".")


@pytest.mark.parametrize(("bug", "check"), CAUGHT_BY.items(), ids=lambda each: getattr(each, "__name__", each))
def test_bug_is_caught_by_the_check_meant_for_it(bug, check):
    outcome = outcomes(bug, check)[check]
    assert outcome.status == "failed"
    with pytest.raises((Broken, RuntimeError)):  # the small example still breaks it
        rerun(Subject.of("bug", bug), check, outcome.case)


def test_branch_on_data_cannot_be_exported():
    assert outcomes(planted_numbers.BranchesOnData, "exports")["exports"].status == "failed"


@pytest.mark.parametrize("error", [-0.1, 1.0, 1.8, float("nan")])
def test_no_error_can_be_declared_that_the_mean_of_values_would_meet(error):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        replace(planted.Sound.capabilities, exactness="approximate", approximates="scaled_dot_product", error=error)


def test_running_sum_goes_on_from_its_state():
    found = outcomes(planted.Running, "state", "causal_leak", "declared", "gradcheck")
    assert {each.status for each in found.values()} == {"passed"}, found


def test_sound_mechanism_and_bugs_are_told_apart_under_another_seed():
    seed = 1
    assert not [each for each in outcomes(planted.Sound, seed=seed).values() if each.status == "failed"]
    for bug, check in CAUGHT_BY.items():
        if check != "compiles":
            assert outcomes(bug, check, seed=seed)[check].status == "failed", (bug, check)


def test_row_that_a_mechanisms_own_pattern_empties_may_look_at_nothing():
    options = {"stride": 2, "summary": 1, "part": "far"}  # far from the first key: there is none
    rerun("fixed", "mask_leak", Case(queries=1, keys=1, pattern="window", options=options))
    rerun("block_local", "row_sums", Case(kv_heads=1, queries=2, keys=1))  # the first query stands before all keys


def test_failing_example_is_small_and_says_how_to_run_it_again():
    outcome = outcomes(planted.BatchMixes, "batch_independence")["batch_independence"]
    assert (outcome.case.heads, outcome.case.dim, outcome.case.pattern) == (1, 1, "full")
    assert outcome.case.batch == 2  # with one sample there is nobody to mix with
    assert f"rerun('BatchMixes', 'batch_independence', {outcome.case!r})" in outcome.rerun


def test_report_of_a_failure_holds_no_logs(caplog):
    class Talks(planted.InvertedMask):
        def attend(self, request):
            logging.getLogger("talks").debug("a whole program")
            return super().attend(request)

    caplog.set_level(logging.DEBUG)
    assert attempt(CHECKS["mask_leak"], Subject.of("talks", Talks), Case(pattern="mask"))[0]
    assert not caplog.records


def test_slow_backend_gets_every_pattern_and_every_length():
    cases = [case for case in CHECKS["mask_leak"].cases(subject("rotary")) if case.backend == "flex"]
    patterns = {case.pattern for case in CHECKS["mask_leak"].cases(subject("rotary"))}
    assert {case.pattern for case in cases} == patterns
    assert {(case.queries, case.keys) for case in cases} == set(subject("rotary").lengths())


def test_mechanism_that_cannot_be_built_fails_and_says_what_would_help():
    class Wants(planted.Sound):
        def __init__(self, *, heads, dim, length):
            super().__init__(heads=heads, dim=dim)

    found = outcomes(Wants, "declared", "weights")
    assert found["declared"].status == "failed"
    assert "`examples`" in found["declared"].detail
    assert found["weights"].status == "skipped"

    Wants.examples = [{"length": 4}]
    assert {each.status for each in outcomes(Wants, "declared", "weights").values()} == {"passed"}
    Wants.examples = classmethod(lambda cls: [{"length": 4}, {"length": 5, "typo": 1}])
    assert "typo" in outcomes(Wants, "declared")["declared"].detail
