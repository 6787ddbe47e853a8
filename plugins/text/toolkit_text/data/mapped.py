"""Encoded texts on a disk: written part by part in bounded memory, mapped where they are read.

A folder of arrays in the cache, with a JSON file that says how long each is and is written last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from toolkit.files import on_disk, writing
from toolkit_text.data.encoded import EncodedTexts
from toolkit_text.data.tokens import Sequences, Windows

KINDS = {"flat": np.int32, "start": np.int64, "first": np.int64, "rows": np.int64, "target": np.int64}
DONE = "done.json"


class MappedWriter:
    """Writes the encoded texts of a split to a folder, as many at a time as one likes; used as a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = dict.fromkeys(KINDS, 0)
        self.tokens = self.sequences = self.cut = 0
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DONE).unlink(missing_ok=True)
            self._files = {name: (folder / f"{name}.bin").open("wb") for name in KINDS}
        self._write("start", np.zeros(1))
        self._write("first", np.zeros(1))

    def add(self, found: Windows, rows: Sequence[int], target: Sequence[int]) -> None:
        """Write some more texts. found: their sequences, whose owners are places among these texts."""
        sizes = np.array([len(each) for each in found.sequences], dtype=np.int64)
        counts = np.bincount(np.array(found.owner, dtype=np.int64), minlength=len(rows))
        if len(sizes):
            self._write("flat", np.concatenate([np.asarray(each, dtype=np.int32) for each in found.sequences]))
        self._write("start", self.tokens + sizes.cumsum())
        self._write("first", self.sequences + counts.cumsum())
        self._write("rows", np.asarray(rows))
        self._write("target", np.asarray(target))
        self.tokens += int(sizes.sum())
        self.sequences += len(sizes)
        self.cut += found.cut

    def _write(self, name: str, values: np.ndarray) -> None:
        with on_disk(self.folder):
            self._files[name].write(values.astype(KINDS[name]).tobytes())
        self.counts[name] += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with on_disk(self.folder):
            for file in self._files.values():
                file.close()
        if kind is None:
            with writing(self.folder / DONE) as done:
                done.write(json.dumps({"counts": self.counts, "cut": self.cut}).encode())


def facts(folder: Path) -> Mapping[str, Any] | None:
    """Return how long each array of a folder is, and how many texts were cut; None for one that is not finished."""
    try:
        found: Mapping[str, Any] = json.loads((folder / DONE).read_text())
    except (OSError, ValueError):
        return None
    sizes = {name: (folder / f"{name}.bin").stat().st_size for name in KINDS if (folder / f"{name}.bin").exists()}
    whole = {name: found["counts"][name] * np.dtype(kind).itemsize for name, kind in KINDS.items()}
    return found if sizes == whole else None


class MappedTexts(EncodedTexts):
    """The texts of a finished folder. A process that is sent them maps the folder too, and is sent no tokens."""

    def __init__(self, folder: Path, pad: int, windows: int | None = None) -> None:
        found = facts(folder)
        assert found is not None
        flat, start, first, rows, target = (_array(folder, name, found["counts"][name]) for name in KINDS)
        super().__init__(Sequences.of(flat, start), first, rows, target, pad, windows)
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedTexts, (self.folder, self.pad, self.windows)


def _array(folder: Path, name: str, count: int) -> Tensor:
    if not count:  # nothing cannot be mapped
        return torch.from_numpy(np.empty(0, dtype=KINDS[name]))
    # "c": a private copy of what is written to, which is nothing; torch wants memory that it could write.
    return torch.from_numpy(np.memmap(folder / f"{name}.bin", dtype=KINDS[name], mode="c", shape=(count,)))
