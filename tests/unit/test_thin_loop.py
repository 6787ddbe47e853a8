"""The shorter ways through Lightning's loop lead to the same places, hook for hook."""

import os

import pytest
import pytorch_lightning as pl
import torch

from toolkit.batches import Batch
from toolkit.loading import HeldLoader
from toolkit.loggers import CSVLogger, TensorBoard
from toolkit.thin_loop import HeldValidation, NoProfiler, thin

BATCHES = [Batch(target=torch.arange(4.0) + first) for first in (0, 1, 2)]


class Recorder(pl.Callback):
    """Every hook that is called, with what the model's mode, gradients and books are at that moment."""

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith("on_") and name not in ("on_save_checkpoint", "on_load_checkpoint"):

            def record(trainer, task, *arguments):
                indices = [value for value in arguments if isinstance(value, int)]
                gradient = task.weight.grad is not None
                self.calls.append((name, indices, task.training, torch.is_grad_enabled(), gradient))

            return record
        return super().__getattribute__(name)


class Line(pl.LightningModule):
    def __init__(self, logs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))
        self.frozen = torch.nn.Linear(1, 1).eval()  # a module in evaluation stays there
        self.logs = logs
        self.own = []

    def training_step(self, batch, batch_idx):
        return (self.weight * batch.target).square().mean()

    def validation_step(self, batch, batch_idx):
        loss = self.training_step(batch, batch_idx)
        if self.logs == "step":
            self.log("val/loss", loss, batch_size=len(batch.target))
        self.own.append((float(loss), self.frozen.training))
        return loss

    def on_validation_epoch_end(self):
        if self.logs == "end":
            self.log("val/last", self.own[-1][0])

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.01)


def fit(folder, thinned, logs="none", **options):
    task, recorder = Line(logs), Recorder()
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[recorder],
        logger=[CSVLogger(str(folder))],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
        **options,
    )
    if thinned:
        thin(trainer)
    trainer.fit(task, HeldLoader(BATCHES), HeldLoader(BATCHES))
    return task, recorder.calls, trainer


@pytest.mark.parametrize("logs", ["none", "step", "end"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_sanity_val_steps": 0},
        {"limit_val_batches": 2},
        {"limit_val_batches": 0},
        {"val_check_interval": 1},
        {"check_val_every_n_epoch": 2},
        {"accumulate_grad_batches": 2},
    ],
    ids=str,
)
def test_hooks_modes_metrics_and_weights_are_lightnings_own(tmp_path, logs, options):
    ours, our_calls, our_trainer = fit(tmp_path / "thin", True, logs, **options)
    theirs, their_calls, their_trainer = fit(tmp_path / "plain", False, logs, **options)
    assert our_calls == their_calls
    assert {"on_train_batch_end", "on_fit_end"} <= {name for name, *_ in our_calls}
    assert ours.own == theirs.own
    assert torch.equal(ours.weight, theirs.weight)
    assert our_trainer.callback_metrics == their_trainer.callback_metrics
    assert our_trainer.loggers[0].rows == their_trainer.loggers[0].rows
    progress = our_trainer.fit_loop.epoch_loop.val_loop.batch_progress
    assert progress.state_dict() == their_trainer.fit_loop.epoch_loop.val_loop.batch_progress.state_dict()


def test_the_short_way_is_taken_for_held_batches_only(tmp_path, monkeypatch):
    taken = []
    short = HeldValidation._run_held
    monkeypatch.setattr(HeldValidation, "_run_held", lambda loop, batches: taken.append(1) or short(loop, batches))
    fit(tmp_path, True)
    assert len(taken) == 3
    trainer = thin(pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False))
    trainer.fit(Line("none"), HeldLoader(BATCHES), torch.utils.data.DataLoader(BATCHES, batch_size=None))
    assert len(taken) == 3


def test_a_profiler_that_was_asked_for_stays():
    assert isinstance(thin(pl.Trainer(logger=False)).profiler, NoProfiler)
    assert type(thin(pl.Trainer(logger=False, profiler="simple")).profiler) is pl.profilers.SimpleProfiler


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the management library is what Lightning wants")
def test_no_step_loads_a_library_for_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    thin(pl.Trainer(logger=False))
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ


def test_tensorboard_has_every_row_once_it_is_flushed(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(str(tmp_path))
    for step in range(5):
        logger.log_metrics({"val/loss": step / 2}, step=step)
        logger.log_metrics({"train/loss": step / 4}, step=step)
        logger.save()
    logger.flush()
    logger.log_metrics({"val/loss": 9.0}, step=5)
    logger.finalize("success")
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("val/loss")] == [
        (0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0), (5, 9.0),
    ]  # fmt: skip
    assert [event.value for event in found.Scalars("train/loss")] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_mean_loss_of_a_long_epoch_is_right_in_half_precision():
    from types import SimpleNamespace

    from toolkit.task import Task

    task = SimpleNamespace(
        _loss_sum={}, _item_sum={}, _exact=torch.float64, device="cpu", trainer=SimpleNamespace(world_size=1)
    )
    for _ in range(1000):
        Task._add_loss(task, "val", torch.tensor(1.0, dtype=torch.bfloat16), 32)
    task._all_sums = lambda stage: Task._all_sums(task, stage)
    assert float(Task._mean_loss(task, "val")) == 1.0
    assert not task._loss_sum
    assert not task._item_sum
