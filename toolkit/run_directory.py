"""The folder of one training run: what it holds, in which state it is, and which process is at work in it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from toolkit import provenance, yamlfile
from toolkit.checkpoint import LAST
from toolkit.errors import RunError
from toolkit.files import locked, on_disk, writing

DIRECTORY_VARIABLE = "TOOLKIT_RUN_DIRECTORY"
"""How the first process tells the ones it launches which folder is theirs."""

LOCK, HOLDER = ".lock", ".holder"
"""The file whose lock a process holds, and who that is. They are two: older filelocks empty the file they lock."""


@dataclass(frozen=True)
class RunDirectory:
    """The folder `recipe.yaml`, `run.json`, `metrics.csv`, `curves.png`, `tensorboard/` and `checkpoints/` are in."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def last(self) -> Path | None:
        file = self.checkpoints / LAST
        return file if file.is_file() else None

    @property
    def resume(self) -> str:
        """The command that goes on with this run."""
        return f"toolkit train --resume {shlex.quote(str(self.path))}"

    def state(self) -> dict[str, Any]:
        """Return what `run.json` says; an empty mapping if there is none yet."""
        file = self.path / "run.json"
        if not file.is_file():
            return {}
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{file} is not valid JSON: {error}") from error
        return found

    def note(self, **facts: Any) -> None:
        """Merge facts into `run.json`; None takes a fact out of it."""
        known = {key: value for key, value in {**self.state(), **facts}.items() if value is not None}
        with writing(self.path / "run.json") as file:
            file.write((json.dumps(known, indent=1) + "\n").encode())

    def write_recipe(self, document: dict[str, Any], header: str) -> None:
        with writing(self.recipe) as file:
            file.write((header + yamlfile.dump(document)).encode())


@contextlib.contextmanager
def new(name: str, out: str | Path | None) -> Iterator[RunDirectory]:
    """Make the folder of a new run, `out` or the next free `runs/NAME-1`, `runs/NAME-2` ..., and hold it for the block.

    A block that fails before it has written anything leaves no folder behind.
    Raises: RunError if `out` exists and is not empty, or another process holds it.
    """
    path = _numbered(name) if out is None else Path(out)
    made = out is None or not path.exists()
    _refuse_used(path)  # before anything is written there
    with on_disk(path.parent):
        path.mkdir(parents=True, exist_ok=True)
    directory = RunDirectory(path)
    with held(directory):
        _refuse_used(path)  # again, for until now another process could write there
        try:
            yield directory
        except BaseException:
            if not _used(path):
                _remove(path, whole=made)
            raise


def _numbered(name: str) -> Path:
    home = Path("runs")
    with on_disk(home.parent):
        home.mkdir(exist_ok=True)
    with locked(home / "numbering"):
        path = home / f"{name}-{1 + max([0, *_numbers(home, name)])}"
        path.mkdir()
    return path


def _used(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(file.name not in (LOCK, HOLDER) for file in path.iterdir()))


def _refuse_used(path: Path) -> None:
    if _used(path):
        raise RunError(
            f"the run directory {path} exists and is not empty. Go on with it: --resume {path}; or choose another --out"
        )


def _remove(path: Path, *, whole: bool) -> None:
    with contextlib.suppress(OSError):  # some systems keep a file that is open; an empty folder does no harm
        for name in (HOLDER, LOCK):
            (path / name).unlink(missing_ok=True)
        if whole:
            path.rmdir()


@contextlib.contextmanager
def held(directory: RunDirectory) -> Iterator[None]:
    """Hold a run directory for the block; the system lets go of it when the process ends, however it ends.

    Raises: RunError if another process holds it.
    """
    lock, holder = FileLock(directory.path / LOCK), directory.path / HOLDER
    with on_disk(directory.path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(_in_use(directory)) from None
    try:
        with writing(holder) as file:
            facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": provenance.now()}
            file.write(json.dumps(facts).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _who(holder: Path) -> dict[str, Any]:
    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it has the lock and has not said so yet
        return {}
    return found if isinstance(found, dict) else {}


def _in_use(directory: RunDirectory) -> str:
    who = _who(directory.path / HOLDER)
    named = f"process {who.get('pid')} on {who.get('host')}, since {who.get('since')}" if who else "another process"
    return (
        f"the run directory {directory.path} is in use by {named}. Wait until it has ended, or stop it with Ctrl-C or "
        f"SIGTERM, which saves its state; then go on: {directory.resume}. Or train beside it into another --out"
    )


def is_in(directory: RunDirectory, folder: Path | None) -> bool:
    """Tell whether a folder is a run directory or in it."""
    return folder is not None and folder.absolute().is_relative_to(directory.path.absolute())


def open_existing(path: str | Path) -> RunDirectory:
    """Return the folder of an earlier run. Raises: RunError if it is none."""
    found = RunDirectory(Path(path))
    if not found.recipe.is_file():
        raise RunError(f"{path} is no run directory: it has no recipe.yaml. Runs are by default in {Path('runs')}/")
    return found


def latest_unfinished(name: str) -> RunDirectory:
    """Return the newest run of a recipe that has not finished. Raises: RunError if there is none."""
    home = Path("runs")
    for number in sorted(_numbers(home, name), reverse=True):
        found = RunDirectory(home / f"{name}-{number}")
        if found.recipe.is_file() and found.state().get("status") != "finished":
            return found
    raise RunError(f"no unfinished run of {name!r} in {home.resolve()}; name one: --resume DIRECTORY")


def _numbers(home: Path, name: str) -> list[int]:
    ends = [path.name[len(name) + 1 :] for path in home.glob(f"{name}-*")]
    return [int(end) for end in ends if end.isdigit()]


def launched() -> RunDirectory | None:
    """Return the folder that the process which launched this one works in, if there is such a process."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    return RunDirectory(Path(given)) if given else None
