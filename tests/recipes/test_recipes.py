"""Every recipe that comes with the package runs its smoke, and no number in a recipe is a dead knob."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import checkpoint, yamlfile
from toolkit.plugins import Toolkit, using
from toolkit.recipe import Recipe, load
from toolkit.resolve import resolve
from toolkit.run import train
from toolkit.trained import evaluate, open_run, predict

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
CPU = ["trainer.accelerator=cpu", "loggers=[]"]
BUILT_IN = ("graph:karate", "text:dates", "text:stories", "text:python")
"""Data that needs nothing from anywhere."""
SHARES = ("accuracy", "auroc", "macro_f1", "exact_match")
"""Metrics that lie between 0 and 1; the others are numbers of any size."""


def is_built_in(path: Path) -> bool:
    document: Any = yamlfile.load_file(path)[0]
    data = {**document["data"], **(document["smoke"].get("data") or {})}
    return data["use"] in BUILT_IN


@pytest.fixture
def toolkit() -> Iterator[Toolkit]:
    fresh = Toolkit()
    fresh.load_entry_points()
    with using(fresh):
        yield fresh


# Smoke --------------------------------------------------------------------------------------------------------------


def test_recipes_are_found_and_registered(toolkit):
    assert len(FILES) >= 7
    registered = {entry.target for entry in toolkit.registry.all("recipes")}
    assert {f"toolkit_recipes:{path.relative_to(ROOT / 'recipes')}" for path in FILES} <= registered
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# "), f"{path.name} has no header"
        assert f"toolkit train {path.stem}" in text
        assert load(path.stem, toolkit).name == path.stem


def smokes() -> list[Any]:
    return [pytest.param(path, id=path.stem, marks=[] if is_built_in(path) else [pytest.mark.index]) for path in FILES]


@pytest.mark.parametrize("path", smokes())
def test_smoke_trains_restores_evaluates_and_predicts(path, toolkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
    recipe = load(str(path), toolkit, CPU, smoke=True)
    result = train(recipe, quiet=True)
    assert result.finished
    metric = resolve(recipe).document["expect"]["metric"]
    assert math.isfinite(result.metrics[metric])
    assert metric.partition("/")[2] not in SHARES or 0.0 <= result.metrics[metric] <= 1.0

    restored = checkpoint.restore(result.directory)
    assert restored.payload.recipe["name"] == path.stem
    assert evaluate(result.directory, []).metrics[metric] == pytest.approx(result.metrics[metric], abs=1e-6)
    rows = list(predict(result.directory, []))
    data = open_run(result.directory, [])[1]
    batches = data.predict_dataloader()  # of which each row is one of the items; a window has many targets
    assert len(rows) == sum(len(getattr(batch, "row", batch.target)) for batch in batches) > 0
    number = restored.task.item_column
    assert number is None or [row[number] for row in rows] == sorted({row[number] for row in rows})
    for row in rows[:50]:
        assert json.loads(json.dumps(row)) == row  # plain values, as files of predictions hold them
        if "classes" in restored.task.reads_spec:
            assert row["class"] in restored.payload.spec["classes"]
            assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("path", smokes())
def test_the_baseline_of_a_recipe_trains_too(path, toolkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
    recipe = load(str(path), toolkit, CPU, smoke=True)
    baseline = recipe.changed(recipe.section("baseline"), "baseline")
    assert train(baseline, quiet=True).finished


# Dead knobs ---------------------------------------------------------------------------------------------------------
# Changing a number of a recipe changes the weights after a short training, or the number of epochs.

SECTIONS = ("data", "model", "attention", "optimizer", "schedule", "trainer", "stop")

BASES = {
    "gat_karate": [
        *("model.value_dropout=0.1", "task.label_smoothing=0.1", "model.num_layers=3"),
        *("data.batch_size=2", "data.neighbors=[3, 3, 3]", "schedule={use: cosine, warmup: 2, total_steps: 40}"),
        *("stop={monitor: val/loss, patience: 2, min_delta: 0.5}", "trainer.max_epochs=6"),
        "trainer.gradient_clip_val=0.01",
    ],
    "digits": [
        *("attention.scale=0.4", "schedule.warmup=2", "schedule.total_steps=40", "schedule.floor=0.1"),
        *("trainer.limit_train_batches=4", "trainer.limit_val_batches=1", "trainer.max_epochs=3"),
        *("stop={monitor: val/loss, patience: 1, min_delta: 5.0}", "trainer.gradient_clip_val=0.01"),
    ],
}
"""Recipes with settings under which every knob has something to turn: clipping that clips, stopping that stops."""

CHANGES: dict[str, float | int] = {
    "optimizer.eps": 1e-2,  # 1e-8 beside gradients of ordinary size: only a large change shows in 32 bits
    "model.heads": 2,
    "model.hidden": 16,
    "model.num_layers": 2,
    "model.output_heads": 2,
    "trainer.gradient_clip_val": 0.005,
    "trainer.max_epochs": 1,  # more would not help where `stop` ends training first
    "stop.patience": 3,
    "stop.min_delta": 0.0,
}
"""What a knob is turned to, where the usual change is no valid value or shows nothing."""

ALONG = {"model.num_layers": ["data.neighbors=[3, 3]"]}
"""What must turn with a knob: a network of another depth needs another list of neighbours."""

SKIPPED = {
    "trainer.devices": "another number of devices is another machine; tests/plugins/graph/test_two_processes.py",
    "trainer.log_every_n_steps": "decides what is written, not what is learned",
    "trainer.num_sanity_val_steps": "looks at validation before training and keeps nothing",
    "trainer.limit_val_batches": "changes what stops training, not the weights: stop.min_delta turns that",
    "data.workers": "processes that make the same batches",
}


def numbers(document: Mapping[str, Any]) -> dict[str, float | int | list[Any]]:
    """Return every numeric key of the sections, by its path; a list of numbers counts as one."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        for key, value in (document.get(section) or {}).items():
            listed = isinstance(value, list) and value and all(type(item) in (int, float) for item in value)
            if listed or type(value) in (int, float):
                found[f"{section}.{key}"] = value
    return found


