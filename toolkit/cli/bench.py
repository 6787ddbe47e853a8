"""`toolkit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.cli.output import json_option, note, print_json, print_table, say

SECTIONS = ("layer", "window", "weights", "rows", "linear", "edges")


@click.group("bench", short_help="Measure attention side by side with the plain way to compute the same.")
def command() -> None:
    """Measure side by side: medians of paired runs in one process, memory in processes of their own."""


@command.command("attention")
@click.option("--only", "sections", type=click.Choice(SECTIONS), multiple=True, help="Some sections; default: all.")
@click.option("--pairs", type=click.IntRange(min=3), default=12, show_default=True, help="Timed pairs of steps.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of torch.")
@click.option("--plots/--no-plots", default=True, help="Also draw time and memory against length.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="bench",
    show_default=True,
    metavar="DIR",
    help="Where the pictures go.",
)
@json_option
def attention(sections: tuple[str, ...], pairs: int, threads: int, plots: bool, out: Path, as_json: bool) -> None:
    """Measure our layers against the plain way to compute the same, and hold them to their targets.

    layer: MultiHeadAttention beside torch's attention and the same projections. window: a sliding window beside torch
    under the equal mask. weights: exact rows, received mass and rollout, by memory. linear: growth with length. edges:
    attention on graphs beside PyG's layers. Ratios above 1 mean that ours is faster. Takes some minutes.
    """
    import torch

    from toolkit.bench import attention as bench
    from toolkit.bench import lengths
    from toolkit.bench.measure import machine

    torch.set_num_threads(threads)
    if not as_json:
        say(", ".join(f"{key} {value}" for key, value in machine().items() if value is not None))
    rows: list[bench.Row] = []
    for name in sections or SECTIONS:
        for row in bench.SECTIONS[name](pairs):
            note(f"{row.section}: {row.what}: {_figures(row.figures)}")
            rows.append(row)
    points = []
    if plots:
        for point in lengths.points():
            note(f"{point.name}, L = {point.length}: {point.seconds:.3f} s, {point.mib:.0f} MiB")
            points.append(point)
        picture = lengths.draw(points, out / "attention.png", device="GPU" if torch.cuda.is_available() else "CPU")
    if as_json:
        facts: dict[str, Any] = {"machine": machine(), "rows": [vars(row) for row in rows]}
        print_json(facts | {"points": [vars(point) for point in points]})
        return
    verdict = {True: "met", False: "MISSED", None: ""}
    cells = [(row.section, row.what, _figures(row.figures), row.target, verdict[row.met]) for row in rows]
    print_table(["section", "what", "figures", "target", ""], cells, wrapped=True)
    if plots:
        say(f"picture: {picture}")


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
