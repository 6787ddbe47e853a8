"""A comparison as a picture: quality against what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolkit.compare_report import Report, Row
from toolkit.files import writing

COSTS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("training step, ms", lambda row: row.step_seconds["median"] * 1e3 if row.step_seconds else None),
    ("inference, ms", lambda row: row.inference_seconds["median"] * 1e3 if row.inference_seconds else None),
    ("trained weights", lambda row: row.parameters),
)
WIDE = 10.0
"""Costs that differ by more than this factor are drawn on a logarithmic axis."""


def draw(report: Report, path: Path) -> Path | None:
    """Draw the metric of each variant, with its spread over seeds, over each of its costs.

    Returns the picture's path, or None if nothing was trained.
    """
    from matplotlib.figure import Figure

    metric = f"{report.stages[-1]}/{report.metric}"
    shown = [row for row in report.rows if metric in row.metrics]
    if not shown:
        return None
    figure = Figure(figsize=(4.6 * len(COSTS), 4.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(COSTS), sharey=True, squeeze=False)[0]
    for panel, (title, cost) in zip(panels, COSTS, strict=True):
        costs = [cost(row) for row in shown]
        for number, (row, at) in enumerate(zip(shown, costs, strict=True)):
            if at is not None:
                summary = row.metrics[metric]
                panel.errorbar(
                    at, summary.mean, yerr=summary.std, fmt="o", capsize=3, color=f"C{number % 10}", label=_name(row)
                )
        known = [at for at in costs if at]
        if known and max(known) > WIDE * min(known):
            panel.set_xscale("log")
        panel.set(xlabel=title)
        panel.grid(alpha=0.25)
    better = "more" if report.better == "max" else "less"
    seeds = len(report.seeds)
    panels[0].set(ylabel=f"{metric} ({better} is better)")
    figure.suptitle(f"{report.recipe}: mean and spread over {seeds} seed{'s' * (seeds > 1)}", fontsize=10)
    handles, labels = panels[-1].get_legend_handles_labels()  # the number of weights is known of all
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=8)
    with writing(path) as file:
        figure.savefig(file, format="png")
    return path


def _name(row: Row) -> str:
    return next(iter(row.values.values())) if len(row.values) == 1 else row.label
