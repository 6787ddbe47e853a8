"""`toolkit align`."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.cli.output import json_option, print_json, say


@click.command("align", short_help="Draw what a translation was made from.")
@click.argument("run")
@click.option("--text", required=True, metavar="TEXT", help="What is to be translated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("align.png"),
    show_default=True,
    metavar="FILE",
    help="A .png file.",
)
@click.option("--layer", type=click.IntRange(min=0), metavar="N", help="One layer of the decoder; the mean of all.")
@click.option("--head", type=click.IntRange(min=0), metavar="N", help="One head; the mean of all.")
@json_option
def command(run: str, text: str, out: Path, layer: int | None, head: int | None, as_json: bool) -> None:
    """Translate a text by a trained run, and draw the attention of each written token to those that were read.

    RUN is a run directory (its best checkpoint is used) or a checkpoint file.
    """
    if out.suffix != ".png":
        raise click.UsageError(f"--out {out}: the file name must end in .png")

    from toolkit import heatmap, trained

    found = trained.align(run, text, layer=layer, head=head)
    heatmap.draw(
        found.weights,
        found.target,
        found.source,
        out,
        title=found.text,
        row_title="written",
        column_title="read",
        numbers=False,
    )
    if as_json:
        weights = found.weights.tolist()
        print_json({"run": run, "text": found.text, "source": found.source, "target": found.target, "weights": weights})
    else:
        say(f"{found.text}\n{out} shows what it was made from")
