"""Using a trained run: evaluate it and predict with it, from its checkpoint and any data of the same spec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl

from toolkit import checkpoint
from toolkit.assemble import build_data
from toolkit.checkpoint import Restored
from toolkit.data import Data
from toolkit.errors import RunError
from toolkit.recipe import from_document
from toolkit.resolve import resolve
from toolkit.run_directory import RunDirectory
from toolkit.surroundings import quiet_libraries
from toolkit.task import Row


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a run, and the checkpoint and epoch whose weights they are of.

    status: what the run directory says of its run (running, interrupted, failed, finished); empty where there is none.
    """

    metrics: dict[str, float]
    checkpoint: Path
    epoch: int
    status: str


def open_run(path: str | Path, overrides: list[str]) -> tuple[Restored, Data]:
    """Restore a run and build its data, or other data of the same spec given by `data.*` overrides.

    Raises: RunError if an override touches more than data, or the data does not fit the model.
    """
    foreign = [override for override in overrides if override.partition("=")[0].partition(".")[0] != "data"]
    if foreign:
        raise RunError(f"override {foreign[0]!r}: a trained run can only be given other data.* keys")
    restored = checkpoint.restore(path)
    recipe = from_document(restored.payload.recipe, f"the recipe inside {restored.path}").with_overrides(overrides)
    pl.seed_everything(recipe.seed, workers=True, verbose=False)  # as in training: data may be split by it
    data = build_data(resolve(recipe))
    for key in restored.task.reads_spec:
        if data.spec.get(key) != restored.payload.spec[key]:
            raise RunError(
                f"{restored.path} was trained on data whose {key!r} is {restored.payload.spec[key]}, "
                f"this data has {data.spec.get(key)}"
            )
    return restored, data


def evaluate(path: str | Path, overrides: list[str], *, split: str = "test") -> Evaluation:
    """Measure a run on its test (or validation) data."""
    with quiet_libraries():
        restored, data = open_run(path, overrides)
        trainer = _plain_trainer()
        look = trainer.test if split == "test" else trainer.validate
        look(restored.task, datamodule=data, verbose=False)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    state = RunDirectory(restored.path.parent.parent).state()
    return Evaluation(metrics, restored.path, restored.epoch, str(state.get("status", "")))


def predict(path: str | Path, overrides: list[str]) -> Iterator[Row]:
    """Yield one row for each item of a run's data: its prediction, never its target."""
    with quiet_libraries():
        restored, data = open_run(path, overrides)
        batches = _plain_trainer().predict(restored.task, datamodule=data)
    for batch in batches or []:
        yield from batch


def _plain_trainer() -> pl.Trainer:
    return pl.Trainer(
        logger=False,
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=True,
    )
