"""The table of mechanisms inside docs/attention.md, made from their declarations, and the picture of the patterns.

Run: python -m toolkit.cli.reference      in a checkout, to write the table again
     python -m toolkit.cli.reference_attention     to draw docs/images/patterns.png again
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.cli.marked import Marks
from toolkit.plugins import current_toolkit

if TYPE_CHECKING:
    from toolkit.attention import Capabilities

MARKS = Marks("mechanisms")
PATTERNS = (
    "full",
    "causal",
    "window(3, 3)",
    "causal & window(3, 0)",
    "blocks(4)",
    "strided(4)",
    "causal & fixed(4)",
    "window(2, 2) | global_tokens([0])",
    "padding([11])",
    "segments([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]])",
    "window(1, 1) | global_tokens([0]) | random_blocks(2, 1)",
    "causal & segments([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]])",
)
LENGTH = 16


def _closeness(declared: Capabilities) -> str:
    option = "" if declared.error_at is None else " with {} = {}".format(*declared.error_at)
    return f"approximates {declared.approximates}: misses {declared.error}{option}"


def table() -> str:
    """Return the mechanisms of the core as a table."""
    lines = [
        "| Name | What it computes | Layouts | Causal | Weights | Exact | Cost | Paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in current_toolkit().registry.all("attention"):
        if entry.plugin != "core":
            continue
        declared = entry.load().capabilities
        exact = "yes" if declared.exactness == "exact" else _closeness(declared)
        cells = [
            f"`{entry.name}`",
            f"{entry.summary}: {_code(declared.equation)}",
            ", ".join(sorted(declared.layouts)),
            "yes" if declared.causal else "no",
            declared.weights,
            exact,
            declared.cost,
            declared.paper,
        ]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _code(equation: str) -> str:
    return f"`{equation}`" if equation else ""


def renewed(page: str) -> str:
    """Return docs/attention.md with its table written anew."""
    return MARKS.renewed(page, table())


def draw(path: Path) -> Path:
    """Draw each of `PATTERNS` for 16 queries and keys: a dark cell is a query (row) that may look at a key (column)."""
    from matplotlib.figure import Figure

    from toolkit.attention.parse_pattern import parse_pattern
    from toolkit.files import writing

    columns = 4
    figure = Figure(figsize=(10, 2.75 * (len(PATTERNS) // columns)), layout="constrained", dpi=110)
    for panel, text in zip(figure.subplots(len(PATTERNS) // columns, columns).flat, PATTERNS, strict=True):
        panel.imshow(~parse_pattern(text).mask(LENGTH, LENGTH)[0, 0], cmap="gray", vmin=-0.35, vmax=1)
        panel.set_title(text if len(text) < 34 else text.replace(" | ", " |\n", 1).replace("[[", "\n[[", 1), fontsize=7)
        panel.set_xticks([x - 0.5 for x in range(LENGTH)], [])
        panel.set_yticks([x - 0.5 for x in range(LENGTH)], [])
        panel.grid(color="0.85", linewidth=0.4)
        panel.tick_params(length=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        figure.savefig(file, format="png")
    return path


if __name__ == "__main__":
    import click

    from toolkit.results import checkout

    click.echo(draw(checkout() / "docs" / "images" / "patterns.png"))
