"""`toolkit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.output import duration, json_option, note, print_error, print_json, print_table, say, size
from toolkit.errors import RecipeError, ToolkitError
from toolkit.plugins import Toolkit, current_toolkit

if TYPE_CHECKING:
    from toolkit.verify import Arm, Report


@click.command("verify", short_help="Rerun a recipe's seeds and its baseline's, and hold it to its claim.")
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--all", "every", is_flag=True, help="Every registered recipe that claims something.")
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="N", help="Default: as many as the recipe's `expect` asks."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Runs at once; default: all cores or devices.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="verify",
    show_default=True,
    metavar="DIR",
    help="Each seed's result is stored in DIR/NAME.",
)
@click.option("--record", is_flag=True, help="Write docs/results/NAME.json and docs/results.md of this checkout.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    recipe: str | None,
    overrides: tuple[str, ...],
    every: bool,
    seeds: int | None,
    workers: int | None,
    out: Path,
    record: bool,
    as_json: bool,
) -> None:
    """Rerun a recipe over its seeds, and its baseline over the same, and compare the mean with its claim.

    Results are stored as they come: broken off, the same command goes on. A stored result is used only while recipe,
    versions and code are the same. Exit code 0 if the claim holds, 1 if it fails or too few seeds decide nothing.
    """
    toolkit = current_toolkit()
    if (recipe is None) != every:
        raise click.UsageError("give a recipe, or --all", context)
    if overrides and (every or record):
        raise RecipeError("overrides make another recipe: verify it without --all and --record")

    from toolkit.results import checkout

    root = checkout() if record else None
    names = [entry.full_name for entry in toolkit.registry.all("recipes")] if every else [str(recipe)]
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            facts = _one(toolkit, name, overrides, seeds, workers, out, root, quiet=as_json, skip=every)
        except ToolkitError as error:
            if not every:
                raise
            print_error(f"{name}: {error}")
            facts = {"name": name, "verdict": "error", "reason": str(error)}
        found.append(facts)
    if as_json:
        print_json(found if every else found[0])
    elif every:
        say()
        print_table(
            ["recipe", "verdict", "reason"], [(each["name"], each["verdict"], each["reason"]) for each in found]
        )
    if any(each["verdict"] not in ("pass", "no claim") for each in found):
        context.exit(1)


def _one(
    toolkit: Toolkit,
    name: str,
    overrides: tuple[str, ...],
    seeds: int | None,
    workers: int | None,
    out: Path,
    root: Path | None,
    *,
    quiet: bool,
    skip: bool,
) -> dict[str, Any]:
    from toolkit.recipe import load
    from toolkit.results import record
    from toolkit.verify import verify

    recipe = load(name, toolkit, overrides)
    if skip and not recipe.document.get("expect"):
        return {"name": recipe.name, "verdict": "no claim", "reason": "the recipe has no section `expect`"}
    home = out / recipe.name
    try:
        report = verify(recipe, out=home, seeds=seeds, workers=workers, progress=note)
    except KeyboardInterrupt:
        note(f"Stopped; the finished seeds are in {home}, and the same command goes on from them.")
        raise
    facts = report.plain()
    if not quiet:
        _print(report)
    if root is not None:
        note(f"recorded in {record(recipe.name, facts, root)}")
    return facts


def _print(report: Report) -> None:
    rows = [_row("recipe", report.recipe)]
    if report.baseline is not None:
        rows.append(_row("baseline", report.baseline))
    print_table(
        [report.metric, "mean", "std", "min", "max", "seeds", "a run", "peak memory"],
        rows,
    )
    gap = report.difference
    if gap is not None:
        interval = "too few seeds for an interval"
        if gap.low is not None and gap.high is not None:
            interval = f"95 % confidence [{gap.low:+.4f}, {gap.high:+.4f}]"
            if gap.low <= 0 <= gap.high:
                interval += ": no difference is shown"
        say(f"\nrecipe - baseline: {gap.mean:+.4f}, {interval}")
    times = f"{duration(report.wall_seconds)} in all, {duration(report.compute_seconds)} of runs"
    say(f"{times}, {report.reused} stored before")
    say(f"{report.name}: {report.verdict.upper()} ({report.reason})")


def _row(name: str, arm: Arm) -> tuple[str, ...]:
    summary = arm.summary
    memory = size(arm.peak_bytes)
    if arm.device_peak_bytes:
        memory += f" (device {size(arm.device_peak_bytes)})"
    numbers = [f"{value:.4f}" for value in (summary.min, summary.max)]
    spread = "-" if summary.std is None else f"{summary.std:.4f}"
    return (name, f"{summary.mean:.4f}", spread, *numbers, str(summary.count), duration(arm.seconds_a_run), memory)
