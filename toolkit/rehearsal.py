"""A few steps of a recipe, taken as training takes them and left behind: whether it runs at all, and how fast.

A training step is timed from its batch to the end of the optimizer's step; an inference step is one forward pass
without gradients, and its loss. Neither holds the making of a batch or the metrics.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from toolkit.assemble import build_for_training
from toolkit.callbacks.monitors import Monitor
from toolkit.data import Data
from toolkit.resolve import Resolved
from toolkit.task import Optimization

ALONE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "accumulate_grad_batches": 1, "num_sanity_val_steps": 0}
"""A few steps run in one process, and take an optimiser step at each batch."""

ONCE = {"val_check_interval": 1, "check_val_every_n_epoch": 1, "limit_val_batches": 1}
"""Validation after the first step; the length of training stays what schedules were promised."""

IN_TURN = {
    "val_check_interval": 1.0,
    "check_val_every_n_epoch": 1,
    "limit_train_batches": 10,
    "limit_val_batches": 10,
    "max_epochs": 10_000,
    "max_steps": -1,
    "max_time": None,
}
"""Training and validation by turns, a few batches each, for as long as it takes."""

WARM_UP = 2
"""Steps of each kind that are not timed: the first allocate, compile and choose kernels."""


class EnoughError(Exception):
    """Ends a fit from within once it has shown what was asked for."""


@dataclass(frozen=True)
class Rehearsal:
    """What the steps showed. Units: seconds a step; parameters: trained weights; metrics: the names validation logs."""

    train_seconds: list[float]
    inference_seconds: list[float]
    parameters: int
    metrics: list[str]
    device: str


class StepClock(pl.Callback):
    """Time each training step, hooks of other callbacks and the fetching of its batch left out."""

    def __init__(self) -> None:
        self.train_seconds: list[float] = []
        self._began, self._start = 0.0, time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        finish_device()
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        finish_device()
        self.train_seconds.append(time.perf_counter() - self._began)


class _Probe(StepClock):
    """Time steps, and end the fit when there are enough of both kinds, or when they have taken long enough."""

    def __init__(self, resolved: Resolved, steps: int, seconds: float) -> None:
        super().__init__()
        self.resolved, self.steps, self.seconds = resolved, steps, seconds
        self.inference_seconds: list[float] = []

    def on_fit_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.resolved.callbacks:  # they are left out here, and may log what is monitored
            return
        stop, kept = self.resolved.stop, self.resolved.checkpoint
        Monitor(kept.monitors(stop), kept.mode).check(trainer, task, "checkpoint")
        if stop is not None:
            Monitor(stop.monitors, stop.mode).check(trainer, task, "stop")

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        fewest = min(len(self.train_seconds), len(self.inference_seconds))
        late = self.elapsed > self.seconds and fewest > WARM_UP
        if fewest >= self.steps or late:
            raise EnoughError

    def watched(self, step: Callable[[Any], Any], task: pl.LightningModule) -> Callable[[Any], Any]:
        """Wrap a task's step, so that those of validation are timed."""

        def watched(batch: Any) -> Any:
            if task.training:
                return step(batch)
            finish_device()
            began = time.perf_counter()
            output = step(batch)
            finish_device()
            self.inference_seconds.append(time.perf_counter() - began)
            return output

        return watched


def rehearse(resolved: Resolved, data: Data, *, timed: int | None = None, seconds: float = 0.0) -> Rehearsal:
    """Train and validate a single step; or, with `timed`, so many of each by turns, or for so many seconds.

    Raises: what training would raise at its first steps.
    """
    task = build_for_training(resolved, data)
    if timed is not None:  # a schedule takes its step outside of what is timed, and may not like so many epochs
        task.optimization = Optimization(resolved.optimization.optimizer)
    else:
        for choice in resolved.callbacks:
            choice.build()
    probe = _Probe(resolved, 1 if timed is None else timed + WARM_UP, seconds)
    setattr(task, "step", probe.watched(task.step, task))  # noqa: B010 (mypy refuses the assignment)
    trainer = pl.Trainer(
        **{**resolved.trainer, **ALONE, **(ONCE if timed is None else IN_TURN)},
        callbacks=[probe],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with contextlib.suppress(EnoughError):
        trainer.fit(task, datamodule=data)
    dropped = 0 if timed is None else WARM_UP
    return Rehearsal(
        train_seconds=probe.train_seconds[dropped:],
        inference_seconds=probe.inference_seconds[dropped:],
        parameters=sum(weight.numel() for weight in task.model.parameters() if weight.requires_grad),
        metrics=sorted(trainer.callback_metrics),
        device=str(trainer.strategy.root_device),
    )


def finish_device() -> None:
    """Wait until the accelerator, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
