"""Binding a section of a recipe to the signature it feeds: every key known, every value of the declared type."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from toolkit.errors import RecipeError, nearest, together
from toolkit.yamlfile import shown

Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]

UNIONS = (typing.Union, UnionType)


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what a callable takes by name, with its annotations resolved, without `self`."""
    hints_of = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(hints_of, include_extras=True)
    except Exception:  # an annotation that only exists for type checkers: fall back to what resolves, unchecked
        hints = {}
    found = {}
    for name, parameter in inspect.signature(target).parameters.items():
        annotation = hints.get(name, Any if isinstance(parameter.annotation, str) else parameter.annotation)
        found[name] = parameter.replace(annotation=Any if annotation is inspect.Parameter.empty else annotation)
    return found


def bind(
    target: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    where: str,
    place: Callable[[str], str] = lambda key: "",
    provided: Collection[str] = (),
    reserved: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments that `given` holds for `target`, each converted to its declared type.

    where: the section's name, for messages. place: tells which file and line (or override) gave a key.
    provided: parameters that the caller fills itself. reserved: parameters a recipe may not set, with the reason.
    Raises: RecipeError for unknown keys (with the nearest), values of the wrong type, and missing required keys: all of
    them at once.
    """
    takes = parameters(target)
    reserved = reserved or {}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    named = {
        name: parameter
        for name, parameter in takes.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in provided
        and name not in reserved
    }
    bound, mistakes, strangers = {}, [], []
    for key, value in given.items():
        if key in reserved:
            mistakes.append(RecipeError(f"{_at(place(key))}{where}.{key}: {reserved[key]}"))
        elif key in named:
            try:
                bound[key] = convert(value, named[key].annotation, f"{_at(place(key))}{where}.{key}")
            except RecipeError as error:
                mistakes.append(error)
        elif open_ended and key not in provided:
            bound[key] = value
        else:
            strangers.append(key)
            mistakes.append(RecipeError(f"{_at(place(key))}unknown key {key!r} in {where}.{nearest(key, named)}"))
    for name, parameter in named.items():
        meant = get_close_matches(name, strangers, n=1, cutoff=0.5)  # told already, with this name as the nearest
        if parameter.default is parameter.empty and name not in given and not meant:
            kind = describe(parameter.annotation)
            mistakes.append(RecipeError(f"{_at(place(''))}{where} needs the key {name!r} ({kind})"))
    if mistakes:
        raise together(mistakes)
    return bound


def defaults(target: Callable[..., Any], provided: Collection[str] = ()) -> dict[str, Any]:
    """Return the plain default values of what a recipe may set on `target`, so that a resolved recipe shows them."""
    shown = {}
    for name, parameter in parameters(target).items():
        settable = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if (
            settable
            and name not in provided
            and parameter.default is not parameter.empty
            and is_plain(parameter.default)
        ):
            value = parameter.default
            shown[name] = list(value) if isinstance(value, tuple) else value
    return shown


def is_plain(value: Any) -> bool:
    """Tell whether a value is made of None, booleans, numbers, text, and lists and string-keyed mappings of them."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def convert(value: Any, annotation: Any, where: str) -> Any:
    """Return a plain value as the annotated type: 1 is a fine float, "5" is no number. Raises: RecipeError."""
    adapter = _adapter(annotation)
    if adapter is None:
        return value
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        wanted = describe(annotation)
        kind = " (text)" if isinstance(value, str) else ""  # quotes alone are easily missed
        raise RecipeError(
            f"{where} wants {wanted}, given {shown(value)}{kind}{_reason(error, wanted)}{_nearest(value, annotation)}"
        ) from None


@functools.lru_cache(maxsize=512)
def _cached_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation is Any:
        return None
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=True))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":  # dataclasses and models carry their own config
            return None
        return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, TypeError, NameError):
        return None


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return _cached_adapter(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return _cached_adapter.__wrapped__(annotation)


def _at(place: str) -> str:
    return f"{place}: " if place else ""


def _reason(error: ValidationError, wanted: str) -> str:
    """Return what the words for a type cannot say: how long a list may be, or a bound that lies deeper."""
    problems = error.errors(include_url=False)
    bounds = [
        problem["msg"]
        for problem in problems
        if "too" in problem["type"] or ("than" in problem["type"] and not set("<>") & set(wanted))
    ]
    return f": {bounds[0][0].lower()}{bounds[0][1:]}" if bounds else ""


def _nearest(value: Any, annotation: Any) -> str:
    choices = [choice for choice in _choices(annotation) if isinstance(choice, str)]
    close = get_close_matches(value, choices, n=1, cutoff=0.5) if isinstance(value, str) else []
    return f". Did you mean {close[0]!r}?" if close else ""


def _choices(annotation: Any) -> list[Any]:
    """Return the values of all `Literal`s that a type allows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return list(arguments)
    inner = arguments[:1] if origin is Annotated else arguments if origin in UNIONS else ()
    return [choice for argument in inner for choice in _choices(argument)]


def describe(annotation: Any) -> str:
    """Return a type in words: "a number", "one of 'cora', 'citeseer'", "a whole number >= 1 or null"."""
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    if annotation in words:
        return words[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return f"{describe(arguments[0])} {_bounds(arguments[1:])}".rstrip()
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in UNIONS:
        choices = _choices(annotation)
        plain = [describe(argument) for argument in arguments if not _is_opaque(argument) and not _choices(argument)]
        plain = [*([describe(typing.Literal[tuple(choices)])] if choices else []), *dict.fromkeys(plain)]
        return " or ".join(filter(None, [", ".join(plain[:-1]), *plain[-1:]])) or "something else"
    if origin in (list, tuple, set, frozenset) or annotation in (list, tuple):
        inner = list(dict.fromkeys(describe(argument) for argument in arguments if argument is not ...))
        number = f"{len(arguments)} " if origin is tuple and ... not in arguments and len(inner) == 1 else ""
        return f"a list of {number}{', '.join(map(_plural, inner))}" if inner else "a list"
    if origin is dict or annotation is dict:
        return "keys and values"
    return getattr(annotation, "__name__", str(annotation))


def _bounds(metadata: Iterable[Any]) -> str:
    limits = [limit for item in metadata for limit in getattr(item, "metadata", [item])]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [(sign, getattr(limit, name, None)) for limit in limits for name, sign in signs.items()]
    return " and ".join(f"{sign} {bound:g}" for sign, bound in found if isinstance(bound, int | float))


def _plural(words: str) -> str:
    for one, many in (("a whole number", "whole numbers"), ("a number", "numbers"), ("one of", "any of")):
        if words.startswith(one):
            return many + words[len(one) :]
    return words


def _is_opaque(annotation: Any) -> bool:
    return inspect.isclass(annotation) and annotation not in (int, float, str, bool, list, dict, tuple, type(None))
