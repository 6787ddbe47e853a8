"""`toolkit evaluate`."""

from __future__ import annotations

import click

from toolkit.cli.output import json_option, number, print_json, print_table


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

    metrics = trained.evaluate(run, list(overrides), split=split)
    if as_json:
        print_json({"run": run, "split": split, "metrics": metrics})
    else:
        print_table(["metric", "value"], [(name, number(value)) for name, value in sorted(metrics.items())])
