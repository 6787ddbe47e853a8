"""All mistakes of a recipe, where resolving it stops at the first section that has some."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

from toolkit import resolve
from toolkit.binding import parameters
from toolkit.errors import RecipeMistakesError, ToolkitError
from toolkit.plugins import current_toolkit
from toolkit.recipe import Recipe
from toolkit.sections import COMPONENTS, LISTS, SECTIONS, is_component


def problems(recipe: Recipe) -> list[ToolkitError]:
    """Return every mistake of a recipe, those that were gathered when it was loaded first; none if it resolves."""
    found: list[ToolkitError] = list(recipe.mistakes or ())
    document = recipe.document
    alone: dict[str, Callable[[], Any]] = {
        "data": partial(resolve._choose, recipe, "data", {}),
        "task": partial(resolve._choose, recipe, "task", {}, provided=resolve.PROVIDED["tasks"]),
        "model": partial(_choose_model, recipe),
        "attention": partial(resolve._choose, recipe, "attention", {}, provided=resolve.PROVIDED["attention"]),
        "optimizer": partial(resolve._choose, recipe, "optimizer", {}, provided=("params",)),
        "schedule": partial(resolve._choose_schedule, recipe, {}),
    }
    mistakes = {section: _mistakes(alone[section]) for section in COMPONENTS if is_component(document.get(section))}
    for told in mistakes.values():
        found += told
    if _is_whole(recipe) and not any(mistakes.get(section) for section in ("task", "model", "attention")):
        found += _mistakes(partial(resolve._choose_task, recipe, {}))  # whether the three fit together
    for section, target in resolve.SETTINGS.items():
        if isinstance(document.get(section), dict | bool):
            found += _mistakes(partial(resolve._settings, recipe, section, target, {}))
    if isinstance(document.get("trainer"), dict):
        found += _mistakes(partial(resolve._bind_trainer, recipe, {}))
    for section in LISTS:
        items = document.get(section)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if is_component(item):
                found += _mistakes(partial(resolve._choose_item, recipe, section, index, item, {}))
    return found


def _mistakes(step: Callable[[], Any]) -> list[ToolkitError]:
    try:
        step()
    except RecipeMistakesError as error:
        return list(error.errors)
    except ToolkitError as error:
        return [error]
    return []


def _is_whole(recipe: Recipe) -> bool:
    """Tell whether task, model and attention are there as their author meant them, so that they can be put together."""
    attention = recipe.document.get("attention")
    misspelt = get_close_matches("attention", [key for key in recipe.document if key not in SECTIONS])
    given = (recipe.document.get("task"), recipe.document.get("model"))
    return all(map(is_component, given)) and (not misspelt if attention is None else is_component(attention))


def _choose_model(recipe: Recipe) -> None:
    """Bind the model by itself; where its task is unknown, what it needs and is not given is taken to be the task's."""
    registry = current_toolkit().registry
    try:
        gives = registry.get("tasks", recipe.document["task"]["use"]).load().gives_model
    except (ToolkitError, KeyError, TypeError, AttributeError):
        try:
            takes = parameters(registry.get("models", recipe.document["model"]["use"]).load())
        except ToolkitError:
            takes = {}  # binding tells it, with its place
        needs = (name for name, parameter in takes.items() if parameter.default is parameter.empty)
        gives = tuple(name for name in needs if name not in recipe.document["model"])
    resolve._choose(recipe, "model", {}, provided=(*gives, "attention"))
