"""Progress in the terminal: a bar over epochs with the loss and the validation metrics, drawn a few times a second."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

REDRAW_SECONDS = 0.2
LINE_SECONDS = 30.0


class ProgressBar(pl.Callback):
    """A bar in a terminal; elsewhere a line every half minute."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bar: Progress | None = None
        self._drawn_at = self._told_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._drawn_at = self._told_at = time.monotonic()
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=self.console,
            auto_refresh=False,
        )
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        self._epochs = self.bar.add_task("epoch", total=epochs, completed=trainer.current_epoch, metrics="")
        batches = trainer.num_training_batches
        self._batches = self.bar.add_task("batch", total=None, metrics="") if batches > 1 else None
        if self._batches is not None and batches != float("inf"):
            self.bar.update(self._batches, total=batches)
        self.bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None:
            if self._batches is not None and self._due(REDRAW_SECONDS):
                self.bar.update(self._batches, completed=batch_idx + 1, refresh=True)
            return
        total = trainer.num_training_batches
        # An epoch of a language model may take half an hour; the last batch is told by the epoch's own line.
        if trainer.is_global_zero and batch_idx + 1 != total and self._due(LINE_SECONDS):
            of = "" if total == float("inf") else f" of {total}"
            print(f"epoch {trainer.current_epoch + 1}: batch {batch_idx + 1}{of}", file=sys.stderr, flush=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if self.bar is not None and (last or self._due(REDRAW_SECONDS)):
            self.bar.update(
                self._epochs, completed=trainer.current_epoch + 1, metrics=_metrics_text(trainer), refresh=True
            )
        elif self.bar is None and (last or time.monotonic() - self._told_at >= LINE_SECONDS):
            self._drawn_at = self._told_at = time.monotonic()  # lines of batches are no reason to leave out this one
            print(f"epoch {trainer.current_epoch + 1}: {_metrics_text(trainer)}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands and give the terminal back."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _due(self, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._drawn_at < seconds:
            return False
        self._drawn_at = now
        return True


def _metrics_text(trainer: pl.Trainer) -> str:
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(logged.items()))
