"""Reading monitored metrics, for the callbacks that compare them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from types import CodeType
from typing import Any

import pytorch_lightning as pl

from toolkit.errors import RecipeError, nearest
from toolkit.settings import Mode, mode_of
from toolkit.task import Task

WAYS_TO_LOG = {"log", "log_dict", "report", "callback_metrics"}
"""What code mentions that gives values to the callbacks."""


class Monitor:
    """One or several metrics with their best values so far, all turned so that more is better."""

    def __init__(self, names: Sequence[str], mode: Mode) -> None:
        self.names = list(names)
        self.signs = [1.0 if mode_of(name, mode) == "max" else -1.0 for name in names]
        self.best = [-float("inf")] * len(self.names)

    def state_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "signs": list(self.signs), "best": list(self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Go on from the best so far and return True, unless the resumed run compares by something else now."""
        same = (state["names"], state["signs"]) == (self.names, self.signs)
        if same:
            self.best = list(state["best"])
        return bool(same)

    def check(self, trainer: pl.Trainer, task: pl.LightningModule, section: str) -> None:
        """Refuse, before anything is trained, a name that surely nothing will log. Raises: RecipeError.

        A task knows what it reports by itself, but one that somebody wrote, or a callback, may log any name while it
        trains. So nothing is refused where their code mentions a way to log; `read` finds those mistakes later on.
        """
        parts: list[pl.LightningModule | pl.Callback] = [task, *trainer.callbacks]  # type: ignore[attr-defined]
        if not isinstance(task, Task) or any(map(_may_log, parts)):
            return
        self._demand({"val/loss", *(f"val/{name}" for name in task._metrics["val"])}, section)

    def read(self, trainer: pl.Trainer, section: str) -> list[float]:
        """Return the latest values, turned so that more is better. Raises: RecipeError if one is not logged."""
        logged = trainer.callback_metrics
        self._demand(logged, section)
        return [sign * float(logged[name]) for sign, name in zip(self.signs, self.names, strict=True)]

    def _demand(self, known: Iterable[str], section: str) -> None:
        for name in self.names:
            if name == "train/loss" and name not in known:
                raise RecipeError(
                    f"{section}.monitor: 'train/loss' of an epoch is known only after its validation, which is when "
                    f"monitors are compared.{nearest('val/loss', known)}"
                )
            if name not in known:
                raise RecipeError(f"{section}.monitor: nothing logs {name!r}.{nearest(name, known)}")


def _may_log(part: pl.LightningModule | pl.Callback) -> bool:
    ours = {*Task.__mro__, *pl.Callback.__mro__}
    theirs = [kind for kind in type(part).__mro__ if kind not in ours and not kind.__module__.startswith("toolkit.")]
    return any(_mentions(code) for kind in theirs for code in _codes(kind))


def _codes(kind: type) -> Iterable[CodeType]:
    for value in vars(kind).values():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if callable(function):
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is not None:
                yield code


def _mentions(code: CodeType) -> bool:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return not WAYS_TO_LOG.isdisjoint(code.co_names) or any(map(_mentions, inner))
