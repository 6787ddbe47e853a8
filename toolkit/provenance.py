"""Where a result came from: versions, machine, data and the command that made it."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("attention-toolkit", "torch", "pytorch-lightning", "torchmetrics", "numpy", "torch-geometric")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return the processor, its cores, the memory in GiB, and the accelerators."""
    import torch

    found: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    found["accelerators"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def processor() -> str:
    """Return the processor's model name, as well as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def collect(data_files: dict[str, str], plugins: dict[str, str]) -> dict[str, Any]:
    """Return everything a checkpoint says about its making, as plain values; no path of this machine is in it."""
    return {
        "versions": versions(),
        "plugins": plugins,
        "hardware": hardware(),
        "data_sha256": data_files,
        "command": " ".join(["toolkit", *sys.argv[1:]]) if Path(sys.argv[0]).name == "toolkit" else "",
        "started": now(),
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
