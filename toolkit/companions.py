"""Packages that are built against one torch: whether they load beside the installed one, and how to mend it.

Versions alone do not tell: torch and torchvision of one version, built for different devices, do not fit either. So the
packages are imported, in a process of their own, which a crash may take down.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

from toolkit.registry import pip_line

DISTRIBUTION = "attention-toolkit"

COMPANIONS = {"torchvision": "torchvision", "torchaudio": "torchaudio", "torch-geometric": "torch_geometric"}
"""Packages, and the modules they are imported as."""

PATIENCE = 120.0  # seconds for all imports of one process

_PROBE = """
import importlib, json, os, sys
ours = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the packages print is not ours
names, sys.path[:] = json.loads(sys.argv[1])
for name in names:
    print(json.dumps([name, None]), file=ours, flush=True)
    try:
        importlib.import_module(name)
        error = ""
    except BaseException as caught:
        error = type(caught).__name__ + ": " + str(caught)
    print(json.dumps([name, error]), file=ours, flush=True)
"""


@dataclass(frozen=True)
class Companion:
    """An installed package that needs the installed torch to fit. error: why it does not load, empty if it does."""

    name: str
    version: str
    error: str

    @property
    def problem(self) -> str:
        return f"{_beside(self.name)}: {self.error}" if self.error else ""

    @property
    def mend(self) -> str:
        return mend(self.name) if self.error else ""


def probe() -> list[Companion]:
    """Import torch and each installed package that is built against it, elsewhere, and return what came of it.

    Where torch itself does not load, nothing else is tried.
    """
    installed = {name: module for name, module in {"torch": "torch", **COMPANIONS}.items() if _version(name)}
    errors: dict[str, str] = {}
    while waiting := [module for module in installed.values() if module not in errors]:
        errors |= _import_elsewhere(waiting)
        if errors.get("torch"):
            return [Companion("torch", _version("torch"), errors["torch"])]
    return [Companion(name, _version(name), errors[module]) for name, module in installed.items()]


def _import_elsewhere(modules: Sequence[str]) -> dict[str, str]:
    """Return the error of each module that a fresh process came to: it ends with the first that takes it down."""
    command = [sys.executable, "-c", _PROBE, json.dumps([modules, sys.path])]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
        output, end = done.stdout, _end(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        output, end = error.stdout or b"", f"was not imported within {PATIENCE:g} seconds"
    found: dict[str, str] = {}
    for line in output.decode(errors="replace").splitlines():
        module, error_text = json.loads(line)
        found[module] = end if error_text is None else _short(error_text)
    return found or dict.fromkeys(modules, end)


def _end(code: int, stderr: bytes) -> str:
    last = (stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
    name = f"signal {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"exit code {code}"
    return _short(f"takes Python down while it is imported ({name}) {last}")


def _short(error: str) -> str:
    return " ".join(error.split())[:300]


def _beside(package: str) -> str:
    beside = "" if package == "torch" else f" beside torch {_version('torch')}"
    return f"{package} {_version(package)} does not load{beside}"


def mend(package: str) -> str:
    """Return the pip line that brings a package that fits the installed torch, or both where nothing else would."""
    torch = _version("torch").partition("+")[0]
    if package == "torch":
        return "pip install --force-reinstall torch"
    for extra in metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        ours = _requirements(DISTRIBUTION, extra)
        caps = [each for each in ours if each.name == "torch" and not each.specifier.contains(torch, prereleases=True)]
        if caps and any(each.name == package for each in ours):
            return pip_line(extra)
    wants = [each for each in _requirements(package) if each.name == "torch"]
    if all(each.specifier.contains(torch, prereleases=True) for each in wants):
        return f'pip install --force-reinstall "torch=={torch}" {package}'  # the versions fit, so the builds do not
    return f'pip install --upgrade "torch=={torch}" {package}'


def explain(error: BaseException) -> str:
    """Return a sentence that names the companion whose import raised an error, and how to mend it; else nothing."""
    modules = {module: name for name, module in COMPANIONS.items()}
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ModuleNotFoundError):  # which is told as a missing package
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            package = modules.get(str(frame.f_globals.get("__name__", "")).partition(".")[0])
            # An error in a function may be the caller's; one in a module's body is the installation's.
            if package is not None and frame.f_code.co_name == "<module>":
                return f"{_beside(package)}. Mend it with: {mend(package)}"
        seen = seen.__cause__ or seen.__context__
    return ""


def _requirements(package: str, extra: str = "") -> list[Requirement]:
    try:
        found = [Requirement(line) for line in requires(package) or ()]
    except PackageNotFoundError:
        return []
    if not extra:
        return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    return [
        each
        for each in found
        if each.marker is not None
        and each.marker.evaluate({"extra": extra})
        and not each.marker.evaluate({"extra": ""})
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
