"""Early stopping on one metric or several."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl

from toolkit.callbacks.monitors import Monitor
from toolkit.errors import RunError
from toolkit.settings import StopSettings


class EarlyStopping(pl.Callback):
    """Stop after `patience` validations in which no monitored metric improved.

    Raises: RunError when a monitored metric is no longer finite: training on would keep nothing of use.
    """

    def __init__(self, settings: StopSettings) -> None:
        self.settings = settings
        self.monitor = Monitor(settings.monitors, settings.mode)
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor.state_dict(), "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.monitor.load_state_dict(state["monitor"]):
            self.waited = int(state["waited"])

    def on_fit_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.monitor.check(trainer, task, "stop")

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.waited >= self.settings.patience:  # resumed after it had stopped
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.sanity_checking or (not trainer.training and trainer.state.fn != "fit"):
            return
        values = self.monitor.read(trainer, "stop")
        for name, value in zip(self.monitor.names, values, strict=True):
            if not math.isfinite(value):
                raise RunError(
                    f"training diverged: {name} is {value} at epoch {trainer.current_epoch}. "
                    "Lower optimizer.lr, or set trainer.gradient_clip_val=1.0; the last good checkpoint is kept"
                )
        if any(self._improved(*pair) for pair in zip(values, self.monitor.best, strict=True)):
            self.waited = 0
        else:
            self.waited += 1
        self.monitor.best = [
            value if self._improved(value, best) else best
            for value, best in zip(values, self.monitor.best, strict=True)
        ]
        if self.waited >= self.settings.patience:
            trainer.should_stop = True

    def _improved(self, value: float, best: float) -> bool:
        return value >= best if self.settings.count_ties else value > best + self.settings.min_delta
