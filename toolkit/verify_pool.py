"""Runs in processes of their own, one a core or device: a fresh process makes peak memory a fact about one run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from toolkit.errors import RecipeError, RunError, ToolkitError

PATIENCE = 10.0
"""Seconds that a process which was told to stop has for it."""


@dataclass(frozen=True)
class Job:
    """One run: a side of the comparison, its seed, its recipe, and where its result is stored."""

    arm: str
    seed: int
    document: dict[str, Any] = field(compare=False)
    origin: str
    identity: str
    path: Path

    @property
    def label(self) -> str:
        return f"{self.arm} seed {self.seed}"


def run_jobs(jobs: list[Job], trainer: Mapping[str, Any], workers: int | None, done: Callable[[Job], None]) -> int:
    """Run jobs side by side, call `done` after each, and return how many ran at once.

    Raises: RunError when a run fails; the others are stopped, and results stored before stay.
    """
    devices = _devices(trainer)
    limit = len(devices) if devices else _cores()
    workers = min(workers or limit, len(jobs))
    slots = [devices[index % len(devices)] if devices else None for index in range(workers)]
    context = _context()
    running: dict[Any, tuple[Any, Job, str | None]] = {}
    waiting = list(jobs)
    try:
        while waiting or running:
            while waiting and slots:
                job, device = waiting.pop(0), slots.pop()
                threads = 1 if workers > 1 and not devices else None
                process = context.Process(target=_work, args=(job, threads, _environment(device), os.getcwd()))
                process.start()
                running[process.sentinel] = (process, job, device)
            for sentinel in wait(list(running)):
                process, job, device = running.pop(sentinel)
                process.join()
                slots.append(device)
                if process.exitcode != 0:
                    raise RunError(f"{job.label} failed. {_why(job, process.exitcode)}")
                done(job)
    finally:
        _stop([process for process, _, _ in running.values()])
    return workers


def _context() -> Any:
    """Return how to start processes: where it is safe, forked from a server that has imported torch already."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toolkit.run"])
    return context


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices(trainer: Mapping[str, Any]) -> list[str]:
    """Return the accelerators to share out, by the numbers this process may see them under; none means cores."""
    if trainer.get("devices") not in (1, "1", "auto", [0]) or trainer.get("num_nodes", 1) != 1:
        raise RecipeError(
            f"verify runs each seed on one device, but trainer.devices is {trainer.get('devices')!r}: "
            "make it 1, and the seeds are shared out over all devices"
        )
    import torch

    if trainer.get("accelerator") not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return []
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible or [str(index) for index in range(torch.cuda.device_count())]


def _environment(device: str | None) -> dict[str, str]:
    return {**os.environ, **({"CUDA_VISIBLE_DEVICES": device} if device is not None else {})}


def _stop(processes: list[Any]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _why(job: Job, code: int) -> str:
    report = _failure_file(job)
    if report.is_file():
        text = report.read_text(encoding="utf-8")
        report.unlink()
        return text
    if code < 0:
        name = signal.Signals(-code).name
        return f"Its process was ended by {name}" + (
            "; if memory ran out, take fewer --workers." if name == "SIGKILL" else "."
        )
    return f"Its process ended with exit code {code}."


def _failure_file(job: Job) -> Path:
    return job.path.with_suffix(".failure")


# In the process of a run ---------------------------------------------------------------------------------------------


def _work(job: Job, threads: int | None, environment: dict[str, str], folder: str) -> None:
    """Train one seed and store its result; what the server of processes inherited at its start is set anew."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which then tells the others
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _failure_file(job).unlink(missing_ok=True)
    try:
        _train(job, threads)
    except ToolkitError as error:
        _explain(job, str(error))
    except Exception:
        _explain(job, traceback.format_exc())


def _explain(job: Job, text: str) -> None:
    job.path.parent.mkdir(parents=True, exist_ok=True)
    _failure_file(job).write_text(text, encoding="utf-8")
    sys.exit(2)


def _train(job: Job, threads: int | None) -> None:
    import torch

    from toolkit import provenance, run
    from toolkit.files import writing
    from toolkit.recipe import from_document
    from toolkit.resolve import resolve
    from toolkit.verify import identity, versions_of_all

    if threads is not None:
        torch.set_num_threads(threads)
    recipe = from_document(job.document, job.origin)
    began, clock = _now(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="toolkit-verify-") as folder:
        result = run.train(recipe, out=Path(folder) / "run", quiet=True)
        seconds = time.perf_counter() - clock
    if not result.finished:
        sys.exit(3)  # asked to stop: nothing is stored
    facts = {
        "identity": identity(resolve(recipe)),
        "arm": job.arm,
        "seed": job.seed,
        "metrics": {key: value if value == value else None for key, value in result.metrics.items()},
        "best_epoch": result.best_epoch,
        "seconds": seconds,
        "peak_bytes": _peak_bytes(),
        "device_peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        "threads": torch.get_num_threads(),
        "versions": provenance.versions(),
        "plugins": versions_of_all(),
        "hardware": provenance.hardware(),
        "began": began,
        "ended": _now(),
    }
    with writing(job.path) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())


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
