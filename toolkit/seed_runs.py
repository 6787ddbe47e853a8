"""One seed of a recipe, trained in a process of its own, and its stored result: what verify and compare are made of."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit import provenance
from toolkit.errors import RecipeError, nearest
from toolkit.files import writing
from toolkit.plugins import current_toolkit, versions_of_plugins
from toolkit.pool import STOPPED
from toolkit.recipe import Recipe, from_document
from toolkit.resolve import Resolved, resolve
from toolkit.run_directory import RunDirectory

BESIDE_THE_POINT = ("name", "summary", "seed", "smoke", "baseline", "expect", "loggers")
"""Sections that do not change what a run finds, given its seed."""

NO_RUN = {
    "cli",
    "compare.py",
    "compare_grid.py",
    "compare_jobs.py",
    "compare_picture.py",
    "compare_report.py",
    "pool.py",
    "rehearsal.py",
    "results.py",
    "seed_runs.py",
    "verify.py",
}
"""Files of the core that start, store or judge runs: what a run finds does not depend on them."""


@dataclass(frozen=True)
class SeedRun:
    """One run: a side of the comparison, its seed, its recipe, and where its result is stored.

    run: its run directory, which stays, and from which a broken run goes on; without one, nothing but the result stays.
    """

    arm: str
    seed: int
    document: dict[str, Any] = field(compare=False)
    origin: str
    identity: str
    path: Path
    run: Path | None = None

    @property
    def label(self) -> str:
        return f"{self.arm} seed {self.seed}"


def seed_run(arm: str, recipe: Recipe, identity: str, seed: int, path: Path, run: Path | None = None) -> SeedRun:
    """Return the run of a recipe with another seed: logged in its run directory, and nowhere without one."""
    loggers = [{"use": "core:csv"}] if run is not None else []
    document = {**recipe.document, "seed": seed, "loggers": loggers}
    return SeedRun(arm, seed, document, recipe.origin, identity, path, run)


def identity(resolved: Resolved) -> str:
    """Return the sha256 of all that decides a result beside the seed: the recipe, the versions and the code."""
    document = {key: value for key, value in resolved.document.items() if key not in BESIDE_THE_POINT}
    facts = {"recipe": document, "versions": provenance.versions(), "code": code_versions(resolved.document)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def code_versions(document: dict[str, Any]) -> dict[str, str]:
    """Return a sha256 of the source of the core, without NO_RUN, and of each plugin the document names."""
    toolkit = current_toolkit()
    names = {
        value["use"].partition(":")[0] for value in document.values() if isinstance(value, dict) and "use" in value
    }
    found = {"core": _source_hash(Path(__file__).parent, skip=NO_RUN)}
    for name in sorted(names - {"core"}):
        status = toolkit.statuses[name]
        module = __import__(status.module.partition(".")[0])
        if module.__file__ is not None:
            found[name] = _source_hash(Path(module.__file__).parent, skip=set())
    return found


def _source_hash(folder: Path, skip: set[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if relative.parts[0] not in skip:
            digest.update(f"{relative.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_stored(job: SeedRun) -> dict[str, Any] | None:
    """Return the stored result of a run if it was made by the same recipe, versions and code; else None."""
    found = read_json(job.path)
    if found is None or found.get("identity") != job.identity or found.get("seed") != job.seed:
        return None
    return found


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the keys and values of a JSON file; None if there is none, or it was broken off."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def value_of(result: dict[str, Any], metric: str, wanted_by: str = "expect.metric") -> float:
    """Return a metric of a result. Raises: RecipeError naming the nearest if it was not logged."""
    metrics = result["metrics"]
    if metric not in metrics:
        raise RecipeError(f"{wanted_by}: nothing logs {metric!r}.{nearest(metric, metrics)}")
    value = metrics[metric]
    return float("nan") if value is None else float(value)


# In the process of a run ---------------------------------------------------------------------------------------------


def train(job: SeedRun, threads: int | None) -> None:
    """Train one seed, from where it was broken off if it was, and store its result."""
    import torch

    from toolkit import run

    if threads is not None:
        torch.set_num_threads(threads)
    recipe = from_document(job.document, job.origin)
    began, clock = _now(), time.perf_counter()
    with _run_directory(job) as (folder, broken_off):
        result = run.train(
            recipe, out=None if broken_off else folder, resume=folder if broken_off else None, quiet=True
        )
        seconds = time.perf_counter() - clock
    if not result.finished:
        sys.exit(STOPPED)
    facts = {
        "identity": identity(resolve(recipe)),
        "arm": job.arm,
        "seed": job.seed,
        "metrics": {key: value if value == value else None for key, value in result.metrics.items()},
        "best_epoch": result.best_epoch,
        "seconds": seconds,
        "resumed": broken_off,
        "peak_bytes": _peak_bytes(),
        "device_peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        "threads": torch.get_num_threads(),
        "versions": provenance.versions(),
        "plugins": versions_of_plugins(current_toolkit()),
        "hardware": provenance.hardware(),
        "began": began,
        "ended": _now(),
    }
    with writing(job.path) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())


@contextlib.contextmanager
def _run_directory(job: SeedRun) -> Iterator[tuple[Path, bool]]:
    """Yield the folder to train in, and whether it holds a run to go on with.

    A finished run whose result is not stored is trained again: what it took to train is part of the result.
    """
    if job.run is None:
        with tempfile.TemporaryDirectory(prefix="toolkit-seed-") as folder:
            yield Path(folder) / "run", False
        return
    directory = RunDirectory(job.run)
    broken_off = directory.recipe.is_file() and directory.state().get("status") != "finished"
    if not broken_off and job.run.exists():
        shutil.rmtree(job.run)
    yield job.run, broken_off


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _peak_bytes() -> int:
    """Return the most memory this process ever held; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
