"""A click group whose commands are imported when they are used, and to which plugins may add theirs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from toolkit.errors import PluginError, UnknownNameError, nearest
from toolkit.plugins import current_toolkit
from toolkit.registry import Entry


@dataclass
class Session:
    """What the outermost layer wants to know about a command after it has failed."""

    debug: bool = False


def debug_option() -> click.Option:
    """Return the option `--debug`, which stands before or after the command."""

    def remember(context: click.Context, _: click.Parameter, given: bool) -> None:
        session = context.find_object(Session)
        if session is not None and given:
            session.debug = True

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="Show the traceback of an error.",
    )


class LazyGroup(click.Group):
    """Commands by name: ours from `modules` (each holds a `command`), then those that plugins registered.

    A plugin's command goes by its short name unless one of ours or another plugin's has it; then by `plugin:name`.
    """

    def __init__(self, *arguments: Any, modules: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.modules = modules
        self.params.append(debug_option())

    def list_commands(self, context: click.Context) -> list[str]:
        return [*self.modules, *self.plugin_commands()]

    def plugin_commands(self) -> dict[str, Entry]:
        """Return the commands of plugins under the names they go by, without importing them."""
        entries = current_toolkit().registry.all("commands")
        short = [entry.name for entry in entries]
        return {
            entry.full_name if entry.name in self.modules or short.count(entry.name) > 1 else entry.name: entry
            for entry in entries
        }

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.modules:
            return _with_debug(importlib.import_module(self.modules[name]).command)
        try:
            entry = current_toolkit().registry.get("commands", name)
        except UnknownNameError:
            return None
        command = entry.load()
        if not isinstance(command, click.Command):
            raise PluginError(f"the command {entry.full_name} is registered at {entry.target!r}: no click command")
        return _with_debug(command)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        command = self.get_command(context, name)
        if command is None:
            toolkit = current_toolkit()
            known = self.list_commands(context)
            context.fail(f"no command {name!r}.{nearest(name, known)}{toolkit.explain_missing(name)}")
        return name, command, arguments[1:]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        ours = [(name, self._summary(context, name)) for name in self.modules]
        theirs = [(name, entry.summary) for name, entry in self.plugin_commands().items()]
        for heading, rows in (("Commands", ours), ("Commands of plugins", theirs)):
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def _summary(self, context: click.Context, name: str) -> str:
        command = self.get_command(context, name)
        return command.get_short_help_str(limit=90) if command is not None else ""


def _with_debug(command: click.Command) -> click.Command:
    if not any("--debug" in parameter.opts for parameter in command.params):
        command.params.append(debug_option())
    return command
