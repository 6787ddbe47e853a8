"""The sections of a recipe's document: which there are, and the outer type of each.

What the keys inside a section may be is the business of the thing it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from toolkit.errors import RecipeError, nearest
from toolkit.yamlfile import shown

Place = Callable[..., str]
"""Tells where the key of a path came from: file and line, or an override."""

COMPONENTS = {
    "data": "data",
    "task": "tasks",
    "model": "models",
    "attention": "attention",
    "optimizer": "optimizers",
    "schedule": "schedules",
}
"""Sections that name one registered thing with `use`, and the kind they take it from."""

LISTS = {"callbacks": "callbacks", "loggers": "loggers"}
"""Sections that list registered things."""

SETTINGS = ("trainer", "stop", "checkpoint", "compile", "expect")
"""Sections that are bound to a signature of ours or Lightning's."""

OVERLAYS = {"smoke": "what --smoke changes", "baseline": "what `toolkit verify` changes for the baseline"}
"""Sections that hold changes to the rest of the recipe."""

SCALARS: dict[str, type] = {"name": str, "summary": str, "seed": int}
SECTIONS = (*SCALARS, *COMPONENTS, *LISTS, *SETTINGS, *OVERLAYS)
REQUIRED = ("name", "data", "task", "model", "optimizer")


def component(value: Any) -> Any:
    """Return a section that names one thing in its long form: `gat` is `{use: gat}`."""
    return {"use": value} if isinstance(value, str) else value


def is_component(value: Any) -> bool:
    """Tell whether a section names one thing, in its long form."""
    return isinstance(value, dict) and isinstance(value.get("use"), str)


def normalize(document: dict[str, Any]) -> None:
    """Write each section of a document in its long form, and the seed that a recipe has without a word."""
    if document.get("seed") is None:
        document["seed"] = 0
    for key in COMPONENTS:
        document[key] = component(document.get(key))
        if document[key] is None:
            del document[key]
    for key in LISTS:
        if isinstance(document.get(key), list):
            document[key] = [component(item) for item in document[key]]


def mistakes(document: Mapping[str, Any], origin: str, place: Place) -> list[RecipeError]:
    """Return every section of a normalized document that is unknown, missing or of the wrong outer type."""
    found = unknown(document, place)
    strangers = [key for key in document if key not in SECTIONS]
    for key in REQUIRED:
        meant = get_close_matches(key, strangers, n=1)  # told already, with this name as the nearest
        if document.get(key) is None and not meant:
            more = f" (`toolkit list {COMPONENTS[key]}` has what it may name)" if key in COMPONENTS else ""
            found.append(RecipeError(f"{origin}: no section {key!r}; a recipe needs {', '.join(REQUIRED)}{more}"))
    for key, wanted in SCALARS.items():
        value = document.get(key)
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            word = {str: "text", int: "a whole number"}[wanted]
            found.append(RecipeError(f"{place(key)}: {key} wants {word}, given {shown(value)}"))
    seed = document.get("seed")
    if type(seed) is int and not 0 <= seed < 2**32:
        found.append(RecipeError(f"{place('seed')}: seed wants a whole number from 0 to {2**32 - 1}, given {seed}"))
    for key in COMPONENTS:
        if key in document and not is_component(document[key]):
            found.append(_no_component(document[key], key, place(key, "use")))
    for key in LISTS:
        items = document.get(key)
        if items is not None and not isinstance(items, list):
            found.append(RecipeError(f"{place(key)}: {key} wants a list, given {shown(items)}"))
            continue
        for index, item in enumerate(items or ()):
            if not is_component(item):
                found.append(_no_component(item, f"{key}.{index}", place(key, index, "use")))
    for key in (*SETTINGS, *OVERLAYS):
        value = document.get(key)
        if value is not None and not isinstance(value, dict) and not (key == "compile" and isinstance(value, bool)):
            found.append(RecipeError(f"{place(key)}: {key} wants keys and values, given {shown(value)}"))
        elif key in OVERLAYS and isinstance(value, dict):
            found += _strange_changes(value, key, place)
    return found


def unknown(document: Mapping[str, Any], place: Place) -> list[RecipeError]:
    """Return a mistake for each section that does not exist, with the nearest that does."""
    return [
        RecipeError(f"{place(key)}: unknown section {key!r}.{nearest(key, SECTIONS)}")
        for key in document
        if key not in SECTIONS
    ]


def _strange_changes(changes: Mapping[str, Any], overlay: str, place: Place) -> list[RecipeError]:
    known = [name for name in SECTIONS if name not in OVERLAYS]
    return [
        RecipeError(f"{place(overlay, key)}: unknown section {key!r} in {overlay}.{nearest(key, known)}")
        for key in changes
        if key not in known
    ]


def _no_component(value: Any, key: str, place: str) -> RecipeError:
    return RecipeError(f"{place}: {key} wants a name, or keys with `use: NAME` among them, given {shown(value)}")
