"""`toolkit schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from toolkit.cli.output import note, print_json, say
from toolkit.plugins import current_toolkit


@click.command("schema", short_help="Write the JSON Schema of recipes, for editors.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: standard output."
)
def command(out: Path | None) -> None:
    """Write the JSON Schema of recipes, with the options of everything installed.

    Editors that speak the YAML language server use it when the first line of a recipe is
    `# yaml-language-server: $schema=recipe.schema.json`.
    """
    from toolkit.cli.recipe_schema import recipe_schema
    from toolkit.files import writing

    schema, notes = recipe_schema(current_toolkit())
    if out is None:
        print_json(schema)
    else:
        with writing(out) as file:
            file.write((json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
        say(str(out))
    for line in notes:
        note(line)