def turned(key: str, value: Any) -> Any:
    if key in CHANGES:
        return CHANGES[key]
    if isinstance(value, list):
        return [turned(f"{key}[]", item) for item in value]
    if isinstance(value, int):
        return value * 2 if key.endswith("batch_size") else value + 1  # one more item may make no step less
    return value / 2 if value else 0.1


def trained(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[torch.Tensor]]:
    """Return the epochs and the last weights of a short training."""
    monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
    result = train(recipe, out=folder, quiet=True, test=False)
    last = checkpoint.read(result.directory / "checkpoints" / "last.ckpt")
    return int(last["epoch"]), list(last["state_dict"].values())


@pytest.mark.parametrize("name", BASES)
def test_no_number_is_a_dead_knob(name, digits_toolkit, tmp_path, monkeypatch):
    recipe = load(name, digits_toolkit, [*CPU, *BASES[name]])
    knobs = numbers(resolve(recipe).document)
    assert len(knobs) >= 15
    epochs, weights = trained(recipe, tmp_path / "as it is", monkeypatch)
    repeated = trained(recipe, tmp_path / "again", monkeypatch)
    assert repeated[0] == epochs
    assert all(torch.equal(one, other) for one, other in zip(weights, repeated[1], strict=True))
    dead = []
    for key, value in knobs.items():
        if key in SKIPPED:
            continue
        turn = f"{key}={yamlfile.dump(turned(key, value)).splitlines()[0]}"
        changed = recipe.with_overrides([turn, *(ALONG.get(key, []) if name == "gat_karate" else [])])
        assert numbers(resolve(changed).document)[key] != value, f"{key} was not turned"
        now, other = trained(changed, tmp_path / key, monkeypatch)
        same = [one.shape for one in weights] == [two.shape for two in other]
        if now == epochs and same and all(torch.equal(one, two) for one, two in zip(weights, other, strict=True)):
            dead.append(key)
    assert not dead, f"turning these changes nothing: {', '.join(dead)}"


def test_what_is_skipped_exists(digits_toolkit):
    known = set()
    for name, settings in BASES.items():
        known |= set(numbers(resolve(load(name, digits_toolkit, [*CPU, *settings])).document))
    assert set(SKIPPED) <= known
    assert set(CHANGES) <= known
