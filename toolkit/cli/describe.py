"""What a registered thing takes, as data: its options with types and defaults, and what the house itself gives it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from toolkit.binding import _adapter, describe, is_plain, parameters
from toolkit.errors import ToolkitError
from toolkit.plugins import Toolkit
from toolkit.registry import Entry
from toolkit.resolve import PROVIDED

GIVEN = {**PROVIDED, "optimizers": ("params",), "schedules": ("optimizer",), "loggers": ("save_dir",), "callbacks": ()}


@dataclass(frozen=True)
class Option:
    """One key that a recipe may set on a thing; `default` is missing where it must be given."""

    name: str
    type: str
    schema: dict[str, Any]
    required: bool
    default: Any = None

    def plain(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": self.name, "type": self.type, "required": self.required}
        return shown if self.required else {**shown, "default": self.default}


def options_of(target: Callable[..., Any], given: tuple[str, ...] = ()) -> list[Option]:
    """Return what a recipe may set on a callable, without what is `given` to it by the house."""
    found = []
    for name, parameter in parameters(target).items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) or name in given:
            continue
        schema = schema_of(parameter.annotation)
        required = parameter.default is parameter.empty
        default = parameter.default if not required and is_plain(parameter.default) else None
        found.append(Option(name, describe(parameter.annotation), schema, required, default))
    return found


def given_to(toolkit: Toolkit, entry: Entry, target: Any) -> tuple[str, ...]:
    """Return the arguments of a thing that a recipe may not set, because the house fills them."""
    if entry.kind != "models":
        return GIVEN.get(entry.kind, ())
    takes = parameters(target)
    given = {"attention"}
    for task in toolkit.registry.all("tasks"):
        try:
            gives = task.load().gives_model
        except (ToolkitError, AttributeError):
            continue
        if set(gives) <= set(takes):  # a task whose arguments do not all fit trains another model
            given |= set(gives)
    return tuple(name for name in takes if name in given)


class _JsonSchema(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (pydantic's own declaration)


def schema_of(annotation: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type; an empty one, which accepts anything, where JSON has no word for it."""
    adapter: TypeAdapter[Any] | None = _adapter(annotation)
    if adapter is None:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _inlined(adapter.json_schema(schema_generator=_JsonSchema))
    except (PydanticInvalidForJsonSchema, PydanticUserError):  # no word for it, or named only for type checkers
        return {}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without references, which would point nowhere once it is part of a larger one."""
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolved(definitions.get(value["$ref"].rpartition("/")[2], {}))
        return {key: resolved(item) for key, item in value.items()}

    inlined: dict[str, Any] = resolved(schema)
    return inlined


def capabilities_of(mechanism: Any) -> dict[str, Any]:
    """Return what a mechanism declares, as plain values."""
    declared = mechanism.capabilities
    values = {field.name: getattr(declared, field.name) for field in fields(declared)}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()}


def first_line(target: Any) -> str:
    """Return the first sentence of a docstring, or nothing."""
    text = inspect.getdoc(target) or ""
    return " ".join(text.split("\n\n")[0].split())
