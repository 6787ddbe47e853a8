"""Going on with a run: whether there is anything left to train, and whether its last checkpoint fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from toolkit import checkpoint, run_directory, yamlfile
from toolkit.callbacks.checkpoints import LOG_ROWS
from toolkit.checkpoint import Payload
from toolkit.errors import CheckpointError
from toolkit.loggers import CSVLogger
from toolkit.recipe import Recipe, from_document
from toolkit.run_directory import RunDirectory

FREE = {
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


def recipe_of(path: str | Path) -> Recipe:
    """Return the recipe that a run directory was last trained with."""
    directory = run_directory.open_existing(path)
    document, lines = yamlfile.load_file(directory.recipe)
    return from_document(document, str(directory.recipe), lines)


def has_recipe(directory: RunDirectory, document: dict[str, Any]) -> bool:
    """Tell whether a resolved recipe is the one that a run directory was last trained with."""
    return bool(yamlfile.load_file(directory.recipe)[0] == document)


def is_finished(directory: RunDirectory) -> bool:
    """Tell whether a run got to its end, with the recipe it was last trained with."""
    return bool(directory.state().get("status") == "finished")


def prepare(trainer: pl.Trainer, last: Path, payload: Payload) -> int:
    """Check that a checkpoint is of this recipe and data, cut the CSV log back to it, and return its step.

    Raises: CheckpointError.
    """
    found = checkpoint.read(last)
    done, wanted = int(found["epoch"]), trainer.max_epochs
    if wanted is not None and 0 < wanted < done:
        raise CheckpointError(
            f"{last} has already trained {done} epochs and trainer.max_epochs is {wanted}; "
            "give more to go on, or train a new run"
        )
    before = checkpoint.payload_of(found)
    changed = [key for key in before.recipe if key not in FREE and before.recipe[key] != payload.recipe.get(key)]
    if changed:
        raise CheckpointError(
            f"{last} was trained with another {changed[0]!r}: {before.recipe[changed[0]]} there, "
            f"{payload.recipe.get(changed[0])} here. --resume goes on with the same recipe; train a new run instead"
        )
    if before.spec != payload.spec:
        raise CheckpointError(f"{last} was trained on other data: its spec is {before.spec}, here it is {payload.spec}")
    step = int(found["global_step"])
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.resume(step)
            if LOG_ROWS in found:  # the file could not be written when the checkpoint was
                logger.rows = [row for row in found[LOG_ROWS] if row["step"] < step]
    return step
