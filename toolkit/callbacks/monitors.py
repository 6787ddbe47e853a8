"""Reading monitored metrics, for the callbacks that compare them."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl

from toolkit.errors import RecipeError, nearest
from toolkit.settings import Mode, mode_of


class Monitor:
    """One or several metrics with their best values so far, all turned so that more is better."""

    def __init__(self, names: Sequence[str], mode: Mode) -> None:
        self.names = list(names)
        self.signs = [1.0 if mode_of(name, mode) == "max" else -1.0 for name in names]
        self.best = [-float("inf")] * len(self.names)

    def read(self, trainer: pl.Trainer, section: str) -> list[float]:
        """Return the latest values, turned so that more is better. Raises: RecipeError if one is not logged."""
        logged = trainer.callback_metrics
        for name in self.names:
            if name not in logged:
                raise RecipeError(f"{section}.monitor: nothing logs {name!r}.{nearest(name, logged)}")
        return [sign * float(logged[name]) for sign, name in zip(self.signs, self.names, strict=True)]
