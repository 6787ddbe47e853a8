"""Lightning's loop with less between the steps, for models whose step takes milliseconds.

See docs/decisions/0010-thin-loop.md for what each part saves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
from pytorch_lightning.loops.utilities import _no_grad_context
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.trainer.call import _call_callback_hooks, _call_lightning_module_hook, _call_strategy_hook
from pytorch_lightning.trainer.states import RunningStage, TrainerFn

from toolkit.batches import Batch
from toolkit.loading import HeldLoader

NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Profile nothing. Lightning's own such profiler builds a generator around every hook it calls."""

    def profile(self, action_name: str) -> Any:
        return NOTHING


def thin(trainer: pl.Trainer) -> pl.Trainer:
    """Give a trainer the shorter ways of this module, and return it."""
    trainer.fit_loop.epoch_loop.val_loop = HeldValidation(trainer)
    if not torch.cuda.is_available():
        # Lightning makes this look load NVIDIA's management library; every step of a torch optimizer looks.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = NoProfiler()  # type: ignore[attr-defined]
    return trainer


class HeldValidation(_EvaluationLoop):
    """Lightning's validation loop within `fit`, with a shorter way when the loader is one `HeldLoader`.

    It calls the same hooks in the same order, but builds no iterator and reads no hook's signature again.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False)

    def run(self) -> list[Any]:
        self.setup_data()
        batches = self._held()
        return super().run() if batches is None else self._run_held(batches)

    def _held(self) -> Sequence[Batch] | None:
        """Return the batches to validate on; None if Lightning's own loop is the one to run."""
        loaders = [] if self._combined_loader is None else self._combined_loader.flattened
        plain = not (self.trainer.sanity_checking or self.restarting or self.skip)
        if plain and len(loaders) == 1 and isinstance(loaders[0], HeldLoader):
            return loaders[0].batches[: int(min(self.max_batches[0], len(loaders[0])))]
        return None

    @_no_grad_context
    def _run_held(self, batches: Sequence[Batch]) -> list[Any]:
        self._logged_outputs = []
        self.batch_progress.reset_on_run()
        self._on_evaluation_model_eval()
        self._on_evaluation_start()
        self._on_evaluation_epoch_start()
        for index, batch in enumerate(batches):
            self.batch_progress.is_last_batch = index + 1 == len(batches)
            self._step(batch, index)
        self._has_run = True
        if self._results:  # the task used Lightning's `log`, whose books want closing
            self._store_dataloader_outputs()
            return self.on_run_end()
        self.trainer._logger_connector.epoch_end_reached()
        self._on_evaluation_epoch_end()
        if self._results:  # or only at the end of the epoch
            connector = self.trainer._logger_connector
            connector.log_eval_end_metrics(connector.update_eval_epoch_metrics())
        self._on_evaluation_end()
        self._on_evaluation_model_train()
        self.trainer._last_val_time = time.monotonic()  # type: ignore[attr-defined]
        return []

    def _step(self, batch: Batch, index: int) -> None:
        trainer = self.trainer
        batch = trainer.precision_plugin.convert_input(batch)
        batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        batch = _call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)
        self.batch_progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch, None)
        _call_callback_hooks(trainer, "on_validation_batch_start", batch, index)
        _call_lightning_module_hook(trainer, "on_validation_batch_start", batch, index)
        self.batch_progress.increment_started()
        output = _call_strategy_hook(trainer, "validation_step", batch, index)
        self.batch_progress.increment_processed()
        _call_callback_hooks(trainer, "on_validation_batch_end", output, batch, index)
        _call_lightning_module_hook(trainer, "on_validation_batch_end", output, batch, index)
        trainer._logger_connector.on_batch_end()
        self.batch_progress.increment_completed()
        if self._results:
            trainer._logger_connector.update_eval_step_metrics(self._seen_batches_per_dataloader[0])
        self._seen_batches_per_dataloader[0] += 1
