"""Mean, spread and Welch's interval, against scipy's own test."""

from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_ind, ttest_rel

from toolkit.statistics import difference, paired_difference, summarize

OURS, THEIRS = [0.83, 0.825, 0.84, 0.815], [0.82, 0.80, 0.81, 0.79, 0.805]


def test_summary():
    found = summarize(OURS)
    assert found.mean == pytest.approx(0.8275)
    assert found.std == pytest.approx(0.0104083, rel=1e-4)
    assert (found.min, found.max, found.count) == (0.815, 0.84, 4)
    assert summarize([1.0]).std is None


def test_difference_is_welchs():
    found = difference(OURS, THEIRS)
    expected = ttest_ind(OURS, THEIRS, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.8275 - 0.805)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_too_few_values_have_no_interval():
    assert difference([1.0], THEIRS).low is None
    assert difference([1.0], [0.5]).mean == 0.5


def test_constant_groups_differ_exactly():
    found = difference([1.0, 1.0], [0.5, 0.5])
    assert (found.low, found.high) == (0.5, 0.5)


def test_nan_is_not_hidden():
    assert math.isnan(summarize([0.8, float("nan")]).mean)
    assert difference([0.8, float("nan")], THEIRS).low is None


def test_paired_difference_is_students():
    theirs = [0.82, 0.80, 0.81, 0.805]
    found = paired_difference(OURS, theirs)
    expected = ttest_rel(OURS, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.mean == pytest.approx(0.8275 - 0.80875)


def test_pairs_that_always_differ_by_the_same_leave_no_doubt():
    assert paired_difference([0.75, 0.5], [0.5, 0.25]).low == 0.25
    assert difference([0.75, 0.5], [0.5, 0.25]).low < 0 < 0.25


def test_one_pair_or_a_nan_has_no_interval_and_odd_ones_are_refused():
    assert paired_difference([1.0], [0.5]).low is None
    assert paired_difference([1.0, float("nan")], [0.5, 0.5]).low is None
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])
