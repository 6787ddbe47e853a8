"""Checkpoints: written whole or not at all, holding plain data and tensors only, and read without unpickling.

A checkpoint of ours is what Lightning writes plus one key, `toolkit`: the format, the resolved recipe, the data's spec
and the provenance. That is enough to rebuild the task without the data plugin, the recipe file or the network.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from toolkit.assemble import build_task
from toolkit.errors import CheckpointError, RunError
from toolkit.files import DiskError, free, megabytes, writing

if TYPE_CHECKING:
    from toolkit.task import Task

FORMAT = 1
BEST, LAST = "best.ckpt", "last.ckpt"


@dataclass(frozen=True)
class Payload:
    """What we add to a checkpoint: plain values only."""

    recipe: dict[str, Any]
    spec: dict[str, Any]
    provenance: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        return {"format": FORMAT, "recipe": self.recipe, "spec": self.spec, "provenance": self.provenance}


@dataclass(frozen=True)
class Restored:
    """A task with its trained weights, in eval mode, and where it came from."""

    task: Task
    payload: Payload
    path: Path
    epoch: int
    global_step: int


def locate(path: str | Path, prefer: tuple[str, ...] = (BEST, LAST)) -> Path:
    """Return the checkpoint file of a run directory, or the file itself. Raises: CheckpointError."""
    path = Path(path)
    if path.is_file():
        return path
    for name in prefer:
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    if not path.exists():
        raise CheckpointError(f"no run or checkpoint at {path}")
    raise CheckpointError(
        f"{path} holds no checkpoint: expected {' or '.join(f'checkpoints/{name}' for name in prefer)}"
    )


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours as plain data and tensors; nothing in it is executed.

    Raises: CheckpointError if the file is truncated, is no checkpoint, carries pickled objects, or is not ours.
    """
    if path.suffix in (".yaml", ".yml"):
        raise CheckpointError(f"{path} is a recipe; give a run directory or a checkpoint that was trained from it")
    if not zipfile.is_zipfile(path):
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size} bytes) is not a whole checkpoint: it is truncated, or was not written by torch.save. "
            "Use the run's other checkpoint (checkpoints/best.ckpt, checkpoints/last.ckpt), or train a new run."
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path} is refused: it carries pickled objects, which could run code when loaded ({first}). "
            "Only checkpoints of plain data and tensors are read."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict) or "toolkit" not in found or "state_dict" not in found:
        keys = ", ".join(map(str, list(found)[:8])) if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(f"{path} is a foreign checkpoint (it holds: {keys}): only our own runs can be restored")
    ours = found["toolkit"]
    if not isinstance(ours, dict) or not all(
        isinstance(ours.get(key), dict) for key in ("recipe", "spec", "provenance")
    ):
        raise CheckpointError(f"{path} is a foreign checkpoint: its key `toolkit` is not what our runs write")
    if found["toolkit"].get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {found['toolkit'].get('format')!r}; this version of attention-toolkit reads {FORMAT}. "
            f"It was written by {found['toolkit'].get('provenance', {}).get('versions', {})}"
        )
    return found


def payload_of(checkpoint: Mapping[str, Any]) -> Payload:
    """Return our part of a checkpoint that `read` returned."""
    ours = checkpoint["toolkit"]
    return Payload(ours["recipe"], ours["spec"], ours["provenance"])


def restore(path: str | Path) -> Restored:
    """Rebuild a task from a run directory or checkpoint alone: no data, no recipe file, no network.

    Raises: CheckpointError; UnknownNameError or MissingExtraError if a plugin it was trained with is not installed.
    """
    file = locate(path)
    checkpoint = read(file)
    payload = payload_of(checkpoint)
    task = build_task(payload.recipe, payload.spec)
    load_weights(task, checkpoint["state_dict"], file)
    return Restored(task.eval(), payload, file, int(checkpoint.get("epoch", 0)), int(checkpoint.get("global_step", 0)))


def load_weights(task: torch.nn.Module, state: Mapping[str, Any], file: Path) -> None:
    """Load a state dict exactly. Raises: CheckpointError naming what is missing, left over or of another shape."""
    own = task.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or extra or shapes:
        found = [f"missing {missing[:3]}"] * bool(missing) + [f"left over {extra[:3]}"] * bool(extra)
        found += [f"{key} is {tuple(state[key].shape)}, wants {tuple(own[key].shape)}" for key in sorted(shapes)[:3]]
        raise CheckpointError(f"the weights in {file} do not fit {type(task).__name__}: {'; '.join(found)}")
    task.load_state_dict(state)


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its place and moves it there whole; reads with `weights_only`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def write(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically. Raises: RunError if it cannot be written, leaving the old file as it was."""
    try:
        with writing(path) as file:
            torch.save(dict(checkpoint), file)
    except (DiskError, OSError, RuntimeError) as error:  # torch wraps what the file object raised in a RuntimeError
        room = free(path.parent)
        old = f"the checkpoint of before is still at {path}" if path.exists() else "there is no earlier checkpoint"
        raise RunError(
            f"cannot write {path.name} in {path.parent} ({megabytes(room)} free on that disk): {_cause(error)}; {old}. "
            f"Make room and go on with --resume {os.path.relpath(path.parent.parent)}"
        ) from error


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
