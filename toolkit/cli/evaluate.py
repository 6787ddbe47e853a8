"""`toolkit evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.cli.output import json_option, note, number, print_json, print_table

UNFINISHED = {"": "it says nothing of its state", "running": "it is running, or was killed"}


@click.command("evaluate", short_help="Measure a trained run on its test or validation data.")
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[DATA.KEY=VALUE]...")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True, help="Which data.")
@json_option
def command(run: str, overrides: tuple[str, ...], split: str, as_json: bool) -> None:
    """Measure a trained run on its test or validation data.

    RUN is a run directory (its best checkpoint is used) or a checkpoint file. Overrides choose other data of the same
    kind, for example data.batch_size=16.
    """
    from toolkit import trained
    from toolkit.checkpoint import BEST
    from toolkit.run_directory import RunDirectory

    found = trained.evaluate(run, list(overrides), split=split)
    if found.status != "finished" and Path(run).is_dir():
        chosen = "its best so far" if found.checkpoint.name == BEST else "its last, for none was validated yet"
        note(
            f"{run} has not finished ({UNFINISHED.get(found.status, found.status)}): these are the metrics of epoch "
            f"{found.epoch}, {chosen}. Go on with it: {RunDirectory(Path(run)).resume}"
        )
    if as_json:
        facts = {"run": run, "split": split, "epoch": found.epoch, "status": found.status}
        print_json({**facts, "metrics": found.metrics})
    else:
        print_table(["metric", "value"], [(name, number(value)) for name, value in sorted(found.metrics.items())])
