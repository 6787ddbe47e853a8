"""Training: the walk from a recipe to a run directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from toolkit import checkpoint, curves, provenance, run_directory
from toolkit.assemble import build_data, build_task
from toolkit.callbacks.checkpoints import Checkpoints, StopRequestedError
from toolkit.callbacks.progress import ProgressBar
from toolkit.callbacks.random_state import RandomState
from toolkit.callbacks.stopping import EarlyStopping
from toolkit.checkpoint import BEST, Payload
from toolkit.data import Data
from toolkit.errors import CheckpointError, RunError
from toolkit.loggers import CSVLogger, flush
from toolkit.plugins import current_toolkit, versions_of_plugins
from toolkit.recipe import Recipe, from_document
from toolkit.resolve import Resolved, resolve
from toolkit.run_directory import DIRECTORY_VARIABLE, RunDirectory
from toolkit.surroundings import process_rank, quiet_libraries, stop_on_signal
from toolkit.task import Task


@dataclass(frozen=True)
class RunResult:
    """What a training run left: its folder, the metrics of its best epoch and of the test, and whether it finished."""

    directory: Path
    metrics: dict[str, float]
    best_epoch: int
    finished: bool


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    quiet: bool = False,
    test: bool = True,
) -> RunResult:
    """Train a recipe into a run directory, and test once the epoch that validation chose.

    resume: go on with this run directory from its last checkpoint; the recipe must be the one it was started with.
    Raises: ToolkitError for everything that is the user's to mend.
    """
    resolved = resolve(recipe)
    directory = _open(resolved, out, resume)
    with quiet_libraries():
        pl.seed_everything(resolved.seed, workers=True, verbose=False)
        data = build_data(resolved)
        task = _new_task(resolved, data)
        payload = Payload(
            resolved.document,
            dict(data.spec),
            provenance.collect(data.provenance(), versions_of_plugins(current_toolkit())),
        )
        saver = Checkpoints(
            directory.checkpoints,
            resolved.checkpoint,
            resolved.checkpoint.monitors(resolved.stop),
            payload,
        )
        trainer = _trainer(resolved, directory, saver, quiet)
        if trainer.is_global_zero:
            _note_start(directory, resolved, payload, resumed=resume is not None)
        last = directory.last if resume is not None else None
        if last is not None:
            _prepare_resume(trainer, last, payload)
        try:
            with stop_on_signal() as saver.stop_requested:
                trainer.fit(task, datamodule=data, ckpt_path=last)
        except StopRequestedError:
            if trainer.is_global_zero:
                directory.note(status="interrupted", ended=provenance.now())
                curves.draw(directory.path, saver.best_epoch)
            return RunResult(directory.path, saver.best_metrics, saver.best_epoch, finished=False)
        except MisconfigurationException as error:
            raise RunError(f"Lightning refuses this run: {str(error).strip()}") from error
        except BaseException as error:
            if trainer.is_global_zero:
                directory.note(status="failed", ended=provenance.now(), error=f"{type(error).__name__}: {error}")
            raise
        metrics = _finish(trainer, task, data, directory, saver, test=test)
    if trainer.is_global_zero:
        current_toolkit().manager.hook.after_run(
            recipe=resolved.document, run_directory=directory.path, metrics=dict(metrics)
        )
    return RunResult(directory.path, metrics, saver.best_epoch, finished=True)


def _open(resolved: Resolved, out: str | Path | None, resume: str | Path | None) -> RunDirectory:
    launched = run_directory.launched()
    if launched is not None and process_rank() != 0:
        return launched
    if resume is not None:
        directory = run_directory.open_existing(resume)
    elif process_rank() == 0:
        directory = run_directory.create(resolved.name, out)
    else:  # started by torchrun or SLURM beside process 0, which alone writes
        directory = RunDirectory(Path(out) if out is not None else Path("runs") / resolved.name)
    os.environ[DIRECTORY_VARIABLE] = str(directory.path.resolve())
    return directory


def _new_task(resolved: Resolved, data: Data) -> Task:
    task = build_task(resolved.document, data.spec)
    task.optimization = resolved.optimization
    settings = resolved.compile
    if settings.enabled:
        task.model.compile(mode=settings.mode, dynamic=settings.dynamic, fullgraph=settings.fullgraph)
    return task


def _trainer(resolved: Resolved, directory: RunDirectory, saver: Checkpoints, quiet: bool) -> pl.Trainer:
    callbacks: list[pl.Callback] = [choice.build() for choice in resolved.callbacks]
    callbacks += [RandomState(), saver]
    if resolved.stop is not None:
        callbacks.append(EarlyStopping(resolved.stop))
    if not quiet:
        callbacks.append(ProgressBar())
    loggers: list[Logger] = [choice.build(save_dir=str(directory.path)) for choice in resolved.loggers]
    return pl.Trainer(
        **resolved.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[checkpoint.AtomicCheckpointIO()],
        default_root_dir=str(directory.path),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _note_start(directory: RunDirectory, resolved: Resolved, payload: Payload, *, resumed: bool) -> None:
    if not resumed:
        header = (
            f"# {resolved.name}, resolved with every default. Train it again: toolkit train {directory.recipe.name}\n"
        )
        directory.write_recipe(resolved.document, header)
    directory.note(status="running", recipe=resolved.name, seed=resolved.seed, **payload.provenance)


def _prepare_resume(trainer: pl.Trainer, last: Path, payload: Payload) -> None:
    """Check that a checkpoint is of this recipe and data, and cut the CSV log back to it. Raises: CheckpointError."""
    found = checkpoint.read(last)
    done, wanted = int(found["epoch"]), trainer.max_epochs
    if wanted is not None and 0 < wanted < done:
        raise CheckpointError(
            f"{last} has already trained {done} epochs and trainer.max_epochs is {wanted}; "
            "give more to go on, or train a new run"
        )
    before = checkpoint.payload_of(found)
    changed = [
        key for key in before.recipe if key not in _FREE_ON_RESUME and before.recipe[key] != payload.recipe.get(key)
    ]
    if changed:
        raise CheckpointError(
            f"{last} was trained with another {changed[0]!r}: {before.recipe[changed[0]]} there, "
            f"{payload.recipe.get(changed[0])} here. --resume goes on with the same recipe; train a new run instead"
        )
    if before.spec != payload.spec:
        raise CheckpointError(f"{last} was trained on other data: its spec is {before.spec}, here it is {payload.spec}")
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.resume(int(found["global_step"]))


_FREE_ON_RESUME = {
    "name",
    "summary",
    "smoke",
    "baseline",
    "expect",
    "loggers",
    "callbacks",
    "stop",
    "checkpoint",
    "trainer",
}
"""Sections that may differ when a run goes on: they do not change what the weights mean."""


def _finish(
    trainer: pl.Trainer, task: Task, data: Data, directory: RunDirectory, saver: Checkpoints, *, test: bool
) -> dict[str, float]:
    """Load the best weights, look at test once, and write down how it went."""
    # Beside torchrun only process 0 knows the folder's number; the others have waited for it here.
    best = Path(trainer.strategy.broadcast(str(directory.checkpoints / BEST)))
    metrics = dict(saver.best_metrics)
    trainer.strategy.barrier("best checkpoint is written")
    if best.exists():
        checkpoint.load_weights(task, checkpoint.read(best)["state_dict"], best)
    if test and _has_test(data):
        trainer.test(task, datamodule=data, verbose=False)
        metrics.update({name: float(value) for name, value in trainer.callback_metrics.items()})
    if trainer.is_global_zero:
        flush(trainer.loggers)
        curves.draw(directory.path, saver.best_epoch)
        directory.note(
            status="finished",
            ended=provenance.now(),
            best_epoch=saver.best_epoch,
            epochs=trainer.current_epoch,
            metrics=metrics,
        )
    return metrics


def _has_test(data: Data) -> bool:
    return type(data).test_dataloader is not pl.LightningDataModule.test_dataloader


def resume_recipe(path: str | Path) -> Recipe:
    """Return the recipe that a run directory was started with."""
    from toolkit import yamlfile

    directory = run_directory.open_existing(path)
    document, lines = yamlfile.load_file(directory.recipe)
    return from_document(document, str(directory.recipe), lines)
