"""From a recipe to choices: every section bound to the signature of what it names, nothing built yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from toolkit.binding import bind, defaults, parameters
from toolkit.choice import Choice
from toolkit.errors import RecipeError, UnknownNameError
from toolkit.plugins import current_toolkit
from toolkit.recipe import Recipe
from toolkit.sections import COMPONENTS
from toolkit.settings import CheckpointSettings, CompileSettings, Expectation, StopSettings
from toolkit.yamlfile import shown

if TYPE_CHECKING:
    from toolkit.task import Optimization

PROVIDED = {
    "attention": ("heads", "dim"),
    "tasks": ("spec", "model"),
    "data": (),
    "metrics": ("spec",),
}
"""What the house itself gives to an object of each kind, so that a recipe may not."""

RESERVED_TRAINER = {
    "callbacks": "list them in the recipe's own section `callbacks`",
    "logger": "list them in the recipe's own section `loggers`",
    "plugins": "is the toolkit's own business; write a plugin instead",
    "default_root_dir": "use --out to choose the run directory",
    "enable_checkpointing": "is always on; the section `checkpoint` sets how",
    "enable_progress_bar": "use --quiet",
    "enable_model_summary": "use `toolkit check --batch`",
    "logging": "list loggers in the recipe's own section `loggers`",
    "datamodule": "is the section `data`",
}

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 100,
    "accelerator": "auto",
    "devices": 1,
    "precision": "32-true",
    "gradient_clip_val": None,
    "accumulate_grad_batches": 1,
    "log_every_n_steps": 50,
    "num_sanity_val_steps": 0,
}


SETTINGS: dict[str, Any] = {
    "stop": StopSettings,
    "checkpoint": CheckpointSettings,
    "compile": CompileSettings,
    "expect": Expectation,
}
"""Sections that are bound to a class of ours."""


@dataclass(frozen=True)
class Resolved:
    """A recipe bound to signatures: choices to build, and the whole document with full names and every default."""

    recipe: Recipe
    document: dict[str, Any]
    data: Choice
    task: Choice
    optimization: Optimization
    trainer: dict[str, Any]
    stop: StopSettings | None
    checkpoint: CheckpointSettings
    compile: CompileSettings
    expect: Expectation | None
    callbacks: list[Choice]
    loggers: list[Choice]

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def seed(self) -> int:
        return self.recipe.seed


def resolve(recipe: Recipe) -> Resolved:
    """Bind every section. Imports what it names, builds nothing. Raises: RecipeError, UnknownNameError, and so on."""
    from toolkit.task import Optimization

    document: dict[str, Any] = {
        key: recipe.document[key] for key in ("name", "summary", "seed") if recipe.document.get(key) is not None
    }
    data = _choose(recipe, "data", document)
    task = _choose_task(recipe, document)
    optimizer = _choose(recipe, "optimizer", document, provided=("params",))
    schedule, interval, monitor = _choose_schedule(recipe, document)
    settings = {
        section: _settings(recipe, section, target, document, always=section in ("checkpoint", "compile"))
        for section, target in SETTINGS.items()
    }
    trainer = _bind_trainer(recipe, document)
    callbacks = _choose_list(recipe, "callbacks", document, [])
    loggers = _choose_list(recipe, "loggers", document, [{"use": "csv"}, {"use": "tensorboard"}])
    for key in ("smoke", "baseline"):
        if recipe.document.get(key):
            document[key] = recipe.section(key)
    fitted = _without_what_was_left_out(recipe, document)
    current_toolkit().manager.hook.after_resolve(recipe=document)
    return Resolved(
        recipe=fitted,
        document=document,
        data=data,
        task=task,
        optimization=Optimization(optimizer, schedule, interval, monitor),
        trainer=trainer,
        callbacks=callbacks,
        loggers=loggers,
        **settings,
    )


def _choose(
    recipe: Recipe,
    section: str,
    document: dict[str, Any],
    *,
    provided: tuple[str, ...] = (),
    given: dict[str, Any] | None = None,
    parts: dict[str, Choice] | None = None,
    path: tuple[str | int, ...] | None = None,
    kind: str = "",
) -> Choice:
    """Bind one component section and enter its resolved form into `document`."""
    given = recipe.section(section) if given is None else given
    path = path or (section,)
    kind = kind or COMPONENTS[section]
    where = ".".join(map(str, path))
    name = given.pop("use")
    toolkit = current_toolkit()
    try:
        entry = toolkit.registry.get(kind, name)
    except UnknownNameError as error:
        message = f"{recipe.place(*path, 'use')}: {where}.use: {error}{toolkit.explain_missing(name)}"
        raise UnknownNameError(message) from None
    target = entry.load()
    swap = recipe.swaps.get(section)
    takes = parameters(target)
    if swap is not None and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        given = swap.fit(given, entry.name, takes.keys() - set(provided))
    options = bind(target, given, where=where, place=lambda key: recipe.place(*path, key), provided=provided)
    choice = Choice(kind, entry.full_name, options, parts or {})
    shown = {**defaults(target, provided), **{key: plain(value) for key, value in options.items()}}
    document[section] = {"use": entry.full_name, **shown}
    return choice


def _without_what_was_left_out(recipe: Recipe, resolved: Mapping[str, Any]) -> Recipe:
    """Return the recipe as it was understood, so that it resolves to the same anywhere."""
    fitted = {
        section: {key: value for key, value in recipe.document[section].items() if key in resolved[section]}
        for section in recipe.swaps
    }
    return replace(recipe, document={**recipe.document, **fitted}, swaps={}) if fitted else recipe


def _choose_schedule(recipe: Recipe, document: dict[str, Any]) -> tuple[Choice | None, str, str | None]:
    """Bind the schedule; `interval` and `monitor` are ours, beside the options of what it names."""
    given = recipe.section("schedule")
    if given is None:
        return None, "step", None
    interval, monitor = given.pop("interval", "step"), given.pop("monitor", None)
    if interval not in ("step", "epoch"):
        place = recipe.place("schedule", "interval")
        raise RecipeError(f"{place}: schedule.interval wants 'step' or 'epoch', given {shown(interval)}")
    schedule = _choose(recipe, "schedule", document, provided=("optimizer",), given=given)
    document["schedule"].update(interval=interval, monitor=monitor)
    return schedule, interval, monitor


def _choose_task(recipe: Recipe, document: dict[str, Any]) -> Choice:
    """Bind the task with its model, and the model with its attention."""
    task = _choose(recipe, "task", document, provided=PROVIDED["tasks"])
    gives = task.target().gives_model
    model_name = recipe.document["model"]["use"]
    try:
        model_target = current_toolkit().registry.get("models", model_name).load()
        takes = parameters(model_target)
    except UnknownNameError:
        takes = {}  # _choose below reports it with its place
    parts = {}
    attention_given = recipe.document.get("attention") is not None
    if attention_given and "attention" not in takes and takes:
        raise RecipeError(
            f"{recipe.place('attention')}: the model {model_name!r} has no attention to choose; remove the section "
            "(attention=null) or choose another model"
        )
    if attention_given and takes:
        parts["attention"] = _choose(recipe, "attention", document, provided=PROVIDED["attention"])
    elif "attention" in takes and takes["attention"].default is takes["attention"].empty:
        raise RecipeError(
            f"{recipe.origin}: the model {model_name!r} needs a section 'attention' (see `toolkit list attention`)"
        )
    absent = [name for name in gives if takes and name not in takes]
    if absent:
        raise RecipeError(
            f"{recipe.place('model')}: the task {task.name} gives its model {', '.join(gives)}, but {model_name!r} "
            f"takes no {absent[0]!r}: this model belongs to another task"
        )
    model = _choose(recipe, "model", document, provided=(*gives, "attention"), parts=parts)
    return Choice(task.kind, task.name, task.options, {"model": model})


def _settings(recipe: Recipe, section: str, target: type, document: dict[str, Any], *, always: bool = False) -> Any:
    given = recipe.section(section)
    if given is None and not always:
        return None
    if isinstance(given, bool):
        given = {"enabled": given}
    elif section == "compile" and given:
        given = {"enabled": True, **given}
    bound = bind(target, given or {}, where=section, place=lambda key: recipe.place(section, key))
    document[section] = {**defaults(target), **{key: plain(value) for key, value in bound.items()}}
    try:
        return target(**bound)
    except ValueError as error:
        raise RecipeError(f"{recipe.place(section)}: {section}: {error}") from None


def _bind_trainer(recipe: Recipe, document: dict[str, Any]) -> dict[str, Any]:
    given = {**TRAINER_DEFAULTS, **(recipe.section("trainer") or {})}
    if given.get("max_steps", -1) != -1 and "max_epochs" not in (recipe.section("trainer") or {}):
        given["max_epochs"] = -1
    if given.get("max_epochs") == 0 or given.get("max_steps") == 0:
        key = "max_epochs" if given.get("max_epochs") == 0 else "max_steps"
        raise RecipeError(f"{recipe.place('trainer', key)}: trainer.{key}=0 trains nothing; -1 means no limit")
    bound = bind(
        pl.Trainer,
        given,
        where="trainer",
        place=lambda key: recipe.place("trainer", key) if key else recipe.place("trainer"),
        reserved=RESERVED_TRAINER,
    )
    document["trainer"] = {key: plain(value) for key, value in bound.items()}
    return bound


def _choose_list(
    recipe: Recipe, section: str, document: dict[str, Any], standard: list[dict[str, Any]]
) -> list[Choice]:
    items = recipe.section(section)
    resolved: list[dict[str, Any]] = []
    choices = []
    for index, item in enumerate(standard if items is None else items):
        held: dict[str, Any] = {}
        choices.append(_choose_item(recipe, section, index, item, held))
        resolved.append(held[section])
    document[section] = resolved
    return choices


def _choose_item(recipe: Recipe, section: str, index: int, item: dict[str, Any], document: dict[str, Any]) -> Choice:
    provided = ("save_dir",) if section == "loggers" else ()
    path = (section, index)
    return _choose(recipe, section, document, given=dict(item), path=path, kind=section, provided=provided)


def plain(value: Any) -> Any:
    """Return a bound value as the plain one that a recipe would hold."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
