"""`toolkit list`."""

from __future__ import annotations

from typing import Any

import click

from toolkit.cli.output import json_option, print_json, print_table, say
from toolkit.errors import UnknownNameError, nearest
from toolkit.plugins import Toolkit, current_toolkit
from toolkit.registry import KINDS

SHOWN_KINDS = (*KINDS, "plugins")


@click.command("list", short_help="List what is registered: recipes, attention, tasks, data ...")
@click.argument("kind", required=False)
@click.option("--capabilities", is_flag=True, help="With `attention`: what each mechanism can do (imports torch).")
@json_option
@click.pass_context
def command(context: click.Context, kind: str | None, capabilities: bool, as_json: bool) -> None:
    """List what is registered, of one kind or of all.

    Kinds: attention, tasks, data, models, metrics, optimizers, schedules, callbacks, loggers, recipes, commands,
    plugins. `toolkit show NAME` tells more about one thing.
    """
    if kind is not None and kind not in SHOWN_KINDS:
        raise UnknownNameError(f"unknown kind {kind!r}.{nearest(kind, SHOWN_KINDS)}")
    if capabilities and kind != "attention":
        raise click.UsageError("--capabilities goes with: toolkit list attention", context)
    toolkit = current_toolkit()
    if kind is None:
        everything = {each: _rows(context, toolkit, each) for each in SHOWN_KINDS}
        if as_json:
            print_json(everything)
            return
        lines = [(each, str(len(rows)), ", ".join(row["name"] for row in rows)) for each, rows in everything.items()]
        print_table(["kind", "number", "names"], lines)
        say("\nMore: toolkit list KIND, toolkit show NAME")
        return
    rows = _rows(context, toolkit, kind)
    if capabilities:
        rows = [{**row, **_capabilities(toolkit, row["full_name"])} for row in rows]
    if as_json:
        print_json({kind: rows})
        return
    columns = ["name", "plugin", "summary"] if kind != "plugins" else ["name", "version", "state"]
    if capabilities:
        columns = ["name", "layouts", "causal", "cross", "weights", "exactness", "devices", "cost"]
    elif any(row.get("source") for row in rows):
        columns.append("source")
    print_table(columns, [[_text(row.get(column, "")) for column in columns] for row in rows])


def short_name(toolkit: Toolkit, kind: str, full_name: str) -> str:
    """Return the short name of an entry while no other plugin claims it, else the full one."""
    name = full_name.partition(":")[2]
    claims = [entry for entry in toolkit.registry.all(kind) if entry.name == name]
    return name if len(claims) == 1 else full_name


def _rows(context: click.Context, toolkit: Toolkit, kind: str) -> list[dict[str, Any]]:
    if kind == "plugins":
        return [
            {"name": status.name, "version": status.version, "state": state_of(status.error, status.disabled)}
            for status in toolkit.statuses.values()
        ]
    rows = []
    if kind == "commands":
        group = context.find_root().command
        ours = getattr(group, "modules", {})
        for name in ours:
            found = group.get_command(context, name) if isinstance(group, click.Group) else None
            summary = found.get_short_help_str(limit=90) if found else ""
            rows.append({"name": name, "full_name": name, "plugin": "core", "summary": summary, "source": ""})
    for entry in toolkit.registry.all(kind):
        row = {"name": short_name(toolkit, kind, entry.full_name), "full_name": entry.full_name}
        row |= {"plugin": entry.plugin, "summary": entry.summary, "source": entry.source, "extra": entry.extra}
        rows.append(row)
    return rows


def state_of(error: str, disabled: bool) -> str:
    """Return what became of a plugin, in a word or its error."""
    return "disabled" if disabled else f"error: {error}" if error else "ok"


def _capabilities(toolkit: Toolkit, full_name: str) -> dict[str, Any]:
    from toolkit.cli.describe import capabilities_of

    return capabilities_of(toolkit.registry.get("attention", full_name).load())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
