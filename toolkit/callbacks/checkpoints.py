"""Saving: the best state by validation and the last one, seldom enough to cost nothing, often enough to lose little."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from toolkit import checkpoint as checkpoints
from toolkit.callbacks.monitors import Monitor
from toolkit.checkpoint import BEST, LAST, Payload
from toolkit.loggers import flush
from toolkit.settings import CheckpointSettings

BATCHES_BETWEEN_LOOKS = 50
"""Several processes agree on the clock only this often, since agreeing is a broadcast."""


class StopRequestedError(Exception):
    """Raised between two steps after the state was saved, because somebody asked the run to stop."""


class Checkpoints(Checkpoint):
    """Keep `best.ckpt` and `last.ckpt` in a folder.

    The best weights so far are held in memory and travel inside `last.ckpt`, so that the two can never belong to
    different timelines however a run was killed. Files are written when `every_seconds` have passed, when training
    ends, and when a stop is asked for.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        monitors: list[str],
        payload: Payload,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder
        self.monitor = Monitor(monitors, settings.mode)
        self.every_seconds = settings.every_seconds
        self.payload = payload
        self.stop_requested = stop_requested
        self.best_weights: dict[str, Tensor] = {}
        self.best_epoch = -1
        self.best_step = -1
        self.best_metrics: dict[str, float] = {}
        self.saved_best_step = -1
        self._loader_state: dict[str, Any] | None = None
        self.saved_at = time.monotonic()

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": list(self.monitor.best),
            "best_epoch": self.best_epoch,
            "best_step": self.best_step,
            "best_metrics": dict(self.best_metrics),
            "best_weights": dict(self.best_weights),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.monitor.best = list(state["best"])
        self.best_epoch, self.best_step = int(state["best_epoch"]), int(state["best_step"])
        self.best_metrics, self.best_weights = dict(state["best_metrics"]), dict(state["best_weights"])

    def on_save_checkpoint(self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["toolkit"] = self.payload.plain()
        loader: Any = trainer.train_dataloader
        checkpoint["train_loader"] = loader.state_dict() if hasattr(loader, "state_dict") else {}

    def on_load_checkpoint(self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loader_state = checkpoint.get("train_loader") or None

    # Hooks ----------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.saved_at = time.monotonic()
        arm = getattr(self.stop_requested, "arm", None)
        if arm is not None:
            arm()
        if self._loader_state is not None:
            # Lightning loses the loader's place when a schedule asked for the number of steps before the restore.
            loader: Any = trainer.train_dataloader
            loader.load_state_dict(self._loader_state)
            self._loader_state = None

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        values = self.monitor.read(trainer, "checkpoint")
        if values > self.monitor.best:  # as lists compare: each metric breaks the ties of those before it
            self.monitor.best = values
            weights = trainer.strategy.lightning_module_state_dict()
            if trainer.is_global_zero:
                self.best_weights = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
            self.best_epoch, self.best_step = trainer.current_epoch, trainer.global_step
            logged = trainer.callback_metrics.items()  # of train/ only the epoch before is known by now
            self.best_metrics = {name: float(value) for name, value in logged if not name.startswith("train/")}

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_of_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        alone = trainer.world_size == 1
        if last_of_epoch or accumulating or not (alone or (batch_idx + 1) % BATCHES_BETWEEN_LOOKS == 0):
            return
        self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.save(trainer)

    # Writing --------------------------------------------------------------------------------------------------------

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        stop = self.stop_requested()
        due = time.monotonic() - self.saved_at >= self.every_seconds
        if trainer.world_size > 1:
            stop = bool(trainer.strategy.reduce_boolean_decision(stop, all=False))
            due = bool(trainer.strategy.broadcast(due))
        if stop or due:
            self.save(trainer)
        if stop:
            raise StopRequestedError

    def save(self, trainer: pl.Trainer) -> None:
        """Write both files, and what the loggers still hold: a resumed run must find all rows up to this step."""
        flush(trainer.loggers)
        trainer.save_checkpoint(self.folder / LAST)
        if trainer.is_global_zero and self.best_weights and self.saved_best_step != self.best_step:
            checkpoints.write(self._best(), self.folder / BEST)
            self.saved_best_step = self.best_step
        self.saved_at = time.monotonic()

    def _best(self) -> dict[str, Any]:
        return {
            "state_dict": self.best_weights,
            "epoch": self.best_epoch,
            "global_step": self.best_step,
            "metrics": self.best_metrics,
            "pytorch-lightning_version": pl.__version__,
            "toolkit": self.payload.plain(),
        }
