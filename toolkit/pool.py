"""Work in processes of its own, one a core or device: a fresh process makes peak memory a fact about one run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

from toolkit.errors import RecipeError, RunError, ToolkitError

PATIENCE = 10.0
"""Seconds that a process which was told to stop has for it."""

STOPPED = 3
"""Exit code of a process that was asked to stop: nothing is stored."""


class Job(Protocol):
    """What a process is given: plain values, the name it goes by in messages, and where its result is stored."""

    @property
    def label(self) -> str: ...

    @property
    def path(self) -> Path: ...


AnyJob = TypeVar("AnyJob", bound=Job)
Work = Callable[[AnyJob, int | None], None]
"""What is done with a job; the number is the threads it may use, None for all."""


def run_jobs(
    jobs: Sequence[AnyJob],
    work: Work[AnyJob],
    devices: Sequence[str],
    workers: int | None,
    done: Callable[[AnyJob], None],
    failed: Callable[[AnyJob, str], None] | None = None,
) -> int:
    """Run jobs side by side, call `done` after each, and return how many ran at once.

    work: a function of a module, which the process imports. devices: see `devices_of`. failed: called with the reason
    when a job fails; without it the failure is raised.
    Raises: RunError when a job fails; the others are stopped, and results stored before stay.
    """
    limit = len(devices) if devices else _cores()
    workers = min(workers or limit, len(jobs))
    slots = [devices[index % len(devices)] if devices else None for index in range(workers)]
    context = _context()
    running: dict[Any, tuple[Any, AnyJob, str | None]] = {}
    waiting = list(jobs)
    try:
        while waiting or running:
            while waiting and slots:
                job, device = waiting.pop(0), slots.pop()
                threads = 1 if workers > 1 and not devices else None
                process = context.Process(
                    target=_in_process, args=(job, work, threads, _environment(device), os.getcwd())
                )
                process.start()
                running[process.sentinel] = (process, job, device)
            for sentinel in wait(list(running)):
                process, job, device = running.pop(sentinel)
                process.join()
                slots.append(device)
                if process.exitcode == 0:
                    done(job)
                elif failed is not None:
                    failed(job, _why(job, process.exitcode))
                else:
                    raise RunError(f"{job.label} failed. {_why(job, process.exitcode)}")
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


def devices_of(trainer: Mapping[str, Any]) -> list[str]:
    """Return the accelerators to share out, by the numbers this process may see them under; none means cores.

    Raises: RecipeError if a run wants more than one.
    """
    if trainer.get("devices") not in (1, "1", "auto", [0]) or trainer.get("num_nodes", 1) != 1:
        raise RecipeError(
            f"each seed runs on one device here, but trainer.devices is {trainer.get('devices')!r}: "
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
    return "Its process was asked to stop." if code == STOPPED else f"Its process ended with exit code {code}."


def _failure_file(job: Job) -> Path:
    return job.path.with_suffix(".failure")


# In the process of a job ---------------------------------------------------------------------------------------------


def _in_process(job: AnyJob, work: Work[AnyJob], threads: int | None, environment: dict[str, str], folder: str) -> None:
    """Do the work of one job; what the server of processes inherited at its start is set anew."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which then tells the others
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _failure_file(job).unlink(missing_ok=True)
    try:
        work(job, threads)
    except ToolkitError as error:
        _explain(job, str(error))
    except Exception:
        _explain(job, traceback.format_exc())


def _explain(job: Job, text: str) -> None:
    job.path.parent.mkdir(parents=True, exist_ok=True)
    _failure_file(job).write_text(text, encoding="utf-8")
    sys.exit(2)
