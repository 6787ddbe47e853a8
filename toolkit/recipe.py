"""A recipe: one YAML document, with overrides merged, every section and key of ours known; no torch is imported.

What a section's own keys may be is the business of the thing it names (`binding.py`, `resolve.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from toolkit import yamlfile
from toolkit.errors import RecipeError, UnknownNameError, nearest
from toolkit.plugins import Toolkit

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
REQUIRED = ("name", "data", "task", "optimizer")


@dataclass(frozen=True)
class Recipe:
    """A recipe document and where each part of it came from.

    `document` holds plain values only; `places` maps a key path to the place that gave it, for messages.
    """

    document: dict[str, Any]
    origin: str
    places: Mapping[tuple[str | int, ...], str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def seed(self) -> int:
        return int(self.document["seed"])

    def place(self, *path: str | int) -> str:
        """Return where a key came from: "file:line", an override, or the recipe as a whole."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.origin

    def section(self, name: str) -> Any:
        """Return a copy of a section; None if the recipe does not have it."""
        return copy.deepcopy(self.document.get(name))

    def changed(self, changes: Mapping[str, Any], place: str) -> Recipe:
        """Return this recipe with nested changes merged in.

        None removes a key; a component whose `use` changes is replaced whole, since its keys belong to what it names.
        """
        document = copy.deepcopy(self.document)
        places = dict(self.places)
        _check_sections(changes, place, lambda *_: place)
        _merge(document, changes, (), place, places)
        return _checked(Recipe(document, self.origin, places))

    def with_overrides(self, overrides: Iterable[str]) -> Recipe:
        """Return this recipe with `section.key=value` overrides applied in order.

        `attention=gat` is short for `attention.use=gat`; `attention=null` removes the section.
        Raises: RecipeError naming the override, and the nearest section when it names none.
        """
        recipe = self
        for override in overrides:
            recipe = recipe._overridden(override)
        return _checked(recipe)

    def _overridden(self, override: str) -> Recipe:
        place = f"override {override!r}"
        key, equals, text = override.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            raise RecipeError(f"{place}: write it as section.key=value, for example trainer.max_epochs=10")
        if path[0] not in SECTIONS:
            raise RecipeError(f"{place}: unknown section {path[0]!r}.{nearest(path[0], SECTIONS)}")
        value = yamlfile.parse_value(text, place)
        if len(path) == 1 and path[0] in COMPONENTS and isinstance(value, str):
            path, value = (*path, "use"), value
        document, places = copy.deepcopy(self.document), dict(self.places)
        target: Any = document
        for depth, part in enumerate(path[:-1]):
            target = _descend(target, part, path[: depth + 1], place)
        _assign(target, path[-1], value, place)
        for known in [known for known in places if tuple(map(str, known[: len(path)])) == path]:
            del places[known]
        places[path] = place
        return replace(self, document=document, places=places)

    def text(self) -> str:
        """Return the document as YAML."""
        return yamlfile.dump(self.document)


def _descend(target: Any, part: str, path: tuple[str, ...], place: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, part, place)]
    if target.get(part) is None or isinstance(target[part], bool):
        target[part] = {}
    if not isinstance(target[part], dict | list):
        raise RecipeError(f"{place}: {'.'.join(path)} is {yamlfile.shown(target[part])}, which has no keys")
    return target[part]


def _assign(target: Any, part: str, value: Any, place: str) -> None:
    if isinstance(target, list):
        target[_index(target, part, place)] = value
    else:
        target[part] = value


def _index(target: list[Any], part: str, place: str) -> int:
    if not part.isdigit() or int(part) >= len(target):
        raise RecipeError(f"{place}: {part!r} is no place in a list of {len(target)}; count from 0")
    return int(part)


def _merge(
    target: dict[str, Any],
    changes: Mapping[str, Any],
    path: tuple[str, ...],
    place: str,
    places: dict[tuple[str | int, ...], str],
) -> None:
    for key, value in changes.items():
        here = (*path, key)
        for known in [known for known in places if known[: len(here)] == here and not isinstance(value, dict)]:
            del places[known]
        places[here] = place
        if value is None:
            target.pop(key, None)
            continue
        old = target.get(key)
        if not path and key in COMPONENTS:
            old, value = _component(old), _component(value)
            if old is not None and "use" in value and value["use"] != old.get("use"):
                old = None
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value, here, place, places)
            target[key] = old
        else:
            target[key] = copy.deepcopy(value)


def _component(value: Any) -> Any:
    return {"use": value} if isinstance(value, str) else value


