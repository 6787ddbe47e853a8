"""`toolkit compare`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.output import console, duration, json_option, note, print_json, print_table, say, size
from toolkit.plugins import current_toolkit

if TYPE_CHECKING:
    from toolkit.compare import Progress
    from toolkit.compare_report import Report, Row
    from toolkit.statistics import Difference, Summary


@click.command("compare", short_help="Train a recipe once a value and seed, and show quality and cost side by side.")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="SECTION.KEY=VALUE,VALUE... [SECTION.KEY=VALUE]...")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Seeds of each value, counted from the recipe's own.",
)
@click.option("--metric", metavar="NAME", help="What to compare; default: what the recipe expects, or is best by.")
@click.option("--smoke", is_flag=True, help="Apply the recipe's own `smoke` changes first.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Runs at once; default: all cores or devices.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where results are kept; default: compare/NAME-HASH, of the recipe, overrides and keys.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    recipe: str,
    overrides: tuple[str, ...],
    seeds: int,
    metric: str | None,
    smoke: bool,
    workers: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Train a recipe once a value and seed, and show what each value brings and costs in one table.

    Give any key several values with commas between: attention=gat,gatv2 optimizer.lr=1e-3,5e-3. Several such keys are
    combined. Commas inside [...], {...} and quotes part no values. Overrides with one value apply to all.

    Before anything is trained, every combination is tried for a step; those that do not fit are listed with the reason.
    Results are stored as they come: broken off, the same command goes on, and trains nothing twice.

    Columns: the metric on validation and on test (looked at once a run, at the epoch that validation chose), mean +/-
    standard deviation over seeds; the difference to the first row paired by seed, with its 95 % confidence interval;
    median times of a training step (forward, backward, optimizer) and of inference (one forward pass on a batch), taken
    by turns in one process after training; the largest memory of any run's process, or of its device where it has one;
    trained weights.

    Exit code 1 if a run failed, 2 if nothing fits.
    """
    from toolkit.compare import compare, home_of
    from toolkit.compare_grid import span

    grid = span(recipe, overrides, current_toolkit(), smoke=smoke)
    for told in dict.fromkeys(told for variant in grid.variants for told in variant.notes):
        note(f"note: {told}")
    try:
        with _progress() as progress:
            report = compare(grid, out=out, seeds=seeds, metric=metric, workers=workers, progress=progress)
    except KeyboardInterrupt:
        words = [recipe, *overrides, "--seeds", str(seeds), *(["--metric", metric] if metric else [])]
        words += [*(["--smoke"] if smoke else []), *(["--out", str(out)] if out is not None else [])]
        note(f"Stopped; what is done is in {home_of(grid, out)}. Go on with it: toolkit compare {shlex.join(words)}")
        raise
    if as_json:
        print_json(report.plain())
    else:
        _print(report)
    if any(row.status == "failed" for row in report.rows):
        context.exit(1)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Yield what shows progress: lines, and in a terminal a bar of the runs below them."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda line, done, total: note(f"{line} [{done} of {total}]" if total else line)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        runs = bar.add_task("runs", total=None)

        def show(line: str, done: int, total: int) -> None:
            bar.console.print(line)
            if total:
                bar.update(runs, completed=done, total=total)

        yield show


def _print(report: Report) -> None:
    names = [f"{stage}/{report.metric}" for stage in report.stages]
    first = next((row for row in report.rows if row.seeds), None)
    gap = "difference" if first is None else f"{report.stages[-1]} - first"
    rows, told = [], []
    for row in report.rows:
        mark = ""
        if row.reason:
            told.append(row.reason)
            mark = f" ({len(told)})"
        rows.append(_cells(row, names, mark, is_first=row is first))
    print_table([*report.keys, *names, gap, "step", "inference", "memory", "weights"], rows)
    for number, reason in enumerate(told, 1):
        say(f"({number}) {reason}")
    count = len(report.seeds)
    say(
        f"\n{count} seed{'s' * (count > 1)}; {'more' if report.better == 'max' else 'less'} {report.metric} is better; "
        "differences are paired by seed, with 95 % confidence. Choose by validation: test is only reported."
    )
    say(f"Table: {report.directory / 'table.json'}")
    if report.picture is not None:
        say(f"Picture: {report.picture}")


def _cells(row: Row, names: list[str], mark: str, *, is_first: bool) -> list[str]:
    keys = list(row.values.values())
    if not row.seeds:
        word = "does not fit" if row.status == "unfit" else "failed"
        return [*keys, f"{word}{mark}", *["-"] * (len(names) + 4)]
    cells = [_mean(row.metrics.get(name)) for name in names]
    cells[0] += mark and f" {len(row.seeds)} seeds{mark}"
    cells.append("" if is_first else _gap(row.difference.get(names[-1])))
    cells += [duration(each["median"]) if each else "-" for each in (row.step_seconds, row.inference_seconds)]
    cells += [size(row.device_peak_bytes or row.peak_bytes or 0), str(row.parameters)]
    return [*keys, *cells]


def _mean(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    return f"{summary.mean:.4f}" + ("" if summary.std is None else f" +/- {summary.std:.4f}")


def _gap(gap: Difference | None) -> str:
    if gap is None:
        return "-"
    return f"{gap.mean:+.4f}" + ("" if gap.low is None else f" [{gap.low:+.4f}, {gap.high:+.4f}]")
