"""The entry point `toolkit`: exit code 0, 1 for a failed verdict or our own bug, 2 for what the user can mend."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

import toolkit
from toolkit.cli.lazy import LazyGroup, Session
from toolkit.cli.output import note, print_error, rank
from toolkit.errors import ToolkitError, ToolkitWarning
from toolkit.plugins import current_toolkit

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "generate",
    "align",
    "verify",
    "compare",
    "bench",
    "conform",
    "list",
    "show",
    "check",
    "copy",
    "schema",
    "plugins",
    "doctor",
)
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
INTERRUPTED = 130


@click.command(
    cls=LazyGroup,
    modules={name: f"toolkit.cli.{name}" for name in COMMANDS},
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(toolkit.__version__, message="attention-toolkit %(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """Train, swap, measure and question attention.

    Start with: toolkit list recipes, then toolkit train NAME.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but `SystemExit` escapes."""
    session = Session()
    try:
        with _warnings_as_notes():
            code: Any = group.main(
                None if arguments is None else list(arguments), prog_name="toolkit", standalone_mode=False, obj=session
            )
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (click.Abort, KeyboardInterrupt):
        note("interrupted")
        return INTERRUPTED
    except click.UsageError as error:
        return _report(error, _usage(error), session)
    except click.ClickException as error:
        return _report(error, error.format_message(), session)
    except ToolkitError as error:
        return _report(error, str(error), session)
    except Exception as error:
        mendable = _mendable(error)
        if mendable:
            return _report(error, mendable, session)
        traceback.print_exc()
        note(_whose_bug(error))
        return 1
    return code if type(code) is int else 0


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show our own warnings as one line, from one process; those of other packages as ever."""
    with warnings.catch_warnings():
        as_ever = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, ToolkitWarning):
                as_ever(message, category, *place, **more)
            elif rank() == 0:
                note(f"note: {message}")

        warnings.showwarning = show
        yield


def _report(error: Exception, message: str, session: Session) -> int:
    if session.debug:
        traceback.print_exception(error)
    print_error(message)
    return 2


def _usage(error: click.UsageError) -> str:
    if error.ctx is None:
        return error.format_message()
    return f"{error.format_message()}\n{error.ctx.get_usage()}\nMore: {error.ctx.command_path} --help"


def _mendable(error: Exception) -> str:
    """Return what to say of an error that is the machine's rather than ours: no memory, no room, a misfit."""
    from toolkit.companions import explain

    if isinstance(error, OSError) and error.errno in MENDABLE:
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        first = (str(error).splitlines() or [""])[0]
        return (
            f"out of memory: {first or 'the machine has no more'}\n"
            "Take a smaller batch or model; `toolkit check RECIPE --batch` estimates what a recipe needs."
        )
    misfit = explain(error)  # a plugin may import such a package only when it is used
    return f"{type(error).__name__}: {error}\n{misfit}" if misfit else ""


def _whose_bug(error: BaseException) -> str:
    packages = {
        status.module.partition(".")[0]: status
        for status in current_toolkit().statuses.values()
        if status.distribution != "attention-toolkit"
    }
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        status = packages.get(str(frame.f_globals.get("__name__", "")).partition(".")[0])
        if status is not None:
            owner = f"{status.distribution or status.name} {status.version}".strip()
            return f"This is a bug, and the last lines are in the plugin {status.name!r}: please report it to {owner}."
    return (
        "This is a bug in attention-toolkit, not a mistake of yours. "
        "Please report it with the lines above and the output of `toolkit doctor`."
    )


if __name__ == "__main__":
    sys.exit(main())