def _check_sections(document: Mapping[str, Any], origin: str, place: Any) -> None:
    for key in document:
        if key not in SECTIONS:
            raise RecipeError(f"{place(key)}: unknown section {key!r}.{nearest(key, SECTIONS)}")


def _checked(recipe: Recipe) -> Recipe:
    """Check sections and their outer types, fill the two defaults of the document itself, and return the recipe."""
    document = recipe.document
    _check_sections(document, recipe.origin, recipe.place)
    missing = [key for key in REQUIRED if document.get(key) is None]
    if missing:
        raise RecipeError(f"{recipe.origin}: no section {missing[0]!r}; a recipe needs {', '.join(REQUIRED)}")
    document.setdefault("seed", 0)
    for key, wanted in SCALARS.items():
        value = document.get(key)
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise RecipeError(f"{recipe.place(key)}: {key} wants {_word(wanted)}, given {yamlfile.shown(value)}")
    if not 0 <= document["seed"] < 2**32:
        raise RecipeError(
            f"{recipe.place('seed')}: seed wants a number from 0 to {2**32 - 1}, given {document['seed']}"
        )
    for key in COMPONENTS:
        if document.get(key) is None:
            document.pop(key, None)
            continue
        document[key] = _component(document[key])
        _check_component(document[key], key, recipe.place(key, "use"))
    for key in LISTS:
        items = document.get(key)
        if items is None:
            continue
        if not isinstance(items, list):
            raise RecipeError(f"{recipe.place(key)}: {key} wants a list, given {yamlfile.shown(items)}")
        document[key] = [_component(item) for item in items]
        for index, item in enumerate(document[key]):
            _check_component(item, f"{key}.{index}", recipe.place(key, index, "use"))
    for key in (*SETTINGS, *OVERLAYS):
        value = document.get(key)
        if value is not None and not isinstance(value, dict) and not (key == "compile" and isinstance(value, bool)):
            raise RecipeError(f"{recipe.place(key)}: {key} wants keys and values, given {yamlfile.shown(value)}")
        for overlaid in value or () if key in OVERLAYS and isinstance(value, dict) else ():
            if overlaid not in SECTIONS or overlaid in OVERLAYS:
                known = [name for name in SECTIONS if name not in OVERLAYS]
                raise RecipeError(
                    f"{recipe.place(key, overlaid)}: unknown section {overlaid!r} in {key}.{nearest(overlaid, known)}"
                )
    return recipe


def _check_component(value: Any, key: str, place: str) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("use"), str):
        raise RecipeError(
            f"{place}: {key} wants a name, or keys with `use: NAME` among them, given {yamlfile.shown(value)}"
        )


def _word(kind: type) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]


def from_document(document: Any, origin: str, lines: yamlfile.Lines | None = None) -> Recipe:
    """Return the recipe a parsed document describes. Raises: RecipeError."""
    if not isinstance(document, dict):
        raise RecipeError(f"{origin}: a recipe is a YAML mapping of sections, this is {type(document).__name__}")
    places = {path: f"{origin}:{line}" for path, line in (lines or {}).items() if path}
    return _checked(Recipe(copy.deepcopy(document), origin, places))


def find(name: str, toolkit: Toolkit) -> Path:
    """Return the file of a recipe given by path or by registered name.

    Raises: RecipeError if a path does not exist, UnknownNameError (with the nearest) if a name is not registered.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.parent != Path():
        if path.is_file():
            return path
        registered = [entry.name for entry in toolkit.registry.all("recipes")]
        raise RecipeError(f"no recipe file {name!r}.{nearest(path.stem, registered)} Registered ones run by name.")
    try:
        entry = toolkit.registry.get("recipes", name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}{toolkit.explain_missing(name)}") from None
    package, _, file = entry.target.partition(":")
    found = resources.files(package).joinpath(file)
    if not isinstance(found, Path) or not found.is_file():
        raise RecipeError(f"recipe {entry.full_name} is registered at {entry.target!r}, but that file is not installed")
    return found


def load(name: str, toolkit: Toolkit, overrides: Iterable[str] = (), *, smoke: bool = False) -> Recipe:
    """Load a recipe by name or path: its file, then its smoke changes if asked for, then the overrides."""
    path = find(name, toolkit)
    document, lines = yamlfile.load_file(path)
    recipe = from_document(document, str(path), lines)
    if smoke:
        changes = recipe.section("smoke")
        if not changes:
            raise RecipeError(
                f"{path}: --smoke needs a section `smoke`, for example smoke: {{trainer: {{max_epochs: 2}}}}"
            )
        recipe = recipe.changed(changes, f"{path}: smoke")
    return recipe.with_overrides(overrides)
