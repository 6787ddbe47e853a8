"""What base task, Lightning, logging and checkpoints add to a hand-written loop of the same model on the same data.

    python benchmarks/graph.py --overhead        # with the rest
    python benchmarks/graph_overhead.py          # alone

Both train `gat_cora` for 200 epochs with a validation after each, on batches and model that are the same objects'
makings: same recipe, same seed. The hand-written loop trains, evaluates, reads loss and accuracy, and keeps a copy of
the best weights; ours is `Trainer.fit` as `toolkit train` calls it, with CSV and TensorBoard logs and both checkpoints.
Building data and model is in neither. Loops alternate; the ratio is the median of the rounds' ratios.

The hand-written loop evaluates under `torch.no_grad`, as PyG's examples do and as Lightning does within `fit`: what a
model caches in validation may be needed by the next step's backward pass. A loop that knows its model may use
`torch.inference_mode`, which is faster; the ratio to that is printed too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from toolkit import recipe, run
from toolkit.assemble import build_data, build_task
from toolkit.data import Data
from toolkit.plugins import current_toolkit
from toolkit.resolve import Resolved, resolve

Clock = Callable[[], float]
Context = Callable[[], AbstractContextManager[None]]


def by_hand(
    resolved: Resolved, data: Data, epochs: int, clock: Clock, without_gradients: Context = torch.no_grad
) -> float:
    """Train in a plain loop. Returns seconds."""
    pl.seed_everything(resolved.seed, verbose=False)
    model = build_task(resolved.document, data.spec).model
    optimizer = resolved.optimization.optimizer.build(model.parameters())
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    best, kept = -1.0, {}
    start = clock()
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(train), train.target)
        loss.backward()
        optimizer.step()
        model.eval()
        with without_gradients():
            logits = model(val)
            F.cross_entropy(logits, val.target).item()
            accuracy = (logits.argmax(-1) == val.target).float().mean().item()
        loss.item()
        if accuracy > best:
            best, kept = accuracy, {name: weight.clone() for name, weight in model.state_dict().items()}
    seconds = clock() - start
    assert kept
    return seconds


def by_toolkit(chosen: recipe.Recipe, clock: Clock) -> float:
    """Train as `toolkit train` does. Returns the seconds that `Trainer.fit` took."""
    fit, taken = pl.Trainer.fit, []

    def timed(*arguments: object, **named: object) -> None:
        start = clock()
        fit(*arguments, **named)  # type: ignore[arg-type]
        taken.append(clock() - start)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(pl.Trainer, "fit", timed):
        run.train(chosen, out=Path(folder) / "run", quiet=True, test=False)
    return taken[0]


def measure(epochs: int = 200, pairs: int = 7, clock: Clock = time.perf_counter) -> dict[str, object]:
    """Alternate the two loops. Returns medians in ms an epoch, and the median and quartiles of ours / by hand."""
    chosen = recipe.load("gat_cora", current_toolkit(), [f"trainer.max_epochs={epochs}", "stop=null"])
    resolved = resolve(chosen)
    data = build_data(resolved)
    rounds = [
        (
            by_hand(resolved, data, epochs, clock),
            by_toolkit(chosen, clock),
            by_hand(resolved, data, epochs, clock, torch.inference_mode),
        )
        for _ in range(pairs + 1)
    ][1:]  # the first round warms up
    ratios = [ours / hand for hand, ours, _ in rounds]
    hand, ours, inference = (1e3 * statistics.median(times) / epochs for times in zip(*rounds, strict=True))
    return {
        "epochs": epochs,
        "hand_ms": hand,
        "toolkit_ms": ours,
        "hand_inference_mode_ms": inference,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "ratio_to_inference_mode": statistics.median(ours / inference for _, ours, inference in rounds),
    }


def line(found: dict[str, object]) -> str:
    """Return the measurement as one line."""
    return (
        f"overhead over {found['epochs']} epochs of gat_cora: by hand {found['hand_ms']:.2f} ms an epoch, "
        f"toolkit {found['toolkit_ms']:.2f}, ratio {found['ratio']:.3f} "
        f"(quartiles {found['ratio_quartiles'][0]:.3f} to {found['ratio_quartiles'][1]:.3f}); "  # type: ignore[index]
        f"to a loop under inference_mode ({found['hand_inference_mode_ms']:.2f} ms) "
        f"{found['ratio_to_inference_mode']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, for both")
    parser.add_argument(
        "--processor-time", action="store_true", help="count processor time: steadier on a busy machine"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = measure(given.epochs, given.pairs, time.process_time if given.processor_time else time.perf_counter)
    print(json.dumps(found, indent=2) if given.json else line(found))


if __name__ == "__main__":
    main()
