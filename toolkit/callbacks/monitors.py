"""Reading monitored metrics, for the callbacks that compare them."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl

from toolkit.errors import RecipeError, nearest
from toolkit.settings import Mode, mode_of


class Monitor:
    """One or several metrics and whether the latest values are better than the best so far.

    Values are turned so that more is better; NaN is never better.
    """

    def __init__(self, names: Sequence[str], mode: Mode, min_delta: float = 0.0) -> None:
        self.names = list(names)
        self.signs = [1.0 if mode_of(name, mode) == "max" else -1.0 for name in names]
        self.min_delta = min_delta
        self.best = [-float("inf")] * len(self.names)

    def read(self, trainer: pl.Trainer, section: str) -> list[float]:
        """Return the latest values, turned so that more is better. Raises: RecipeError if one is not logged."""
        logged = trainer.callback_metrics
        for name in self.names:
            if name not in logged:
                raise RecipeError(f"{section}.monitor: nothing logs {name!r}.{nearest(name, logged)}")
        return [sign * float(logged[name]) for sign, name in zip(self.signs, self.names, strict=True)]

    def improved(self, values: Sequence[float]) -> list[bool]:
        """Tell for each metric whether it beats its best by more than `min_delta`."""
        return [value > best + self.min_delta for value, best in zip(values, self.best, strict=True)]

    def keep(self, values: Sequence[float], better: Sequence[bool]) -> None:
        """Take over those values that are better."""
        self.best = [new if yes else old for new, old, yes in zip(values, self.best, better, strict=True)]

    def plain_best(self) -> dict[str, float]:
        """Return the best values as they were logged."""
        return {name: sign * best for name, sign, best in zip(self.names, self.signs, self.best, strict=True)}
