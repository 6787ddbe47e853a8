"""Time and memory of our layers beside other packages': paired steps in one process, memory in fresh ones, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from attention_peers.packages import missing
from attention_peers.pairs import BLOCK, KINDS, Kind, Pair, check
from toolkit.bench.attention import Row
from toolkit.bench.measure import Step, paired, peak_mib, run_apart, seconds
from toolkit.files import writing

LENGTHS = (1024, 4096)
DRAWN_LENGTHS = (512, 1024, 2048, 4096, 8192)
DRAWN = (
    "x-transformers flash, causal",
    "local-attention, window",
    "performer-pytorch",
    "linformer",
    "nystrom-attention",
)
ENTRY = Path(__file__).parents[1] / "attention.py"
Side = Literal["ours", "peer"]
SIDES: tuple[Side, ...] = ("ours", "peer")


@dataclass(frozen=True)
class Point:
    """Forward and backward of one side at one length: seconds, and MiB above what the process held before."""

    kind: str
    side: str
    length: int
    seconds: float
    above_start_mib: float


def absent(kinds: dict[str, Kind]) -> dict[str, str]:
    """Return the packages that cannot be compared with, and why."""
    found = {kind.package: missing(kind.package) for kind in kinds.values()}
    return {package: why for package, why in found.items() if why}


def rows(kinds: dict[str, Kind], lengths: tuple[int, ...], pairs: int) -> Iterator[Row]:
    """Compare each kind at each length, after asserting equal outputs where both compute the same.

    Kinds whose package is missing, and lengths that a peer's memory forbids, are left out: `absent` and `Kind.most`.
    """
    gone = absent(kinds)
    for name, kind in kinds.items():
        for length in lengths if kind.package not in gone else ():
            if length > kind.most:
                continue
            check(kind, min(length, 2 * BLOCK))
            pair = kind.make(length)
            for what, steps in (
                ("forward", [forward(pair, side) for side in SIDES]),
                ("forward + backward", both(pair)),
            ):
                found = paired(*steps, pairs=pairs)
                yield Row("peers", f"{name}, L = {length}, {what}", found.plain() | {"length": length})
            yield Row("peers", f"{name}, L = {length}, memory", memory(name, length) | {"length": length})
            if kind.differs:
                yield Row("peers", f"{name}, L = {length}, difference", difference(pair) | {"length": length})


def forward(pair: Pair, side: Side) -> Step:
    """Return a step that attends without gradients."""

    def step() -> None:
        with torch.no_grad():
            getattr(pair, side)(*pair.inputs)

    return step


def both(pair: Pair) -> list[Step]:
    """Return steps of both sides that attend and send gradients to inputs and weights."""
    return [_trained(pair, side) for side in SIDES]


def _trained(pair: Pair, side: Side) -> Step:
    leaves = [*pair.inputs, *pair.modules[SIDES.index(side)].parameters()]
    attend = getattr(pair, side)
    return lambda: torch.autograd.grad(attend(*pair.inputs).sum(), leaves, allow_unused=True)


@torch.no_grad()
def difference(pair: Pair) -> dict[str, float]:
    """Return how far the outputs are apart, relative to the peer's, and what both miss where that is known.

    Inputs are halved: queries and keys then have the deviation of 1/2 for which mechanisms declare what they miss.
    """
    inputs = [each / 2 for each in pair.inputs]
    ours, peer = (attend(*inputs) for attend in (pair.ours, pair.peer))
    found = {"relative_difference": float((ours - peer).norm() / peer.norm())}
    if pair.missed is None:
        return found
    return found | {"ours_missed": pair.missed(*inputs, ours), "peer_missed": pair.missed(*inputs, peer)}


def memory(name: str, length: int) -> dict[str, float]:
    """Return the MiB that forward and backward of each side take in a process of its own, and peer / ours."""
    ours, peer = (apart(name, side, length)["above_start_mib"] for side in SIDES)
    return {"ours_mib": ours, "peer_mib": peer, "ratio": peer / max(ours, 0.1)}


def apart(name: str, side: str, length: int) -> dict[str, Any]:
    """Weigh one side in a fresh process."""
    return run_apart([str(ENTRY), f"--threads={torch.get_num_threads()}", "--weigh", name, side, str(length)])


def weigh(name: str, side: str, length: int) -> dict[str, float]:
    """Weigh one side in this process: the best of three times, and the peak above what was held before."""
    chosen: Side = "ours" if side == "ours" else "peer"
    small, pair = (KINDS[name].make(size) for size in (min(length, BLOCK), length))
    _trained(small, chosen)()  # libraries are loaded by now
    step = _trained(pair, chosen)
    start = peak_mib()
    best = min(seconds(step) for _ in range(3))
    return {"seconds": best, "above_start_mib": max(peak_mib() - start, 0.1)}


def points(kinds: dict[str, Kind], lengths: tuple[int, ...] = DRAWN_LENGTHS) -> Iterator[Point]:
    """Weigh both sides of each kind at each length, one process a point."""
    gone = absent(kinds)
    for name, kind in kinds.items():
        for length in lengths if kind.package not in gone else ():
            if length <= kind.most:
                for side in SIDES:
                    yield Point(name, side, length, **apart(name, side, length))


def draw(found: list[Point], path: Path, *, device: str) -> Path:
    """Draw time and memory against length, a column for each kind, on logarithmic axes."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point.kind for point in found))
    figure = Figure(figsize=(2.6 * len(names), 4.6), layout="constrained", dpi=110)
    panels = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row")
    for line, (unit, title) in enumerate((("seconds", "seconds"), ("above_start_mib", "MiB"))):
        panels[line][0].set_ylabel(title)
        for panel, name in zip(panels[line], names, strict=True):
            for side, style in (("ours", "o-"), ("peer", "s--")):
                some = [point for point in found if (point.kind, point.side) == (name, side)]
                panel.plot(
                    [point.length for point in some],
                    [getattr(point, unit) for point in some],
                    style,
                    markersize=3,
                    label=side,
                )
            panel.set(xscale="log", yscale="log")
            panel.set_xscale("log", base=2)
            panel.grid(alpha=0.25)
            if line == 0:
                panel.set_title(name.replace(", ", ",\n"), fontsize=8)
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.supxlabel(f"length; forward + backward, {device}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        figure.savefig(file, format="png")
    return path
