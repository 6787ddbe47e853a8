"""How a benchmark measures: two callables in turn, the median of the ratios, peak memory in a fresh process."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], Any]


@dataclass(frozen=True)
class Paired:
    """Two steps timed in turn. ratio: the median of peer / ours over the pairs, with its quartiles; above 1 we win."""

    ours_ms: float
    peer_ms: float
    ratio: float
    low: float
    high: float

    def plain(self) -> dict[str, float]:
        return asdict(self)


def paired(ours: Step, peer: Step, *, pairs: int, warm: int = 2) -> Paired:
    """Time two steps in turn, after `warm` turns that build caches."""
    clocks: tuple[list[float], list[float]] = ([], [])
    for turn in range(pairs + warm):
        for step, clock in zip((ours, peer), clocks, strict=True):
            taken = seconds(step)
            if turn >= warm:
                clock.append(1e3 * taken)
    ratios = [b / a for a, b in zip(*clocks, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return Paired(statistics.median(clocks[0]), statistics.median(clocks[1]), statistics.median(ratios), low, high)


def seconds(step: Step) -> float:
    """Return how long a step takes, its work on a GPU included."""
    _settle()
    start = time.perf_counter()
    step()
    _settle()
    return time.perf_counter() - start


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def apart(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` in a fresh process, and return the JSON object on its last line."""
    return run_apart(["-m", module, *arguments])


def run_apart(arguments: list[str]) -> dict[str, Any]:
    """Run Python with these arguments in a fresh process, and return the JSON object on its last line."""
    command = [sys.executable, "-W", "ignore", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[3:])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mib() -> float:
    """Return the most memory this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss starts from what the parent held
        held = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(held.split()[1]) / 2**10
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / 2**20 if sys.platform == "darwin" else usage / 2**10


def machine() -> dict[str, Any]:
    """Name the machine and the versions that a timing belongs to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
