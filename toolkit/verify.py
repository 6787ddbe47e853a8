"""Holding a recipe to its claim: its seeds, and its baseline's, each in a process of its own, stored as they finish.

report = verify(load("gat_cora", toolkit), out=Path("verify/gat_cora"))
report.verdict          # "pass", "fail" or "not decided"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import RecipeError, RunError
from toolkit.pool import devices_of, run_jobs
from toolkit.recipe import Recipe
from toolkit.resolve import resolve
from toolkit.seed_runs import SeedRun, identity, read_stored, seed_run, train, value_of
from toolkit.settings import Expectation
from toolkit.statistics import Difference, Summary, difference, summarize

Verdict = Literal["pass", "fail", "not decided"]
ARMS = ("recipe", "baseline")


@dataclass(frozen=True)
class Arm:
    """What the seeds of one side showed. Units: seconds, bytes; `peak_bytes` is the largest of any run."""

    summary: Summary
    values: dict[int, float]
    seconds_a_run: float
    peak_bytes: int
    device_peak_bytes: int
    metrics: dict[str, Summary]


@dataclass(frozen=True)
class Report:
    """The outcome of a verification."""

    name: str
    metric: str
    bound: str
    verdict: Verdict
    reason: str
    recipe: Arm
    baseline: Arm | None
    difference: Difference | None
    wall_seconds: float
    compute_seconds: float
    reused: int
    workers: int
    made: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def verify(
    recipe: Recipe,
    *,
    out: Path,
    seeds: int | None = None,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run the seeds of a recipe and of its baseline that are not stored in `out` yet, and judge them.

    seeds: default is what the recipe's `expect` asks for. workers: default is all cores, or all devices.
    Raises: RecipeError if the recipe claims nothing or logs no such metric; RunError if a run fails.
    """
    resolved = resolve(recipe)
    expect = resolved.expect
    if expect is None:
        raise RecipeError(
            f"{recipe.origin}: no section 'expect', so there is nothing to verify; "
            "for example expect: {metric: test/accuracy, at_least: 0.8, seeds: 5}"
        )
    sides = {"recipe": resolved}
    if recipe.document.get("baseline"):
        sides["baseline"] = resolve(recipe.changed(recipe.section("baseline"), f"{recipe.origin}: baseline"))
    identities = {arm: identity(side) for arm, side in sides.items()}
    jobs = [
        seed_run(arm, side.recipe, identities[arm], seed, out / f"{arm}-seed-{seed}.json")
        for seed in range(expect.first_seed, expect.first_seed + (seeds or expect.seeds))
        for arm, side in sides.items()
    ]
    found = {job: stored for job in jobs if (stored := read_stored(job)) is not None}
    for job, result in found.items():
        progress(_line(job, result, expect, "stored before"))
    waiting = [job for job in jobs if job not in found]
    used = 0
    if waiting:
        finished = len(found)

        def done(job: SeedRun) -> None:
            nonlocal finished
            finished += 1
            result = read_stored(job)
            if result is None:
                raise RunError(f"the code or a package changed while {job.label} was running; run verify again")
            found[job] = result
            progress(_line(job, result, expect, f"{finished} of {len(jobs)}"))

        used = run_jobs(waiting, train, devices_of(resolved.trainer), workers, done)
    return _report(recipe.name, expect, {job: found[job] for job in jobs}, len(jobs) - len(waiting), used)


def _line(job: SeedRun, result: dict[str, Any], expect: Expectation, note: str) -> str:
    value = value_of(result, expect.metric)
    minutes, peak = result["seconds"] / 60, result["peak_bytes"] / 1e6
    return f"{job.label}: {expect.metric} {value:.4f} ({minutes:.2f} min, {peak:.0f} MB) [{note}]"


def _report(
    name: str, expect: Expectation, results: dict[SeedRun, dict[str, Any]], reused: int, workers: int
) -> Report:
    arms = {
        arm: _arm({job.seed: result for job, result in results.items() if job.arm == arm}, expect.metric)
        for arm in ARMS
        if any(job.arm == arm for job in results)
    }
    ours, theirs = arms["recipe"], arms.get("baseline")
    gap = difference(list(ours.values.values()), list(theirs.values.values())) if theirs else None
    verdict, reason = judge(expect, ours.summary)
    first = next(iter(results.values()))
    made = {key: first[key] for key in ("versions", "plugins", "hardware")}
    made |= {"date": max(result["ended"] for result in results.values())}
    return Report(
        name=name,
        metric=expect.metric,
        bound=expect.bound,
        verdict=verdict,
        reason=reason,
        recipe=ours,
        baseline=theirs,
        difference=gap,
        wall_seconds=_wall(list(results.values())),
        compute_seconds=sum(result["seconds"] for result in results.values()),
        reused=reused,
        workers=workers,
        made=made,
    )


def _arm(results: dict[int, dict[str, Any]], metric: str) -> Arm:
    values = {seed: value_of(result, metric) for seed, result in results.items()}
    logged = [set(result["metrics"]) for result in results.values()]
    return Arm(
        summary=summarize(list(values.values())),
        values=values,
        seconds_a_run=sum(result["seconds"] for result in results.values()) / len(results),
        peak_bytes=max(result["peak_bytes"] for result in results.values()),
        device_peak_bytes=max(result["device_peak_bytes"] for result in results.values()),
        metrics={
            key: summarize([value_of(result, key) for result in results.values()])
            for key in sorted(set.intersection(*logged))
        },
    )


def judge(expect: Expectation, summary: Summary) -> tuple[Verdict, str]:
    """Return the verdict on the mean over seeds, and why; fewer seeds than were promised decide nothing."""
    if summary.count < expect.seeds:
        return "not decided", f"{summary.count} of the {expect.seeds} seeds that `expect` asks for"
    met = summary.mean == summary.mean and expect.met_by(summary.mean)
    reason = f"mean {expect.metric} {summary.mean:.4f} over {summary.count} seeds, claimed {expect.bound}"
    return ("pass" if met else "fail"), reason


def _wall(results: list[dict[str, Any]]) -> float:
    """Return the time in which at least one run was going on, over however many sittings."""
    spans = sorted((_seconds(result["began"]), _seconds(result["ended"])) for result in results)
    total, until = 0.0, float("-inf")
    for began, ended in spans:
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
