"""`toolkit copy`."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

import click

from toolkit.cli.output import json_option, print_json, say
from toolkit.errors import RecipeError
from toolkit.plugins import current_toolkit


@click.command("copy", short_help="Copy a recipe to a file of your own, to edit it.")
@click.argument("recipe")
@click.argument("dest", type=click.Path(path_type=Path))
@json_option
def command(recipe: str, dest: Path, as_json: bool) -> None:
    """Copy a recipe, comments and all, to the file or folder DEST; nothing is overwritten."""
    from toolkit.recipe import find

    source = find(recipe, current_toolkit())
    target = dest / source.name if dest.is_dir() else dest
    write_new(target, source.read_bytes())
    if as_json:
        print_json({"recipe": recipe, "source": str(source), "file": str(target)})
    else:
        shown = str(target) if target.suffix in {".yaml", ".yml"} or target.parent != Path() else f"./{target}"
        say(f"{target}\nNext: toolkit train {shlex.quote(shown)}")


def write_new(target: Path, content: bytes) -> None:
    """Write a file that appears whole, and only if nothing has its name. Raises: RecipeError."""
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, target)  # unlike a rename, a link never replaces a file
        except FileExistsError:
            raise RecipeError(f"{target} exists; choose another name, or remove it first") from None
        except OSError:  # a file system without links
            with open(target, "xb") as file:
                file.write(content)
    except FileExistsError:
        raise RecipeError(f"{target} exists; choose another name, or remove it first") from None
    except OSError as error:
        raise RecipeError(f"cannot write {target}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
