"""The JSON Schema of recipes, made from the signatures that a recipe is bound to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from toolkit.cli.describe import first_line, given_to, options_of
from toolkit.cli.list import short_name
from toolkit.errors import ToolkitError
from toolkit.plugins import Toolkit
from toolkit.registry import Entry
from toolkit.resolve import RESERVED_TRAINER, SETTINGS
from toolkit.sections import COMPONENTS, LISTS, OVERLAYS, REQUIRED, SECTIONS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

SCHEDULE_KEYS = {"interval": {"enum": ["step", "epoch"]}, "monitor": {"type": ["string", "null"]}}
"""What the section `schedule` takes beside the options of the schedule itself."""


def recipe_schema(toolkit: Toolkit) -> tuple[dict[str, Any], list[str]]:
    """Return the schema, and a note for each name whose options are left open because it cannot be imported."""
    notes: list[str] = []
    properties: dict[str, Any] = {
        "name": {"type": "string"},
        "summary": {"type": ["string", "null"]},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    }
    for section, kind in COMPONENTS.items():
        component = _component(toolkit, kind, notes, SCHEDULE_KEYS if section == "schedule" else {})
        properties[section] = component if section in REQUIRED else {"anyOf": [component, {"type": "null"}]}
    for section, kind in LISTS.items():
        properties[section] = {"type": ["array", "null"], "items": _component(toolkit, kind, notes, {})}
    trainer = _options(pl.Trainer, tuple(RESERVED_TRAINER))
    properties["trainer"] = {**trainer, "type": ["object", "null"]}
    for section, target in SETTINGS.items():
        kinds = ["object", "null", "boolean"] if section == "compile" else ["object", "null"]
        properties[section] = {**_options(target), "type": kinds, "description": first_line(target)}
    changes = [section for section in SECTIONS if section not in OVERLAYS]
    for section, meaning in OVERLAYS.items():
        properties[section] = {
            "type": ["object", "null"],
            "description": f"Changes to the rest of the recipe: {meaning}",
            "properties": dict.fromkeys(changes, True),
            "additionalProperties": False,
        }
    schema = {
        "$schema": DIALECT,
        "title": "attention-toolkit recipe",
        "type": "object",
        "properties": {section: properties[section] for section in SECTIONS},
        "required": list(REQUIRED),
        "additionalProperties": False,
    }
    return schema, notes


def _component(toolkit: Toolkit, kind: str, notes: list[str], beside: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section that names one registered thing: its name alone, or its name and options."""
    names, branches = [], []
    for entry in toolkit.registry.all(kind):
        forms = list(dict.fromkeys([short_name(toolkit, kind, entry.full_name), entry.full_name]))
        names += forms
        then = _entry(toolkit, entry, notes, beside)
        if then:
            branches.append({"if": {"properties": {"use": {"enum": forms}}, "required": ["use"]}, "then": then})
    use = {"enum": names, "description": f"One of `toolkit list {kind}`"}
    whole: dict[str, Any] = {"type": "object", "properties": {"use": use}, "required": ["use"]}
    return {"anyOf": [use, {**whole, "allOf": branches} if branches else whole]}


def _entry(toolkit: Toolkit, entry: Entry, notes: list[str], beside: dict[str, Any]) -> dict[str, Any]:
    try:
        target = entry.load()
        schema = _options(target, given_to(toolkit, entry, target))
    except (ToolkitError, TypeError, ValueError) as error:  # a callable without a signature is a ValueError
        notes.append(f"{entry.full_name} ({entry.kind}): options left open: {error}")
        return {}
    return {**schema, "properties": {"use": True, **beside, **schema["properties"]}, "description": entry.summary}


def _options(target: Callable[..., Any], given: tuple[str, ...] = ()) -> dict[str, Any]:
    from toolkit.binding import parameters

    options = options_of(target, given)
    shown = {
        option.name: option.schema if option.required else {**option.schema, "default": option.default}
        for option in options
    }
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters(target).values())
    return {
        "properties": shown,
        "required": [option.name for option in options if option.required],
        "additionalProperties": open_ended,
    }
