"""What compare does in processes beside training: trying each variant for a step, and timing all of them by turns."""

from __future__ import annotations

import gc
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit import provenance
from toolkit.files import writing
from toolkit.seed_runs import SeedRun, read_json

ROUNDS = 3
"""How often each variant has its turn, so that a busy moment of the machine does not fall on one of them alone."""

STEPS, SECONDS = 20, 4.0
"""Steps of each kind that are timed in a turn, or as many as fit into so many seconds."""


@dataclass(frozen=True)
class Timing:
    """The timing of all variants: it is only good for comparing if one process made it at one time."""

    variants: dict[str, SeedRun] = field(compare=False)
    path: Path
    label: str = "timing"

    @property
    def identities(self) -> dict[str, str]:
        return {name: job.identity for name, job in self.variants.items()}

    def read(self) -> dict[str, dict[str, Any]] | None:
        """Return the stored times by variant, if they are of these variants, code, versions and machine; else None."""
        found = read_json(self.path) or {}
        known = found.get("identities", {})
        if any(known.get(name) != wanted for name, wanted in self.identities.items()):
            return None
        if found.get("machine") != _machine():  # nothing is stored either where no variant was left to time
            return None
        times: dict[str, dict[str, Any]] = found["times"]
        return times


def check(job: SeedRun, threads: int | None) -> None:
    """Take one step of a variant, and store its number of weights and the names of its metrics."""
    _limit(threads)
    found = asdict(_Stage().rehearse(job))
    facts = {key: found[key] for key in ("parameters", "metrics", "device")}
    _write(job.path, {"identity": job.identity, "seed": job.seed, **facts})


def time_all(job: Timing, threads: int | None) -> None:
    """Time the steps of all variants by turns, on one thread of the CPU where they run on it, and store them."""
    _limit(1)
    stage = _Stage()
    seen: dict[str, list[Any]] = {name: [] for name in job.variants}
    for _ in range(ROUNDS):
        for name, variant in job.variants.items():
            seen[name].append(stage.rehearse(variant, timed=STEPS, seconds=SECONDS))
    times = {
        name: {
            "step_seconds": _quartiles([value for turn in turns for value in turn.train_seconds]),
            "inference_seconds": _quartiles([value for turn in turns for value in turn.inference_seconds]),
            "device": turns[0].device,
        }
        for name, turns in seen.items()
    }
    facts = {"rounds": ROUNDS, "threads": 1, "date": provenance.now(), "machine": _machine()}
    _write(job.path, {"identities": job.identities, "times": times, **facts})


class _Stage:
    """Rehearses one variant after the other, and reads data that several share once."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def rehearse(self, job: SeedRun, **how: Any) -> Any:
        import pytorch_lightning as pl
        import torch

        from toolkit.assemble import build_data
        from toolkit.recipe import from_document
        from toolkit.rehearsal import rehearse
        from toolkit.resolve import resolve
        from toolkit.surroundings import quiet_libraries

        resolved = resolve(from_document(job.document, job.origin))
        with quiet_libraries():
            pl.seed_everything(resolved.seed, workers=True, verbose=False)
            key = json.dumps(resolved.document["data"], sort_keys=True, default=str)
            if key not in self.data:
                self.data[key] = build_data(resolved)
            found = rehearse(resolved, self.data[key], **how)
        gc.collect()  # the trainer and its task hold each other, and the device's memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return found


def _machine() -> dict[str, Any]:
    """Return what times depend on; one process may see fewer of several equal accelerators than another."""
    hardware = provenance.hardware()
    return {"processor": hardware["processor"], "accelerators": sorted(set(hardware["accelerators"]))}


def _limit(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _quartiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median with the quartiles around it; None without steps: a recipe need not validate."""
    if not values:
        return None
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": median, "low": low, "high": high, "count": len(values)}


def _write(path: Path, facts: dict[str, Any]) -> None:
    with writing(path) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())
