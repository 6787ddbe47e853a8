"""The page docs/cli.md, made from the commands themselves.

Run: python -m toolkit.cli.reference      in a checkout, to write it again, the hooks in docs/plugins.md and the table
                                          of mechanisms in docs/attention.md
"""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from toolkit.cli import reference_attention, reference_hooks
from toolkit.cli.main import COMMANDS, group
from toolkit.files import writing

RENEWED = {"plugins.md": reference_hooks.renewed, "attention.md": reference_attention.renewed}
"""Pages of which a part is generated, and what writes it again."""

HEADER = """# The command line

<!-- Written by `python -m toolkit.cli.reference`: do not edit. -->

`toolkit --help` and `toolkit COMMAND --help` show the same. `--debug`, before or after the command, shows the traceback
of an error. Plugins may add commands (`toolkit list commands`).

Exit codes: 0 done, 1 a verdict that failed or a bug of ours, 2 a mistake that the message says how to mend, 130
interrupted. With `--json` nothing but the result is on standard output; errors and progress go to standard error.
"""


def page() -> str:
    """Return docs/cli.md: our own commands, whatever plugins are installed here."""
    context = click.Context(group, info_name="toolkit")
    parts = [HEADER, _table(("Command", "What it does"), [(f"`{name}`", _summary(context, name)) for name in COMMANDS])]
    for name in COMMANDS:
        command = _command(context, name)
        parts += [f"## toolkit {name}\n", f"```\ntoolkit {name} {_usage(command)}\n```\n", _prose(command)]
        rows = [_option(each) for each in command.params if isinstance(each, click.Option) and each.name != "debug"]
        if rows:
            parts.append(_table(("Option", "Meaning"), rows))
    return "\n".join(parts).rstrip() + "\n"


def _command(context: click.Context, name: str) -> click.Command:
    command = group.get_command(context, name)
    assert command is not None, name
    return command


def _summary(context: click.Context, name: str) -> str:
    return _command(context, name).short_help or ""


def _usage(command: click.Command) -> str:
    words = []
    for each in command.params:
        if isinstance(each, click.Argument):
            name = (each.metavar or (each.name or "").upper()).strip()
            words.append(name if each.required or each.metavar else f"[{name}]")
    return " ".join([*words, "[OPTIONS]"])


def _prose(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "") + "\n"


def _option(option: click.Option) -> tuple[str, str]:
    value = ""
    if not option.is_flag:
        choices = "|".join(option.type.choices) if isinstance(option.type, click.Choice) else ""
        value = " " + (option.metavar or choices or option.type.name.upper())
    default = f" Default: {option.default}." if option.show_default else ""
    return f"`{', '.join(option.opts)}{value}`".replace("|", "\\|"), f"{option.help}{default}".replace("|", "\\|")


def _table(heading: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(heading)} |", "| --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def write(docs: Path) -> list[Path]:
    """Write the generated pages, and the generated parts of others, in the folder of the docs."""
    texts = {docs / "cli.md": page()}
    for name, renewed in RENEWED.items():
        texts[docs / name] = renewed((docs / name).read_text(encoding="utf-8"))
    for path, text in texts.items():
        with writing(path) as file:
            file.write(text.encode())
    return list(texts)


if __name__ == "__main__":
    from toolkit.results import checkout

    for written in write(checkout() / "docs"):
        click.echo(written)
