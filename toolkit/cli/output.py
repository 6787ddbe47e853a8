"""What commands print: tables for people, JSON for programs, errors on one screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolkit.strictjson import strict_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

UNBROKEN = 10_000
"""Columns of an output that is no terminal: one row, one line, so that grep and cut work."""

PAGE = 120
"""Columns of a table whose cells are read rather than cut, where the output is no terminal."""

SCREEN = 40
"""Lines of an error message before the rest is left to `--debug`."""

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


def json_option(command: AnyCommand) -> AnyCommand:
    """Give a command the option `--json`, as its parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")(
        command
    )


def console(*, stderr: bool = False, piped_width: int = UNBROKEN) -> Console:
    """Return a console that prints text as it is given: brackets are brackets.

    piped_width: its columns where the output is no terminal.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    narrow = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=not narrow,
        width=None if narrow else piped_width,
    )


def print_json(value: Any) -> None:
    """Print a value as strict JSON: what is not finite becomes null."""
    click.echo(strict_json(value))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str = "", wrapped: bool = False
) -> None:
    """Print rows under a heading; columns that hold numbers only are set right.

    wrapped: break long cells even where the output is no terminal, for tables that nothing else reads (`--json` does).
    """
    from rich import box
    from rich.table import Table

    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(_is_number(str(row[index])) for row in rows)
        table.add_column(column, overflow="fold", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*row)
    console(piped_width=PAGE if wrapped else UNBROKEN).print(table, soft_wrap=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def say(text: str = "") -> None:
    """Print a line of a result."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line that is no part of the result."""
    click.echo(text, err=True)


def print_error(message: str) -> None:
    """Print a mistake that the user can mend, in at most one screen."""
    from rich.text import Text

    lines = message.splitlines() or [""]
    if len(lines) > SCREEN:
        lines = [*lines[:SCREEN], f"... and {len(lines) - SCREEN} more lines; --debug shows them"]
    heading = f"error (process {rank()}): " if rank() else "error: "
    console(stderr=True).print(Text.assemble((heading, "bold red"), "\n".join(lines)), soft_wrap=True)


def rank() -> int:
    """Return the number of this process among those that train together, as their launcher told it."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if os.environ.get(variable, "").isdigit():
            return int(os.environ[variable])
    return 0


def number(value: float) -> str:
    """Return a measured number with four significant digits."""
    return f"{value:.4g}"


def size(num_bytes: float) -> str:
    """Return a size in the unit people would use: 512 MB, 1.3 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Return a time in the unit people would use: 8.1 ms, 12.3 s, 4.5 min, 2.1 h."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
