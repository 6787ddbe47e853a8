"""A recipe: one YAML document, with overrides merged, every section and key of ours known; no torch is imported.

What a section's own keys may be is the business of the thing it names (`binding.py`, `resolve.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from toolkit import yamlfile
from toolkit.errors import RecipeError, UnknownNameError, nearest, together
from toolkit.plugins import Toolkit
from toolkit.sections import COMPONENTS, SECTIONS, component, is_component, normalize, unknown
from toolkit.sections import mistakes as mistakes_of
from toolkit.swaps import Swap

OVERRIDE = "override "
"""How the place of a key that an override gave begins."""


@dataclass(frozen=True)
class Recipe:
    """A recipe document and where each part of it came from.

    `document` holds plain values only; `places` maps a key path to the place that gave it, for messages; `swaps` holds
    the sections that an override made name another thing. Mistakes are raised, or gathered in `mistakes` if there is a
    list, so that `toolkit check` can tell all of them.
    """

    document: dict[str, Any]
    origin: str
    places: Mapping[tuple[str | int, ...], str] = field(default_factory=dict)
    swaps: Mapping[str, Swap] = field(default_factory=dict)
    mistakes: list[RecipeError] | None = None

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
        self._blame(unknown(changes, lambda *_: place))
        _merge(document, changes, (), place, places)
        swaps = dict(self.swaps)
        for section in self.swaps.keys() & changes.keys():
            _set(swaps, section, swaps[section].changed(component(changes[section]), self.document[section]["use"]))
        return _checked(replace(self, document=document, places=places, swaps=swaps))

    def with_overrides(self, overrides: Iterable[str]) -> Recipe:
        """Return this recipe with `section.key=value` overrides applied in order.

        `attention=gat` is short for `attention.use=gat`; `attention=null` removes the section.
        Raises: RecipeError naming the override, and the nearest section when it names none.
        """
        recipe = self
        for override in overrides:
            try:
                recipe = recipe._overridden(override)
            except RecipeError as error:
                self._blame([error])
        return _checked(recipe)

    def _overridden(self, override: str) -> Recipe:
        place = f"{OVERRIDE}{override!r}"
        key, equals, text = override.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            raise RecipeError(f"{place}: write it as section.key=value, for example trainer.max_epochs=10")
        if path[0] not in SECTIONS:
            raise RecipeError(f"{place}: unknown section {path[0]!r}.{nearest(path[0], SECTIONS)}")
        value = yamlfile.parse_value(text, place)
        if len(path) == 1 and path[0] in COMPONENTS and isinstance(value, str):
            path, value = (*path, "use"), value
        swaps = self._swapped(path, value, place)
        document, places = copy.deepcopy(self.document), dict(self.places)
        target: Any = document
        for depth, part in enumerate(path[:-1]):
            target = _descend(target, part, path[: depth + 1], place)
        _assign(target, path[-1], value, place)
        for known in [known for known in places if tuple(map(str, known[: len(path)])) == path]:
            del places[known]
        places[path] = place
        return replace(self, document=document, places=places, swaps=swaps)

    def _swapped(self, path: tuple[str, ...], value: Any, place: str) -> dict[str, Swap]:
        """Return the swaps after an override: another name keeps the keys the recipe gave, which may not fit it."""
        swaps, section = dict(self.swaps), path[0]
        old = self.document.get(section)
        if path[1:] == ("use",) and isinstance(old, dict) and is_component(old) and value != old["use"]:
            given = {key for key in old if key != "use" and not self.place(section, key).startswith(OVERRIDE)}
            before = swaps.get(section, Swap(place, old["use"], frozenset()))
            swaps[section] = Swap(place, before.old, before.inherited | given)
        elif section in swaps:
            change = {path[1]: value} if path[1:] else value
            _set(swaps, section, swaps[section].changed(change, self.document[section]["use"]))
        return swaps

    def _blame(self, errors: Sequence[RecipeError]) -> None:
        """Raise mistakes, or gather those that are not told yet."""
        if self.mistakes is None:
            if errors:
                raise together(errors)
            return
        told = set(map(str, self.mistakes))
        self.mistakes.extend(error for error in errors if str(error) not in told)

    def text(self) -> str:
        """Return the document as YAML."""
        return yamlfile.dump(self.document)


def _set(swaps: dict[str, Swap], section: str, swap: Swap | None) -> None:
    if swap is None:
        del swaps[section]
    else:
        swaps[section] = swap


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
            old, value = component(old), component(value)
            if old is not None and "use" in value and value["use"] != old.get("use"):
                old = None
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value, here, place, places)
            target[key] = old
        else:
            target[key] = copy.deepcopy(value)


def _checked(recipe: Recipe) -> Recipe:
    """Write the document in its long form, check its sections and their outer types, and return the recipe."""
    normalize(recipe.document)
    recipe._blame(mistakes_of(recipe.document, recipe.origin, recipe.place))
    return recipe


def from_document(
    document: Any, origin: str, lines: yamlfile.Lines | None = None, *, mistakes: list[RecipeError] | None = None
) -> Recipe:
    """Return the recipe a parsed document describes. Raises: RecipeError, unless there is a list of `mistakes`."""
    if not isinstance(document, dict):
        raise RecipeError(f"{origin}: a recipe is a YAML mapping of sections, this is {type(document).__name__}")
    places = {path: f"{origin}:{line}" for path, line in (lines or {}).items() if path}
    return _checked(Recipe(copy.deepcopy(document), origin, places, mistakes=mistakes))


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


def load(
    name: str,
    toolkit: Toolkit,
    overrides: Iterable[str] = (),
    *,
    smoke: bool = False,
    mistakes: list[RecipeError] | None = None,
) -> Recipe:
    """Load a recipe by name or path: its file, then its smoke changes if asked for, then the overrides.

    mistakes: a list in which wrong sections and overrides are gathered, where they would be raised.
    """
    path = find(name, toolkit)
    document, lines = yamlfile.load_file(path)
    recipe = from_document(document, str(path), lines, mistakes=mistakes)
    if smoke:
        changes = recipe.section("smoke")
        if not changes:
            raise RecipeError(
                f"{path}: --smoke needs a section `smoke`, for example smoke: {{trainer: {{max_epochs: 2}}}}"
            )
        recipe = recipe.changed(changes, f"{path}: smoke")
    return recipe.with_overrides(overrides)
