"""bAbI one task at a time: runs of a recipe for each task, some ways and seeds, chosen by validation, tested once.

Run: python benchmarks/babi.py PLACE [--recipe babi] [--tasks 1 2 ...] [--ways position ...] [--seeds 1] [KEY=VALUE ...]

PLACE is the folder that holds en-10k. Of the runs of a task the one with the lowest validation error counts, the lowest
validation loss where errors are equal (arXiv:1503.08895, sec. 4.2, takes the lowest training error of ten). Runs that
are there already are not trained again. Writes FOLDER/babi.json and prints the table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from toolkit.files import writing
from toolkit.plugins import Toolkit, using
from toolkit.recipe import load
from toolkit.run import train
from toolkit.run_directory import RunDirectory
from toolkit.trained import evaluate

SOLVED = 0.05
SINGLE = ["data.batch_size=64", "schedule.warmup=100"]
WAYS = {
    "position": ["model.encoding=position", "model.linear_start=4"],
    "learned": ["model.linear_start=10", "trainer.max_epochs=36"],
    "sigmoid": ["attention.normalize=sigmoid", "model.linear_start=0", "trainer.max_epochs=30"],
    "small": ["model.dim=32", "model.linear_start=8", "trainer.max_epochs=60"],
}
"""What each way changes of the recipe, beside what all runs of a single task do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--recipe", default="babi")
    parser.add_argument("--tasks", type=int, nargs="+", default=[task for task in range(1, 21) if task != 3])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/babi"))
    given = parser.parse_intermixed_args()
    toolkit = Toolkit()
    toolkit.load_entry_points()
    rows = []
    with using(toolkit):
        for task in given.tasks:
            tried = [trained(given, toolkit, task, way, seed) for way in given.ways for seed in range(given.seeds)]
            chosen = min(tried, key=lambda each: (each["val_error"], each["val_loss"]))
            test = evaluate(chosen["run"], []).metrics["test/mean_task_error"]
            rows.append({**chosen, "test_error": test, "tried": len(tried)})
            print(
                f"task {task:2}: error {test:6.2%}, on validation {chosen['val_error']:6.2%} "
                f"({chosen['way']}, seed {chosen['seed']}, of {len(tried)})"
            )
    solved = sum(row["test_error"] <= SOLVED + 1e-6 for row in rows)
    mean = sum(row["test_error"] for row in rows) / len(rows)
    report: dict[str, Any] = {"recipe": given.recipe, "overrides": given.overrides, "solved": solved, "mean": mean}
    with writing(given.runs / "babi.json") as file:
        file.write(json.dumps({**report, "tasks": rows}, indent=1).encode())
    print(f"{solved} of {len(rows)} tasks solved (error of 5 % at most), mean error {mean:.2%}")


def trained(given: argparse.Namespace, toolkit: Toolkit, task: int, way: str, seed: int) -> dict[str, Any]:
    """Train a task, unless that is done; nothing is tested yet."""
    overrides = [f"data.folder={given.place}", f"data.tasks=[{task}]", f"seed={seed}", *SINGLE, *WAYS[way]]
    folder = given.runs / f"qa{task}-{way}-{seed}"
    begun = time.perf_counter()
    if not folder.exists():
        train(load(given.recipe, toolkit, [*overrides, *given.overrides]), out=folder, quiet=True, test=False)
    found = RunDirectory(folder).state()
    return {
        "task": task,
        "way": way,
        "seed": seed,
        "run": str(folder),
        "val_error": found["metrics"]["val/mean_task_error"],
        "val_loss": found["metrics"]["val/loss"],
        "seconds": round(time.perf_counter() - begun, 1),
    }


if __name__ == "__main__":
    main()
