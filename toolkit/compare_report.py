"""What a comparison found, one row a variant: quality over seeds, differences to the first row, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolkit.compare_grid import Variant
from toolkit.seed_runs import value_of
from toolkit.statistics import Difference, Summary, paired_difference, summarize

Status = Literal["trained", "failed", "unfit"]
Result = dict[str, Any]
STAGES = ("val", "test")


@dataclass(frozen=True)
class Row:
    """One variant. Units: seconds, bytes.

    status: "unfit" was never trained and "failed" not with every seed, both for `reason`. metrics: every metric over
    seeds. difference: of the compared metric to the first row that was trained, paired by seed. step_seconds,
    inference_seconds: median and quartiles. peak_bytes, device_peak_bytes: the largest of any run. parameters: trained
    weights.
    """

    label: str
    values: dict[str, str]
    status: Status
    reason: str = ""
    notes: tuple[str, ...] = ()
    seeds: dict[int, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, Summary] = field(default_factory=dict)
    difference: dict[str, Difference] = field(default_factory=dict)
    step_seconds: dict[str, float] | None = None
    inference_seconds: dict[str, float] | None = None
    peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Report:
    """The outcome of a comparison. better: whether more or less of `metric` is. stages: those that log it."""

    recipe: str
    overrides: list[str]
    keys: list[str]
    metric: str
    better: Literal["max", "min"]
    stages: list[str]
    seeds: list[int]
    rows: list[Row]
    directory: Path
    picture: Path | None
    reused: int
    workers: int
    made: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def rows(
    variants: Iterable[Variant],
    results: Mapping[str, Mapping[int, Result]],
    reasons: Mapping[str, str],
    checks: Mapping[str, Mapping[str, Any]],
    times: Mapping[str, Mapping[str, Any]],
    metric: str,
) -> list[Row]:
    """Return a row for each variant; everything is given by `Variant.file`, and results by seed as well."""
    made: list[Row] = []
    for variant in variants:
        file = variant.file
        reason = variant.reason or reasons.get(file, "")
        if file not in checks:
            made.append(Row(variant.label, variant.values, "unfit", reason, variant.notes))
            continue
        found = results.get(file, {})
        first = next((row for row in made if row.seeds), None)
        made.append(
            Row(
                label=variant.label,
                values=variant.values,
                status="failed" if reason else "trained",
                reason=reason,
                notes=variant.notes,
                seeds={seed: _of_seed(result) for seed, result in found.items()},
                metrics=_summaries(list(found.values())),
                difference=_differences(found, first, metric),
                step_seconds=times.get(file, {}).get("step_seconds"),
                inference_seconds=times.get(file, {}).get("inference_seconds"),
                peak_bytes=max((result["peak_bytes"] for result in found.values()), default=None),
                device_peak_bytes=max((result["device_peak_bytes"] for result in found.values()), default=None),
                parameters=checks[file]["parameters"],
            )
        )
    return made


def _of_seed(result: Result) -> dict[str, Any]:
    return {key: result[key] for key in ("metrics", "best_epoch", "seconds", "resumed", "peak_bytes")}


def _summaries(results: Sequence[Result]) -> dict[str, Summary]:
    logged = set.intersection(*(set(result["metrics"]) for result in results)) if results else set()
    return {name: summarize([value_of(result, name) for result in results]) for name in sorted(logged)}


def _differences(found: Mapping[int, Result], first: Row | None, metric: str) -> dict[str, Difference]:
    """Return how much better or worse than the first row a variant is, over the seeds that both have."""
    made: dict[str, Difference] = {}
    if first is None:
        return made
    for stage in STAGES:
        name = f"{stage}/{metric}"
        shared = [seed for seed in found if seed in first.seeds]
        pairs = [(found[seed], first.seeds[seed]) for seed in shared]
        if pairs and all(name in result["metrics"] for pair in pairs for result in pair):
            made[name] = paired_difference(
                [value_of(ours, name) for ours, _ in pairs], [value_of(theirs, name) for _, theirs in pairs]
            )
    return made
