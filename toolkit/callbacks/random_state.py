"""The state of the random generators, so that a resumed run draws what an unbroken one would have drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import distributed


class RandomState(pl.Callback):
    """Save the generators of Python, NumPy, torch and CUDA with each checkpoint, and put them back on resuming.

    Each process has its own and gets its own back. A run that goes on with more processes than it was saved by starts
    the generators of the new ones from its seed, as a new run does; with fewer, the states left over are not used.
    """

    def __init__(self) -> None:
        self._pending: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"processes": _of_all_processes(_state())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pending = state["processes"]

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        states, self._pending = self._pending, []
        if trainer.global_rank < len(states):
            _restore(states[trainer.global_rank])


def _of_all_processes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states in order of rank. Lightning asks every process for its part of a checkpoint: all are here."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def _state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(words), gauss],
    }


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
