"""Time and memory of mechanisms against length, measured one process a point, and drawn."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toolkit.attention import build, causal
from toolkit.bench.measure import apart, peak_mib, seconds
from toolkit.files import writing

HEADS, HEAD_DIM = 8, 64
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
MECHANISMS: dict[str, dict[str, Any]] = {
    "scaled_dot_product": {},
    "sliding_window": {"window": 256},
    "linear": {},
    "performer": {"features": 128},
    "linformer": {"projected_length": 256, "max_length": LENGTHS[-1]},
    "nystrom": {"landmarks": 64},
}
CAUSAL = ("scaled_dot_product", "sliding_window", "linear", "performer")


@dataclass(frozen=True)
class Point:
    """Forward and backward of one mechanism at one length: seconds, and MiB above what the process held before."""

    name: str
    length: int
    seconds: float
    mib: float


def points(names: tuple[str, ...] = tuple(MECHANISMS), lengths: tuple[int, ...] = LENGTHS) -> Iterator[Point]:
    """Measure each mechanism at each length, batch 1, 8 heads of 64, causal where it can be."""
    for name in names:
        for length in lengths:
            yield Point(name, length, **apart(__name__, name, str(length), str(torch.get_num_threads())))


def draw(found: list[Point], path: Path, *, device: str) -> Path:
    """Draw time and memory against length, both on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    for panel, unit, title in zip(figure.subplots(1, 2), ("seconds", "mib"), ("time (s)", "memory (MiB)"), strict=True):
        for name in dict.fromkeys(point.name for point in found):
            line = [point for point in found if point.name == name]
            panel.plot(
                [point.length for point in line],
                [getattr(point, unit) for point in line],
                marker="o",
                markersize=3,
                label=name,
            )
        panel.set(xscale="log", yscale="log", xlabel="length", title=f"forward + backward, {title}, {device}")
        panel.set_xscale("log", base=2)
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        figure.savefig(file, format="png")
    return path


def measure(name: str, length: int) -> dict[str, float]:
    """Measure one point in this process: the best of three times, and the peak above the start."""
    attend = build(name, heads=HEADS, dim=HEAD_DIM, **MECHANISMS[name])
    pattern = causal() if name in CAUSAL else None

    def step(length: int) -> None:
        inputs = [torch.randn(1, HEADS, length, HEAD_DIM, requires_grad=True) for _ in range(3)]
        torch.autograd.grad(attend(*inputs, pattern).values.sum(), inputs)

    step(512)  # libraries are loaded by now
    start = peak_mib()
    best = min(seconds(lambda: step(length)) for _ in range(3))
    return {"seconds": best, "mib": max(peak_mib() - start, 0.1)}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
