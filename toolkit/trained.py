"""Using a trained run: evaluate it and predict with it, from its checkpoint and any data of the same spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from toolkit import checkpoint
from toolkit.assemble import build_data
from toolkit.batches import Batch
from toolkit.checkpoint import Restored
from toolkit.data import Data
from toolkit.decoding.sampling import Sampling
from toolkit.errors import RunError
from toolkit.loading import HeldLoader
from toolkit.recipe import from_document
from toolkit.resolve import resolve
from toolkit.run_directory import RunDirectory
from toolkit.surroundings import quiet_libraries
from toolkit.task import Row, Task
from toolkit.yamlfile import shown

ANYWHERE = ("32-true", "64-true", "bf16-mixed", "bf16-true")
"""Precisions that every device has; a run of another one is read in single precision."""


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
    data = build_data(resolve(recipe), restored.payload.spec)
    for key in restored.task.reads_spec:
        own, other = restored.payload.spec[key], data.spec.get(key)
        if own != other:
            raise RunError(
                f"{restored.path} was trained on data whose {key!r} is {shown(own)}, this data has {shown(other)}"
            )
    return restored, data


def evaluate(path: str | Path, overrides: list[str], *, split: str = "test") -> Evaluation:
    """Measure a run on its test (or validation) data."""
    with quiet_libraries():
        restored, data = open_run(path, overrides)
        trainer = _plain_trainer(restored)
        look = trainer.test if split == "test" else trainer.validate
        look(restored.task, datamodule=data, verbose=False)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    state = RunDirectory(restored.path.parent.parent).state()
    return Evaluation(metrics, restored.path, restored.epoch, str(state.get("status", "")))


def predict(path: str | Path, overrides: list[str]) -> Iterator[Row]:
    """Yield one row for each item of a run's data, in the data's order: its prediction, never its target."""
    with quiet_libraries():
        restored, data = open_run(path, overrides)
        batches = _plain_trainer(restored).predict(restored.task, datamodule=data)
    rows = [row for batch in batches or [] for row in batch]
    yield from _in_order(rows, restored.task)


class TakesText(Protocol):
    """What a task offers that predicts from texts which are in no data module: new ones, typed or from a file."""

    def batches_of(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Yield batches of texts; the number of an item is its place among them."""

    def read_texts(self, path: Path, columns: Sequence[str], encoding: str) -> Iterator[tuple[list[int], list[str]]]:
        """Yield texts of a file, some at a time, and the number of the row of each.

        No columns, or no encoding, are those of the task's own data.
        """


def predict_texts(path: str | Path, texts: Sequence[str]) -> list[Row]:
    """Return one row for each text, in order, from a run whose task reads text. Raises: RunError for another task."""
    return _predicted(_reader(path), texts)


def predict_file(path: str | Path, file: str | Path, columns: Sequence[str] = (), encoding: str = "") -> Iterator[Row]:
    """Yield one row for each text of a file, with the number that it has there; the file is read part by part.

    columns: those with the text; encoding: that of the file; those of the run's data by default.
    Raises: RunError, DataError.
    """
    restored = _reader(path)
    task = restored.task
    for numbers, texts in cast(TakesText, task).read_texts(Path(file), columns, encoding):
        if texts:
            for row, number in zip(_predicted(restored, texts), numbers, strict=True):
                yield {**row, str(task.item_column): number}


class Written(NamedTuple):
    """What a step added to a text: whole characters, and how many tokens were written, 0 for a text that has ended."""

    text: str
    tokens: int


class WritesText(Protocol):
    """What a task offers that goes on writing from the beginning of a text."""

    def write(self, prompt: str, *, num: int, tokens: int | None, sampling: Sampling) -> Iterator[list[Written]]:
        """Yield what each step adds to each of `num` texts, without their prompt.

        tokens: how many each text gets at most; None is what the task finds fit.
        """


def write(
    path: str | Path, prompt: str, *, num: int = 1, tokens: int | None = None, sampling: Sampling
) -> Iterator[list[Written]]:
    """Yield what each step adds to each of `num` texts that a run writes; on a GPU where there is one.

    Raises: RunError for a run whose task does not write.
    """
    restored = checkpoint.restore(path)
    if not hasattr(restored.task, "write"):
        raise RunError(
            f"{restored.path}: its task {restored.payload.recipe['task']['use']} does not write text; runs of "
            "text:language_modelling do, such as those of the recipe lm_python"
        )
    if torch.cuda.is_available():
        restored.task.to("cuda")
    yield from cast(WritesText, restored.task).write(prompt, num=num, tokens=tokens, sampling=sampling)


def _predicted(restored: Restored, texts: Sequence[str]) -> list[Row]:
    task = restored.task
    batches = list(cast(TakesText, task).batches_of(texts))
    with quiet_libraries():
        found = _plain_trainer(restored).predict(task, dataloaders=HeldLoader(batches))
    return _in_order([row for batch in found or [] for row in batch], task)


def _in_order(rows: list[Row], task: Task) -> list[Row]:
    number = task.item_column
    return rows if number is None else sorted(rows, key=lambda row: row[number])  # batches may be sorted by length


class Alignment(NamedTuple):
    """What a translation was made from. Shapes: weights (target tokens, source tokens). text: the translation."""

    source: list[str]
    target: list[str]
    weights: Tensor
    text: str


class Aligns(Protocol):
    """What a task offers whose model attends to one text while it writes another."""

    def align(self, text: str, *, layer: int | None = None, head: int | None = None) -> Alignment:
        """Write, and return how much of each token that was read every written one was made from."""


def align(path: str | Path, text: str, *, layer: int | None = None, head: int | None = None) -> Alignment:
    """Return what a run writes for a text, and what from. Raises: RunError for a task that aligns nothing."""
    restored = checkpoint.restore(path)
    if not hasattr(restored.task, "align"):
        raise RunError(
            f"{restored.path}: its task {restored.payload.recipe['task']['use']} aligns no texts; text:translation does"
        )
    with torch.no_grad():
        return cast(Aligns, restored.task).align(text, layer=layer, head=head)


def _reader(path: str | Path) -> Restored:
    restored = checkpoint.restore(path)
    if not hasattr(restored.task, "batches_of"):
        raise RunError(
            f"{restored.path}: its task {restored.payload.recipe['task']['use']} reads no text; `toolkit predict RUN` "
            "predicts the items of its data"
        )
    return restored


def _plain_trainer(restored: Restored) -> pl.Trainer:
    """Return a trainer that looks with the precision of the run, so that it sees what training saw."""
    precision = restored.payload.recipe.get("trainer", {}).get("precision")
    return pl.Trainer(
        precision=precision if precision in ANYWHERE else None,
        logger=False,
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=True,
    )
