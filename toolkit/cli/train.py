"""`toolkit train`."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.output import duration, json_option, note, number, print_json, print_table, rank, say
from toolkit.errors import RunError, UnknownNameError
from toolkit.plugins import current_toolkit

if TYPE_CHECKING:
    from toolkit.recipe import Recipe
    from toolkit.run import RunResult
    from toolkit.run_directory import RunDirectory

LATEST = ""
"""What `--resume` without a value means: the newest unfinished run of the recipe."""


@click.command("train", short_help="Train a recipe into a run directory and test its best epoch.")
@click.argument("words", nargs=-1, metavar="RECIPE [SECTION.KEY=VALUE]...")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run directory; default runs/NAME-1, -2 ..."
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=LATEST,
    metavar="[RUN]",
    help="Go on with an unfinished run: its directory, or without one the newest run of the recipe.",
)
@click.option("--smoke", is_flag=True, help="Apply the recipe's own `smoke` changes: a run of seconds.")
@click.option("--seed", type=int, help="Short for seed=N.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    words: tuple[str, ...],
    out: Path | None,
    resume: str | None,
    smoke: bool,
    seed: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a recipe into a run directory, then test the epoch that validation chose.

    RECIPE is a name (`toolkit list recipes`) or a YAML file. Overrides change single keys of it, for example
    attention=gatv2 trainer.max_epochs=50 trainer.devices=2. A resumed run takes its recipe from its own directory:
    `toolkit train --resume RUN` is enough.
    """
    name, overrides, resume = sort_words(words, resume)
    if seed is not None:
        overrides.append(f"seed={seed}")
    if resume is None and name is None:
        raise click.UsageError("give a recipe to train; `toolkit list recipes` has their names", context)
    if resume is not None and (out is not None or smoke):
        raise click.UsageError(
            "--resume goes on in the run's own directory and recipe: leave --out and --smoke", context
        )

    from toolkit import run_directory
    from toolkit.recipe import load
    from toolkit.run import train

    began = time.monotonic()
    directory = None
    if resume is None:
        recipe = load(str(name), current_toolkit(), overrides, smoke=smoke)
    else:
        directory, recipe = _earlier(name, resume, overrides)
    try:
        result = train(recipe, out=out, resume=directory, quiet=quiet)
    except KeyboardInterrupt:
        opened = run_directory.launched()
        if opened is not None and opened.last is not None and rank() == 0:
            note(f"Go on with it: {opened.resume}")
        raise
    if rank() != 0:
        return  # even if it was interrupted: process 0, still at its last words, is killed when another one fails
    _report(result, recipe, time.monotonic() - began, as_json)
    if not result.finished:
        context.exit(130)


def sort_words(words: tuple[str, ...], resume: str | None) -> tuple[str | None, list[str], str | None]:
    """Return recipe, overrides and run from what stood on the command line.

    click gives the word after a bare `--resume` to it: an override there is still an override, and a recipe a recipe.
    """
    rest = list(words)
    if resume and _is_override(resume):
        rest, resume = [*rest, resume], LATEST
    name = rest.pop(0) if rest and not _is_override(rest[0]) else None
    if resume and name is None and not Path(resume).exists() and len(Path(resume).parts) == 1:
        name, resume = resume, LATEST
    return name, rest, resume


def _is_override(word: str) -> bool:
    return "=" in word and not Path(word).exists()


def _earlier(name: str | None, resume: str, overrides: list[str]) -> tuple[Path, Recipe]:
    """Return the directory and recipe of the run to go on with. Raises: RunError, UnknownNameError."""
    from toolkit import run_directory
    from toolkit.recipe import load
    from toolkit.resuming import recipe_of

    launched = run_directory.launched()
    wanted = None
    if name is not None:
        try:
            wanted = load(name, current_toolkit()).name
        except UnknownNameError as error:
            raise UnknownNameError(f"{error} To go on with a run, name its directory: --resume DIRECTORY") from None
    if launched is not None and rank() != 0:
        directory = launched.path
    elif resume != LATEST:
        directory = Path(resume)
    elif wanted is not None:
        directory = run_directory.latest_unfinished(wanted).path
    else:
        raise click.UsageError("--resume needs the directory of a run, or a recipe to look for its newest one")
    recipe = recipe_of(directory)
    if wanted is not None and recipe.name != wanted:
        raise RunError(f"{directory} is a run of {recipe.name!r}, not of {wanted!r}")
    return directory, recipe.with_overrides(overrides)


def _report(result: RunResult, recipe: Recipe, seconds: float, as_json: bool) -> None:
    from toolkit.run_directory import RunDirectory

    directory = RunDirectory(result.directory)
    if as_json:
        print_json(
            {
                "directory": str(result.directory),
                "finished": result.finished,
                "trained": result.trained,
                "best_epoch": result.best_epoch,
                "metrics": result.metrics,
                "seconds": round(seconds, 3),
            }
        )
    if not result.finished:
        note(f"Stopped before the end; the state is saved. Go on with it: {directory.resume}")
        return
    if not result.trained:
        note(f"{result.directory} was finished already: nothing was trained. {_how_to_train_longer(directory, recipe)}")
    if as_json:
        return
    sys.stderr.flush()
    print_table(
        [f"metric (best epoch: {result.best_epoch})", "value"],
        [(metric, number(value)) for metric, value in sorted(result.metrics.items())],
    )
    place = shlex.quote(str(result.directory))
    if result.trained:
        say(f"\nTrained in {duration(seconds)}. Run directory: {result.directory}")
    say(f"Next: toolkit evaluate {place}\n      toolkit predict {place} --out predictions.csv")


def _how_to_train_longer(directory: RunDirectory, recipe: Recipe) -> str:
    epochs = int(directory.state().get("epochs", 0))
    limit = (recipe.section("trainer") or {}).get("max_epochs")
    stop = recipe.section("stop") or {}
    if "patience" in stop and (limit is None or limit < 0 or epochs < limit):
        patience = stop["patience"]
        return (
            f"It stopped early after {epochs} epochs, with stop.patience={patience}. "
            f"Train it longer: {directory.resume} stop.patience={2 * patience}"
        )
    return f"It has trained {epochs} epochs. Train it longer: {directory.resume} trainer.max_epochs={2 * epochs}"
