"""Training: the walk from a recipe to a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from toolkit import checkpoint, curves, provenance, resuming, run_directory
from toolkit.assemble import build_data, build_for_training
from toolkit.binding import parameters
from toolkit.callbacks.checkpoints import Checkpoints, StopRequestedError
from toolkit.callbacks.progress import ProgressBar
from toolkit.callbacks.random_state import RandomState
from toolkit.callbacks.stopping import EarlyStopping
from toolkit.checkpoint import BEST, Payload
from toolkit.data import Data
from toolkit.errors import RunError, ToolkitError
from toolkit.files import DiskError
from toolkit.loggers import flush
from toolkit.plugins import current_toolkit, versions_of_plugins
from toolkit.recipe import Recipe
from toolkit.resolve import Resolved, resolve
from toolkit.run_directory import DIRECTORY_VARIABLE, RunDirectory
from toolkit.surroundings import process_rank, quiet_libraries, refuse_crowd, stop_on_signal
from toolkit.task import Task
from toolkit.thin_loop import thin


@dataclass(frozen=True)
class RunResult:
    """What a training run left: its folder, the metrics of its best epoch and of the test, and whether it finished.

    trained: False for a finished run that was resumed and had nothing left to train.
    """

    directory: Path
    metrics: dict[str, float]
    best_epoch: int
    finished: bool
    trained: bool = True


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
    if resume is not None:
        earlier = _finished_before(resolved, run_directory.open_existing(resume), test=test)
        if earlier is not None:
            return earlier
    with _held(resolved, out, resume) as directory, quiet_libraries():
        pl.seed_everything(resolved.seed, workers=True, verbose=False)
        data = build_data(resolved)
        task = build_for_training(resolved, data)
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
        try:
            trainer = _trainer(resolved, directory, saver, quiet)
        except MisconfigurationException as error:
            raise _told(error, directory) from error
        last = directory.last if resume is not None else None
        step = -1 if last is None else resuming.prepare(trainer, last, payload)
        was_finished = resume is not None and resuming.is_finished(directory)
        if trainer.is_global_zero:
            _note_start(directory, resolved, payload, resumed=resume is not None)
        try:
            with stop_on_signal() as saver.stop_requested:
                trainer.fit(task, datamodule=data, ckpt_path=last)
                trained = not was_finished or trainer.global_step > step
                metrics = _finish(trainer, task, data, directory, saver, test=test)
        except BaseException as error:
            first = saver.failure or error
            if isinstance(first, (StopRequestedError, SIGTERMException)):
                return _interrupted(trainer, directory, saver)
            told = _told(first, directory)
            if trainer.is_global_zero:
                _note_failure(directory, told)
            if told is error:
                raise
            raise told from (first.__cause__ if told is first else first)
        if trainer.is_global_zero:
            current_toolkit().manager.hook.after_run(
                recipe=resolved.document, run_directory=directory.path, metrics=dict(metrics)
            )
    return RunResult(directory.path, metrics, saver.best_epoch, finished=True, trained=trained)


def _finished_before(resolved: Resolved, directory: RunDirectory, *, test: bool) -> RunResult | None:
    """Return the result of a run that is finished and has nothing left to do; None if this recipe may train it on."""
    state = directory.state()
    metrics = state.get("metrics", {})
    tested = not test or any(name.startswith("test/") for name in metrics)
    if resuming.is_finished(directory) and tested and resuming.has_recipe(directory, resolved.document):
        return RunResult(directory.path, metrics, int(state["best_epoch"]), finished=True, trained=False)
    return None


@contextmanager
def _held(resolved: Resolved, out: str | Path | None, resume: str | Path | None) -> Iterator[RunDirectory]:
    """Yield the run's folder. Process 0 alone makes, holds and writes it; it tells its name to those it launches."""
    if process_rank() != 0:
        launched = run_directory.launched()
        if launched is not None:
            yield launched
        elif resume is not None:
            yield run_directory.open_existing(resume)
        else:  # started by torchrun or SLURM beside process 0
            yield RunDirectory(Path(out) if out is not None else Path("runs") / resolved.name)
    elif resume is not None:
        directory = run_directory.open_existing(resume)
        with run_directory.held(directory):
            os.environ[DIRECTORY_VARIABLE] = str(directory.path.resolve())
            yield directory
    else:
        with run_directory.new(resolved.name, out) as directory:
            os.environ[DIRECTORY_VARIABLE] = str(directory.path.resolve())
            yield directory


def _trainer(resolved: Resolved, directory: RunDirectory, saver: Checkpoints, quiet: bool) -> pl.Trainer:
    callbacks: list[pl.Callback] = [choice.build() for choice in resolved.callbacks]
    callbacks += [RandomState(), saver]
    if resolved.stop is not None:
        callbacks.append(EarlyStopping(resolved.stop))
    if not quiet:
        callbacks.append(ProgressBar())
    place = {"save_dir": str(directory.path)}
    loggers: list[Logger] = [
        choice.build(**(place if "save_dir" in parameters(choice.target()) else {})) for choice in resolved.loggers
    ]
    trainer = pl.Trainer(
        **resolved.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[checkpoint.AtomicCheckpointIO()],
        default_root_dir=str(directory.path),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    refuse_crowd(trainer)
    return thin(trainer)


def _note_start(directory: RunDirectory, resolved: Resolved, payload: Payload, *, resumed: bool) -> None:
    if not resumed or not resuming.has_recipe(directory, resolved.document):
        header = (
            f"# {resolved.name}, resolved with every default. Train it again: toolkit train {directory.recipe.name}\n"
        )
        directory.write_recipe(resolved.document, header)
    earlier = dict.fromkeys(("ended", "error", "best_epoch", "epochs", "metrics"))  # what the part before ended with
    directory.note(**earlier, status="running", recipe=resolved.name, seed=resolved.seed, **payload.provenance)


def _interrupted(trainer: pl.Trainer, directory: RunDirectory, saver: Checkpoints) -> RunResult:
    if trainer.is_global_zero:
        directory.note(status="interrupted", ended=provenance.now())
        curves.draw(directory.path, saver.best_epoch)
    return RunResult(directory.path, saver.best_metrics, saver.best_epoch, finished=False)


def _note_failure(directory: RunDirectory, error: BaseException) -> None:
    """Write down how a run ended, if that can be written; the error itself is told in any case."""
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    with suppress(ToolkitError, OSError):
        directory.note(status=status, ended=provenance.now(), error=f"{type(error).__name__}: {error}")


def _told(error: BaseException, directory: RunDirectory) -> BaseException:
    """Return the error as the user is told of it."""
    if isinstance(error, MisconfigurationException):
        return RunError(f"Lightning refuses this run: {str(error).strip()}")
    if isinstance(error, DiskError) and run_directory.is_in(directory, error.folder):
        return RunError(f"{error} Then go on: {directory.resume}")
    return error


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
