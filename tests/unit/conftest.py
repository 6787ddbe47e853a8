"""Comparisons without processes of their own, for the tests of the module and of its command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ToolkitError


@dataclass
class InlineJobs:
    """What ran, by label; a label in `stop` breaks off there, as Ctrl-C does."""

    ran: list[str] = field(default_factory=list)
    stop: set[str] = field(default_factory=set)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> InlineJobs:
    """Jobs of `toolkit compare` run in this process, which takes milliseconds."""
    from toolkit import compare, compare_jobs

    jobs_seen = InlineJobs()
    check = compare.check

    def run_jobs(jobs: Any, work: Any, devices: Any, workers: Any, done: Any, failed: Any = None) -> int:
        for job in jobs:
            if work is not check:
                if job.label in jobs_seen.stop:
                    raise KeyboardInterrupt
                jobs_seen.ran.append(job.label)
            try:
                work(job, None)
            except ToolkitError as error:
                failed(job, str(error))
            except Exception as error:
                failed(job, f"Traceback ...\n{type(error).__name__}: {error}")
            else:
                done(job)
        return 1

    monkeypatch.setenv("TOOLKIT_RUN_DIRECTORY", "")  # set by training: put back when the test ends
    monkeypatch.setattr(compare, "run_jobs", run_jobs)
    monkeypatch.setattr(compare_jobs, "ROUNDS", 1)
    monkeypatch.setattr(compare_jobs, "STEPS", 2)
    return jobs_seen


@pytest.fixture
def untimed(inline: InlineJobs, monkeypatch: pytest.MonkeyPatch) -> InlineJobs:
    """Beside that, the same times are written down for all variants."""
    from toolkit import compare

    def time_all(job: Any, threads: int | None) -> None:
        quartiles = {"median": 0.002, "low": 0.001, "high": 0.003, "count": 9}
        times = {name: {"step_seconds": quartiles, "inference_seconds": quartiles} for name in job.variants}
        _write(job.path, {"identities": job.identities, "times": times, "machine": _machine()})

    monkeypatch.setattr(compare, "time_all", time_all)
    return inline


@pytest.fixture
def canned(untimed: InlineJobs, monkeypatch: pytest.MonkeyPatch) -> InlineJobs:
    """Beside that, training only writes down numbers; whether a variant fits is still found out in earnest."""
    from toolkit import compare

    def train(job: Any, threads: int | None) -> None:
        value = 0.5 + 0.1 * job.seed + 0.001 * len(job.label)
        metrics = {f"{stage}/{name}": value for stage in ("val", "test") for name in ("accuracy", "loss")}
        facts = {"identity": job.identity, "seed": job.seed, "metrics": metrics, "best_epoch": 1, "seconds": 1.0}
        _write(job.path, {**facts, "resumed": False, "peak_bytes": 10**9, "device_peak_bytes": 0})

    monkeypatch.setattr(compare, "train", train)
    return untimed


def _machine() -> Any:
    from toolkit import compare_jobs

    machine: Callable[[], Any] = compare_jobs._machine
    return machine()


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))
