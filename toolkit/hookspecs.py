"""The hooks a plugin may implement; `docs/plugins.md` is generated from these signatures and docstrings.

A plugin is a module (or object) named by an entry point of the group `toolkit`. It marks its functions with
`hookimpl = pluggy.HookimplMarker("toolkit")`. Register hooks are called once, when the toolkit loads, and must not
import anything heavy: they hand over addresses (`"module:attribute"`), which are imported when first used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pluggy

hookspec = pluggy.HookspecMarker("toolkit")
hookimpl = pluggy.HookimplMarker("toolkit")


class Register(Protocol):
    """What a register hook calls once for each thing it brings."""

    def __call__(self, name: str, target: str, *, summary: str, source: str = "", extra: str = "") -> None:
        """Register `target` ("module:attribute") under `name`; the full name becomes "plugin:name"."""


@hookspec
def register_attention(register: Register) -> None:
    """Attention mechanisms: subclasses of `toolkit.attention.Mechanism`."""


@hookspec
def register_tasks(register: Register) -> None:
    """Tasks: subclasses of `toolkit.task.Task`."""


@hookspec
def register_data(register: Register) -> None:
    """Data modules: subclasses of `toolkit.data.Data`."""


@hookspec
def register_models(register: Register) -> None:
    """Models: plain `torch.nn.Module`s that a task trains; their keyword arguments are the recipe's `model` section."""


@hookspec
def register_metrics(register: Register) -> None:
    """Metrics: `torchmetrics.Metric`s, or functions that make one from the data's spec."""


@hookspec
def register_optimizers(register: Register) -> None:
    """Optimizers: called with the parameters first and the keys of the recipe's `optimizer` section."""


@hookspec
def register_schedules(register: Register) -> None:
    """Learning-rate schedules: called with the optimizer first and the keys of the recipe's `schedule` section."""


@hookspec
def register_callbacks(register: Register) -> None:
    """Lightning callbacks that a recipe may list under `callbacks`."""


@hookspec
def register_loggers(register: Register) -> None:
    """Lightning loggers that a recipe may list under `loggers`; a `save_dir` argument gets the run directory."""


@hookspec
def register_recipes(register: Register) -> None:
    """Recipes: the target is "package:file.yaml", a file inside an importable package."""


@hookspec
def register_commands(register: Register) -> None:
    """Commands: click commands that become `toolkit NAME`."""


@hookspec
def after_resolve(recipe: dict[str, Any]) -> None:
    """Called with each resolved recipe before anything is built from it. Raise a ToolkitError to refuse it."""


@hookspec
def after_run(recipe: dict[str, Any], run_directory: Path, metrics: dict[str, float]) -> None:
    """Called when a training run has finished, with its final metrics."""


REGISTER_HOOKS = {
    "register_attention": "attention",
    "register_tasks": "tasks",
    "register_data": "data",
    "register_models": "models",
    "register_metrics": "metrics",
    "register_optimizers": "optimizers",
    "register_schedules": "schedules",
    "register_callbacks": "callbacks",
    "register_loggers": "loggers",
    "register_recipes": "recipes",
    "register_commands": "commands",
}
