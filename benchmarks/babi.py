"""bAbI one task at a time: a run of a recipe for each task and seed, chosen by validation, tested once.

Run: python benchmarks/babi.py PLACE [--recipe babi] [--tasks 1 2 ...] [--seeds 1] [--runs FOLDER] [KEY=VALUE ...]

PLACE is the folder that holds en-10k. Of several seeds of a task the one with the lower validation error counts, the
lower validation loss where errors are equal (arXiv:1503.08895, sec. 4.2, takes the lowest training error of ten). Runs
that are there already are not trained again. Writes FOLDER/babi.json and prints the table.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--recipe", default="babi")
    parser.add_argument("--tasks", type=int, nargs="+", default=[task for task in range(1, 21) if task != 3])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/babi"))
    given = parser.parse_intermixed_args()
    toolkit = Toolkit()
    toolkit.load_entry_points()
    rows = []
    with using(toolkit):
        for task in given.tasks:
            tried = [trained(given, toolkit, task, seed) for seed in range(given.seeds)]
            chosen = min(tried, key=lambda each: (each["val_error"], each["val_loss"]))
            test = evaluate(chosen["run"], []).metrics["test/mean_task_error"]
            rows.append({**chosen, "test_error": test, "tried": len(tried)})
            print(
                f"task {task:2}: test error {test:6.2%}, validation {chosen['val_error']:6.2%}, seed {chosen['seed']}"
            )
    solved = sum(row["test_error"] <= SOLVED + 1e-6 for row in rows)
    mean = sum(row["test_error"] for row in rows) / len(rows)
    report: dict[str, Any] = {"recipe": given.recipe, "overrides": given.overrides, "solved": solved, "mean": mean}
    with writing(given.runs / "babi.json") as file:
        file.write(json.dumps({**report, "tasks": rows}, indent=1).encode())
    print(f"{solved} of {len(rows)} tasks solved (error of 5 % at most), mean error {mean:.2%}")


def trained(given: argparse.Namespace, toolkit: Toolkit, task: int, seed: int) -> dict[str, Any]:
    """Train a task, unless that is done; nothing is tested yet."""
    overrides = [f"data.folder={given.place}", f"data.tasks=[{task}]", f"seed={seed}", *given.overrides]
    folder = given.runs / f"qa{task}-{seed}"
    begun = time.perf_counter()
    if not folder.exists():
        train(load(given.recipe, toolkit, overrides), out=folder, quiet=True, test=False)
    found = RunDirectory(folder).state()
    return {
        "task": task,
        "seed": seed,
        "run": str(folder),
        "val_error": found["metrics"]["val/mean_task_error"],
        "val_loss": found["metrics"]["val/loss"],
        "seconds": round(time.perf_counter() - begun, 1),
    }


if __name__ == "__main__":
    main()
