"""The base data module: what every modality's data promises to the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from toolkit.signatures import HandsOn

Spec = Mapping[str, Any]
"""Plain numbers, strings and lists of them: all that crosses from data to task, and into the checkpoint."""


class Data(HandsOn, pl.LightningDataModule):
    """A data module whose `spec` tells a task everything it needs to build a model.

    A subclass writes `prepare_data` (fetch into the cache; Lightning calls it once a machine), `load` (read the cache
    and return the spec) and the dataloaders. `load` runs once however often `setup` is called. Its constructor may end
    in `**options`, which go to its base class and are part of its signature like those it names itself.
    trained: the spec of the run that this data is read for, None for data to be trained on. What is learned from
    training data, such as a vocabulary, is taken from it and not learned again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._spec: Spec | None = None
        self.trained: Spec | None = None

    def load(self) -> Spec:
        """Read the fetched data, keep what the dataloaders need on self, and return the spec."""
        raise NotImplementedError(f"{type(self).__name__} does not write load()")

    def setup(self, stage: str = "") -> None:
        if self._spec is None:
            self._spec = self.load()

    @property
    def spec(self) -> Spec:
        """The spec that `load` returned. Raises: RuntimeError before `setup`."""
        if self._spec is None:
            raise RuntimeError(f"{type(self).__name__}.spec is known after prepare_data() and setup()")
        return self._spec

    def provenance(self) -> dict[str, str]:
        """Name each file the data came from with its sha256, for the checkpoint and the run directory."""
        return {}

    def share(self) -> tuple[int, int]:
        """Return (rank, processes) of this process, (0, 1) outside a trainer."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
