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
from toolkit.files import FULL, DiskError, full
from toolkit.loggers import CSVLogger, Rows, flush
from toolkit.settings import CheckpointSettings

SECONDS_BETWEEN_LOOKS = 1.0
"""Several processes agree on stopping and on the clock only this often, since they wait for each other to agree."""

LOG_ROWS = "log_rows"
"""The rows of `metrics.csv`, in a checkpoint that was written when they could not be."""


class StopRequestedError(Exception):
    """Raised between two steps after the state was saved, because somebody asked the run to stop."""


class Checkpoints(Checkpoint):
    """Keep `best.ckpt` and `last.ckpt` in a folder.

    The best weights so far are held in memory and travel inside `last.ckpt`, so that the two can never belong to
    different timelines however a run was killed. Files are written when `every_seconds` have passed, when training
    ends, and when a stop is asked for.

    failure: what ended the training, if something did. Lightning closes the loggers before it hands that on, and a disk
    too full for them must not hide it.
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
        self.failure: BaseException | None = None
        self._unwritten: Rows = []
        self._batches, self._look_after, self._looked_at = 0, 1, 0.0

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor.state_dict(),
            "best_epoch": self.best_epoch,
            "best_step": self.best_step,
            "best_metrics": dict(self.best_metrics),
            "best_weights": dict(self.best_weights),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.monitor.load_state_dict(state["monitor"])
        self.best_epoch, self.best_step = int(state["best_epoch"]), int(state["best_step"])
        self.best_metrics, self.best_weights = dict(state["best_metrics"]), dict(state["best_weights"])

    def on_save_checkpoint(self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["toolkit"] = self.payload.plain()
        if self._unwritten:
            checkpoint[LOG_ROWS] = self._unwritten
        loader: Any = trainer.train_dataloader
        checkpoint["train_loader"] = loader.state_dict() if hasattr(loader, "state_dict") else {}

    def on_load_checkpoint(self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loader_state = checkpoint.get("train_loader") or None

    # Hooks ----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        # Not before all processes have met: until then one of them waits for the others where no handler is called, and
        # a signal must end it as it ends any program.
        arm = getattr(self.stop_requested, "arm", None)
        if arm is not None and stage == "fit":
            arm(trainer)

    def on_fit_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.monitor.check(trainer, task, "checkpoint")

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.saved_at = time.monotonic()
        self._batches, self._look_after, self._looked_at = 0, 1, self.saved_at
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
        self._batches += 1
        if last_of_epoch or accumulating or (trainer.world_size > 1 and self._batches < self._look_after):
            return
        self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.save(trainer)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        task: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Training is saved by now. Several processes need not have as many batches each, so they test to the end.
        if trainer.world_size == 1 and self.stop_requested():
            raise StopRequestedError

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        self.failure = exception

    # Writing --------------------------------------------------------------------------------------------------------

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        stop = self.stop_requested()
        due = time.monotonic() - self.saved_at >= self.every_seconds
        if trainer.world_size > 1:
            stop = bool(trainer.strategy.reduce_boolean_decision(stop, all=False))
            due, self._look_after = trainer.strategy.broadcast((due, self._batches_a_look()))
            self._batches, self._looked_at = 0, time.monotonic()
        if stop or due:
            self.save(trainer)
        if stop:
            raise StopRequestedError

    def _batches_a_look(self) -> int:
        """Return after how many batches to look again: process 0 counts for all, which must look at the same one."""
        batch_seconds = (time.monotonic() - self._looked_at) / max(1, self._batches)
        return max(1, int(SECONDS_BETWEEN_LOOKS / max(batch_seconds, 1e-6)))

    def save(self, trainer: pl.Trainer) -> None:
        """Write what the loggers still hold, then both files: a resumed run must find all rows up to this step.

        The logs come first: of a run killed between the two they are ahead, and are cut back on resuming; the other way
        round, rows would be lost. But a log that cannot be written does not cost the state. It is saved all the same,
        with the rows that the CSV lacks in it, and only then the failure is told.
        """
        failure = self._write_logs(trainer)
        trainer.save_checkpoint(self.folder / LAST)
        if trainer.is_global_zero and self.best_weights and self.saved_best_step != self.best_step:
            checkpoints.write(self._best(), self.folder / BEST)
            self.saved_best_step = self.best_step
        self.saved_at = time.monotonic()
        if failure is not None:
            raise failure

    def _write_logs(self, trainer: pl.Trainer) -> Exception | None:
        failure: Exception | None = None
        self._unwritten = []
        for logger in trainer.loggers:
            try:
                flush([logger])
            except Exception as error:
                failure = failure or error
                if isinstance(logger, CSVLogger):
                    self._unwritten = logger.rows
        if isinstance(failure, OSError) and failure.errno in FULL:  # of a logger that is not ours
            return DiskError(full(self.folder.parent), self.folder.parent)
        return failure

    def _best(self) -> dict[str, Any]:
        return {
            "state_dict": self.best_weights,
            "epoch": self.best_epoch,
            "global_step": self.best_step,
            "metrics": self.best_metrics,
            "pytorch-lightning_version": pl.__version__,
            "toolkit": self.payload.plain(),
        }
