"""What a handful of seeds says: mean and spread, and the difference between two groups with its confidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (None for one value), smallest and largest of some values."""

    mean: float
    std: float | None
    min: float
    max: float
    count: int


@dataclass(frozen=True)
class Difference:
    """How much larger the first mean is, and the interval that holds it with 95 % confidence (None: too few values)."""

    mean: float
    low: float | None
    high: float | None


def summarize(values: Sequence[float]) -> Summary:
    """Return the summary of at least one value; a NaN among them makes all of it NaN."""
    if any(math.isnan(value) for value in values):
        nan = float("nan")
        return Summary(nan, nan, nan, nan, len(values))
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), spread, min(values), max(values), len(values))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return mean(ours) - mean(theirs) with Welch's interval. Source: Welch 1947, doi:10.1093/biomet/34.1-2.28."""
    mean = summarize(ours).mean - summarize(theirs).mean
    if min(len(ours), len(theirs)) < 2 or math.isnan(mean):
        return Difference(mean, None, None)
    error = [statistics.variance(values) / len(values) for values in (ours, theirs)]
    if sum(error) == 0:  # both groups are constant: the t distribution has no degrees of freedom to take
        return Difference(mean, mean, mean)
    degrees = sum(error) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(error, (ours, theirs), strict=True)
    )
    return _around(mean, math.sqrt(sum(error)), degrees)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean of ours[i] - theirs[i] with Student's interval, for values that belong together by pairs.

    What both of a pair share, such as a seed's split and order of data, cancels out. Source: Student 1908,
    doi:10.1093/biomet/6.1.1.
    """
    gaps = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    mean = summarize(gaps).mean
    if len(gaps) < 2 or math.isnan(mean):
        return Difference(mean, None, None)
    return _around(mean, statistics.stdev(gaps) / math.sqrt(len(gaps)), len(gaps) - 1)


def _around(mean: float, error: float, degrees: float) -> Difference:
    from scipy.stats import t

    reach = float(t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    return Difference(mean, mean - reach, mean + reach)
