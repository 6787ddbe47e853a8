"""The folder of one training run: what it holds, and in which state it is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import yamlfile
from toolkit.checkpoint import LAST
from toolkit.errors import RunError
from toolkit.files import locked, writing

DIRECTORY_VARIABLE = "TOOLKIT_RUN_DIRECTORY"
"""How the first process tells the ones it launches which folder is theirs."""


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
        """Merge facts into `run.json`."""
        with writing(self.path / "run.json") as file:
            file.write((json.dumps({**self.state(), **facts}, indent=1) + "\n").encode())

    def write_recipe(self, document: dict[str, Any], header: str) -> None:
        with writing(self.recipe) as file:
            file.write((header + yamlfile.dump(document)).encode())


def create(name: str, out: str | Path | None) -> RunDirectory:
    """Make the folder of a new run: `out`, or the next free `runs/NAME-1`, `runs/NAME-2` ...

    Raises: RunError if `out` exists and is not empty.
    """
    if out is not None:
        path = Path(out)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"the run directory {path} exists and is not empty. Go on with it: --resume {path}; "
                "or choose another --out"
            )
        path.mkdir(parents=True, exist_ok=True)
        return RunDirectory(path)
    home = Path("runs")
    home.mkdir(exist_ok=True)
    with locked(home / "numbering"):
        path = home / f"{name}-{1 + max([0, *_numbers(home, name)])}"
        path.mkdir()
    return RunDirectory(path)


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
