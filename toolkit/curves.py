"""Learning curves as a picture in the run directory."""

from __future__ import annotations

from pathlib import Path

from toolkit.files import writing
from toolkit.loggers import Rows, read_rows


def draw(run_directory: Path, best_epoch: int | None = None) -> Path | None:
    """Draw `curves.png` from `metrics.csv`: losses on the left, the other metrics on the right, the best epoch marked.

    Returns the picture's path, or None if there are fewer than two epochs to draw.
    """
    from matplotlib.figure import Figure

    log = run_directory / "metrics.csv"
    rows = read_rows(log) if log.exists() else []
    losses, others = _series(rows, loss=True), _series(rows, loss=False)
    if not losses or max(len(points) for points in losses.values()) < 2:
        return None
    figure = Figure(figsize=(10 if others else 5.5, 3.6), layout="constrained", dpi=120)
    panels = figure.subplots(1, 2 if others else 1, squeeze=False)[0]
    for panel, series, title in zip(panels, (losses, others), ("loss", "metrics"), strict=False):
        for name, points in series.items():
            epochs, values = zip(*points, strict=True)
            panel.plot(epochs, values, label=name, linewidth=1.3)
        if best_epoch is not None and best_epoch >= 0:
            panel.axvline(best_epoch, color="0.5", linestyle=":", linewidth=1, label=f"best (epoch {best_epoch})")
        panel.set(xlabel="epoch", title=title)
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=8)
    path = run_directory / "curves.png"
    with writing(path) as file:
        figure.savefig(file, format="png")
    return path


def _series(rows: Rows, *, loss: bool) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            whole = name.count("/") == 1  # the parts of a metric, such as each task's, would be too many lines
            if whole and name.startswith(("train/", "val/")) and name.endswith("/loss") == loss and "epoch" in row:
                series.setdefault(name, []).append((row["epoch"], value))
    return series
