"""`toolkit plugins`."""

from __future__ import annotations

import click

from toolkit.cli.list import state_of
from toolkit.cli.output import json_option, note, print_json, print_table
from toolkit.plugins import DISABLE_VARIABLE, Toolkit, current_toolkit
from toolkit.registry import KINDS


@click.command("plugins", short_help="List the installed plugins, what each brings, and which failed to load.")
@click.option("--trace", is_flag=True, help="Show the traceback of each plugin that failed.")
@json_option
def command(trace: bool, as_json: bool) -> None:
    """List the installed plugins, what each brings, and which failed to load.

    TOOLKIT_DISABLE_PLUGINS=NAME,NAME switches plugins off.
    """
    toolkit = current_toolkit()
    statuses = list(toolkit.statuses.values())
    if as_json:
        print_json(
            {
                "plugins": [
                    {**vars(status), "state": state_of(status.error, status.disabled)}
                    | {"brings": {kind: names for kind in KINDS if (names := _brings(toolkit, status.name, kind))}}
                    for status in statuses
                ]
            }
        )
        return
    rows = []
    for status in statuses:
        counts = [(kind, len(_brings(toolkit, status.name, kind))) for kind in KINDS]
        brings = ", ".join(f"{count} {kind}" for kind, count in counts if count)
        home = f"{status.distribution} {status.version}".strip()
        rows.append((status.name, home, brings, state_of(status.error, status.disabled)))
    print_table(["plugin", "from", "brings", "state"], rows)
    for status in toolkit.failures() if trace else []:
        note(f"\n{status.name}:\n{status.trace or status.error}")
    if toolkit.failures() and not trace:
        note(f"`toolkit plugins --trace` shows why; {DISABLE_VARIABLE}=NAME switches one off")


def _brings(toolkit: Toolkit, plugin: str, kind: str) -> list[str]:
    return [entry.name for entry in toolkit.registry.all(kind) if entry.plugin == plugin]
