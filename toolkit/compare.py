"""One recipe with several values of its keys, each trained over the same seeds, side by side in one table.

report = compare(span("gat_cora", ["attention=gat,gatv2"], toolkit), seeds=3)
report.rows[1].difference["test/accuracy"]      # gatv2 - gat, paired by seed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from toolkit import compare_picture, provenance
from toolkit.compare_grid import Grid, Variant
from toolkit.compare_jobs import Timing, check, time_all
from toolkit.compare_report import STAGES, Report, rows
from toolkit.errors import RecipeError, RunError, nearest
from toolkit.files import locked, writing
from toolkit.plugins import current_toolkit, versions_of_plugins
from toolkit.pool import devices_of, run_jobs
from toolkit.resolve import Resolved
from toolkit.seed_runs import SeedRun, identity, read_json, read_stored, seed_run, train, value_of
from toolkit.settings import mode_of
from toolkit.strictjson import strict_json

BASIS = "comparison.json"
"""The file that tells what the results beside it are of."""

Progress = Callable[[str, int, int], None]
"""Takes a line, the number of runs that are done, and of all runs."""


def home_of(grid: Grid, out: Path | None) -> Path:
    """Return the folder of a comparison: `out`, or one in compare/ that its recipe, overrides and keys name."""
    return out if out is not None else Path("compare") / grid.name


def compare(
    grid: Grid,
    *,
    out: Path | None = None,
    seeds: int = 3,
    metric: str | None = None,
    workers: int | None = None,
    progress: Progress = lambda line, done, total: None,
) -> Report:
    """Try every variant for a step, train those that fit over seeds where that is not stored yet, and time them.

    metric: without its stage, as in "accuracy"; default is what the recipe expects, or else what it is best by.
    workers: default is all cores, or all devices.
    Raises: RecipeError if no variant fits or none logs the metric; RunError if the folder is another comparison's.
    """
    home = home_of(grid, out)
    _claim(home, grid)
    with locked(home / BASIS):
        comparison = _Comparison(grid, home, workers, progress)
        return comparison.run(range(grid.seed, grid.seed + seeds), metric)


def _claim(home: Path, grid: Grid) -> None:
    """Write down what a folder compares, or refuse one that holds something else. Raises: RunError."""
    other = "choose another --out, or leave it away: each comparison has a folder of its own in compare/"
    file = home / BASIS
    if home.exists() and not file.is_file() and (not home.is_dir() or any(home.iterdir())):
        raise RunError(f"{home} is not empty and holds no comparison (there is no {BASIS}); {other}")
    if not file.is_file():
        with writing(file) as written:
            written.write((strict_json(grid.basis) + "\n").encode())
        return
    found = read_json(file)
    if found is None:
        raise RunError(f"{file} is not valid JSON, so it cannot tell what the results beside it are of; {other}")
    wanted = json.loads(strict_json(grid.basis))
    words = {
        "name": "the recipe differs",
        "keys": "the keys that vary differ",
        "overrides": "the overrides differ",
        "document": "the recipe has changed since",
    }
    for key, word in words.items():
        if found.get(key) != wanted[key]:
            there, here = (_shown(each.get(key)) for each in (found, wanted))
            told = "" if key == "document" else f": {there} there, {here} here"
            raise RunError(f"{home} holds another comparison; {word}{told}; {other}")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else repr(value)


class _Comparison:
    """The steps of a comparison, in order; `reasons` gathers why a variant is not trained, or not with every seed."""

    def __init__(self, grid: Grid, home: Path, workers: int | None, progress: Progress) -> None:
        self.grid, self.home, self.workers, self.progress = grid, home, workers, progress
        self.resolved: dict[str, Resolved] = {
            each.file: each.resolved for each in grid.variants if each.resolved is not None
        }
        self.labels = {each.file: each.label for each in grid.variants}
        self.identities = {file: identity(resolved) for file, resolved in self.resolved.items()}
        self.reasons = {each.file: each.reason for each in grid.variants if each.reason}
        on_devices = [found for each in self.resolved.values() if (found := devices_of(each.trainer))]
        self.devices = on_devices[0] if on_devices else []
        self.used = 0

    def run(self, seeds: range, metric: str | None) -> Report:
        checks = self._checks()
        if not checks:
            raise RecipeError(_none_fits(self.grid.variants, self.reasons))
        name = self._metric(metric, checks)
        jobs = [
            self._job(file, seed, self.home / "results" / f"{file}-seed-{seed}.json", keep=True)
            for seed in seeds  # so that what is broken off has all variants with fewer seeds
            for file in checks
        ]
        found, reused = self._train(jobs, name)
        results: dict[str, dict[int, dict[str, Any]]] = {}
        for job, result in found.items():
            results.setdefault(_file_of(job), {})[job.seed] = result
        times = self._times(list(results), seeds)
        return self._report(results, checks, times, name, list(seeds), reused)

    def _job(self, file: str, seed: int, path: Path, *, keep: bool = False) -> SeedRun:
        known = self.identities[file]
        run = self.home / "runs" / f"{path.stem}-{known[:8]}" if keep else None
        return seed_run(self.labels[file], self.resolved[file].recipe, known, seed, path, run)

    def _checks(self) -> dict[str, dict[str, Any]]:
        """Return what a step of each variant that fits showed; the others have their reason by then."""
        jobs = [self._job(file, self.grid.seed, self.home / "checks" / f"{file}.json") for file in self.resolved]
        waiting = [job for job in jobs if read_stored(job) is None]
        if waiting:
            self.progress(f"trying {len(waiting)} of {len(self.grid.variants)} variants for a step", 0, 0)

        def failed(job: SeedRun, why: str) -> None:
            self.reasons[_file_of(job)] = _last_line(why)

        run_jobs(waiting, check, self.devices, self.workers, lambda job: None, failed)
        for file, reason in self.reasons.items():
            self.progress(f"{self.labels[file]} does not fit: {reason}", 0, 0)
        return {_file_of(job): stored for job in jobs if (stored := read_stored(job)) is not None}

    def _metric(self, given: str | None, checks: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the metric to compare, without its stage. Raises: RecipeError if no variant's validation logs it."""
        known = sorted(
            {name.partition("/")[2] for each in checks.values() for name in each["metrics"] if "val/" in name}
        )
        name = given
        if name is None:
            resolved = self.resolved[next(iter(checks))]
            expect = resolved.expect
            name = expect.metric if expect is not None else resolved.checkpoint.monitors(resolved.stop)[0]
        stage, _, rest = name.partition("/")
        name = rest if stage in STAGES and rest else name
        if name not in known:
            where = "--metric" if given is not None else "the metric that the recipe is judged by"
            raise RecipeError(f"{where}: validation does not log {name!r}.{nearest(name, known)}")
        return name

    def _train(self, jobs: list[SeedRun], metric: str) -> tuple[dict[SeedRun, dict[str, Any]], int]:
        """Train what is not stored; return all results, and how many were stored before."""
        found = {job: stored for job in jobs if (stored := read_stored(job)) is not None}
        waiting, reused = [job for job in jobs if job not in found], len(found)
        for job in waiting:
            for path in job.run.parent.glob(f"{job.path.stem}-*") if job.run else ():
                if path != job.run:  # of another version of the code: nothing goes on from it
                    shutil.rmtree(path)

        def done(job: SeedRun) -> None:
            result = read_stored(job)
            if result is None:
                failed(job, "the code or a package changed while it ran; run compare again")
                return
            found[job] = result
            logged = [f"{stage}/{metric}" for stage in STAGES if f"{stage}/{metric}" in result["metrics"]]
            values = ", ".join(f"{name} {value_of(result, name):.4f}" for name in logged)
            self.progress(f"{job.label}: {values}", len(found), len(jobs))

        def failed(job: SeedRun, why: str) -> None:
            self.reasons[_file_of(job)] = f"seed {job.seed}: {_last_line(why)}"
            self.progress(f"{job.label} failed: {why.strip()}", len(found), len(jobs))

        if found:
            self.progress(f"{reused} of {len(jobs)} runs are stored", reused, len(jobs))
        self.used = run_jobs(waiting, train, self.devices, self.workers, done, failed)
        return {job: found[job] for job in jobs if job in found}, reused

    def _times(self, files: list[str], seeds: range) -> dict[str, dict[str, Any]]:
        path = self.home / "times.json"
        job = Timing({file: self._job(file, seeds[0], path) for file in files}, path)
        if files and job.read() is None:
            self.progress(f"timing {len(files)} variants by turns", 0, 0)

            def failed(job: Timing, why: str) -> None:
                self.progress(f"no times: {_last_line(why)}", 0, 0)

            run_jobs([job], time_all, self.devices, 1, lambda job: None, failed)
        return job.read() or {}

    def _report(
        self,
        results: dict[str, dict[int, dict[str, Any]]],
        checks: dict[str, dict[str, Any]],
        times: dict[str, dict[str, Any]],
        metric: str,
        seeds: list[int],
        reused: int,
    ) -> Report:
        first = self.resolved[next(iter(checks))]
        logged = {name for each in results.values() for result in each.values() for name in result["metrics"]}
        picture = self.home / "quality_and_cost.png"
        report = Report(
            recipe=self.grid.recipe.name,
            overrides=self.grid.overrides,
            keys=self.grid.keys,
            metric=metric,
            better=mode_of(metric, first.checkpoint.mode),
            stages=[stage for stage in STAGES if f"{stage}/{metric}" in logged] or ["val"],
            seeds=seeds,
            rows=rows(self.grid.variants, results, self.reasons, checks, times, metric),
            directory=self.home,
            picture=picture if results else None,
            reused=reused,
            workers=self.used,
            made={
                "date": provenance.now(),
                "versions": provenance.versions(),
                "plugins": versions_of_plugins(current_toolkit()),
                "hardware": provenance.hardware(),
            },
        )
        compare_picture.draw(report, picture)
        with writing(self.home / "table.json") as file:
            file.write((strict_json(report.plain()) + "\n").encode())
        return report


def _file_of(job: SeedRun) -> str:
    """Return the `Variant.file` that a job's path begins with."""
    return job.path.stem.removesuffix(f"-seed-{job.seed}")


def _last_line(text: str) -> str:
    """Return what a traceback ends with; the message of one of our own errors is one line, or is kept whole."""
    lines = text.strip().splitlines() or [""]
    return lines[-1] if lines[0].startswith("Traceback") else " ".join(line.strip() for line in lines)


def _none_fits(variants: list[Variant], reasons: Mapping[str, str]) -> str:
    if len(set(reasons.values())) == 1:
        return f"none of the {len(variants)} variants fits, all for one reason: {next(iter(reasons.values()))}"
    told = "\n".join(f"- {each.label}: {reasons[each.file]}" for each in variants)
    return f"none of the {len(variants)} variants fits:\n{told}"
