"""Comparison: its numbers are those of single runs, what does not fit is never trained, what is stored is not again."""

from __future__ import annotations

import json
import os
import signal

import pytest

from toolkit import run
from toolkit.compare import compare
from toolkit.compare_grid import span
from toolkit.errors import RecipeError, RunError
from toolkit.recipe import load
from toolkit.statistics import paired_difference
from toolkit.task import Task

TINY = ["trainer.max_epochs=2", "trainer.limit_train_batches=3", "schedule=null", "trainer.accelerator=cpu"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def folder(digits_toolkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _compare(toolkit, *overrides, seeds=2, **options):
    return compare(span("digits", [*TINY, *overrides], toolkit), seeds=seeds, **options)


def test_numbers_are_those_of_single_runs(digits_toolkit, inline, tmp_path):
    report = _compare(digits_toolkit, "model.hidden=8,16", "seed=3")
    assert (report.metric, report.better, report.seeds, report.stages) == ("accuracy", "max", [3, 4], ["val", "test"])
    singles = {}
    for hidden in (8, 16):
        for seed in (3, 4):
            recipe = load("digits", digits_toolkit, [*TINY, f"model.hidden={hidden}", f"seed={seed}"])
            singles[hidden, seed] = run.train(recipe, out=tmp_path / f"{hidden}-{seed}", quiet=True).metrics
    for row, hidden in zip(report.rows, (8, 16), strict=True):
        assert (row.status, row.values) == ("trained", {"model.hidden": str(hidden)})
        assert {seed: facts["metrics"] for seed, facts in row.seeds.items()} == {
            seed: pytest.approx(singles[hidden, seed], abs=0) for seed in (3, 4)
        }
        for name in ("val/accuracy", "test/accuracy", "test/loss"):
            values = [singles[hidden, seed][name] for seed in (3, 4)]
            assert row.metrics[name].mean == pytest.approx(sum(values) / 2)
            assert (row.metrics[name].min, row.metrics[name].count) == (min(values), 2)
        assert row.step_seconds["low"] <= row.step_seconds["median"] <= row.step_seconds["high"]
        assert 0 < row.inference_seconds["median"] < 10
        assert row.peak_bytes > 50e6
        embed, project, classify = 9 * hidden, 3 * hidden * (hidden + 1), 10 * (hidden + 1)
        assert row.parameters == embed + project + classify
    for name in ("val/accuracy", "test/accuracy"):
        by_seed = [[singles[hidden, seed][name] for seed in (3, 4)] for hidden in (16, 8)]
        assert report.rows[1].difference[name] == paired_difference(*by_seed)
    assert report.rows[0].difference == {}
    assert report.picture.read_bytes().startswith(PNG)
    stored = json.loads((report.directory / "table.json").read_text())
    assert stored["rows"][1]["metrics"]["val/loss"]["mean"] == report.rows[1].metrics["val/loss"].mean


def test_values_that_do_not_fit_are_listed_and_not_trained(digits_toolkit, inline):
    report = _compare(digits_toolkit, "model.hidden=wide,16,30,0", seeds=1)
    reasons = {row.values["model.hidden"]: (row.status, row.reason) for row in report.rows}
    assert reasons["16"] == ("trained", "")
    assert reasons["wide"][0] == reasons["30"][0] == reasons["0"][0] == "unfit"
    assert "model.hidden wants a whole number" in reasons["wide"][1]
    assert "RuntimeError" in reasons["30"][1], "30 is no multiple of 4 heads, which only the model's first step finds"
    assert ">= 1" in reasons["0"][1] or "> 0" in reasons["0"][1]
    assert inline.ran == ["model.hidden=16 seed 0", "timing"]


def test_every_kind_of_misfit_has_its_reason(digits_toolkit, canned):
    for override, words in {
        "attention=scaled_dot_product,nope": "unknown name 'nope'",
        "optimizer.lr=1e-3,-1": "refuses",
        "data={use: rows, batch_size: 128},{use: graph:karate}": "GraphBatch",
        "checkpoint.monitor=val/loss,val/acuracy": "nothing logs 'val/acuracy'",
        "trainer.devices=1,2": r"trainer.devices is 2",
    }.items():
        good, bad = _compare(digits_toolkit, override, seeds=1).rows
        assert (good.status, bad.status) == ("trained", "unfit"), override
        assert words in bad.reason
        assert bad.seeds == {}
        assert bad.parameters is None


def test_nothing_fits(digits_toolkit, canned):
    with pytest.raises(RecipeError, match=r"none of the 2 variants fits:\n- model.hiden=8: .*Did you mean 'hidden'"):
        _compare(digits_toolkit, "model.hiden=8,16")
    with pytest.raises(RecipeError, match=r"all for one reason: .*batch_sise"):
        _compare(digits_toolkit, "model.hidden=8,16", "data.batch_sise=3")
    assert canned.ran == []


def test_only_what_is_missing_is_trained(digits_toolkit, canned):
    first = _compare(digits_toolkit, "model.hidden=8,16")
    assert canned.ran == [f"model.hidden={hidden} seed {seed}" for seed in (0, 1) for hidden in (8, 16)] + ["timing"]

    def again(*overrides, **options):
        canned.ran.clear()
        return _compare(digits_toolkit, *overrides, **options)

    same = again("model.hidden=8,16")
    assert (canned.ran, same.reused, same.rows) == ([], 4, first.rows)
    (torn,) = (first.directory / "results").glob("model.hidden=16-*-seed-1.json")
    torn.write_text(torn.read_text()[:100])
    mended = again("model.hidden=8,16")
    assert canned.ran == ["model.hidden=16 seed 1"]
    assert mended.rows[1].metrics == first.rows[1].metrics
    again("model.hidden=8,16", seeds=3)
    assert canned.ran == ["model.hidden=8 seed 2", "model.hidden=16 seed 2"]
    more = again("model.hidden=8,16,12", seeds=1)
    assert canned.ran == ["model.hidden=12 seed 0", "timing"], "times are only comparable if they were taken together"
    assert more.directory == first.directory


def test_a_broken_run_goes_on_and_ends_the_same(digits_toolkit, untimed, monkeypatch):
    whole = run.train(load("digits", digits_toolkit, [*TINY, "model.hidden=8"]), out="whole", quiet=True)
    real, stopped = Task.on_train_epoch_end, []

    def stop_once(self):
        real(self)
        if not stopped:
            stopped.append(self.current_epoch)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Task, "on_train_epoch_end", stop_once)
    with pytest.raises(SystemExit):
        _compare(digits_toolkit, "model.hidden=8,16", seeds=1)
    assert stopped == [0]
    report = _compare(digits_toolkit, "model.hidden=8,16", seeds=1)
    assert [row.seeds[0]["resumed"] for row in report.rows] == [True, False]
    assert report.rows[0].seeds[0]["metrics"] == pytest.approx(whole.metrics, abs=0)


def test_a_run_that_fails_does_not_stop_the_others(digits_toolkit, untimed, monkeypatch):
    real = run.train

    def train(recipe, **options):
        if recipe.document["model"]["hidden"] == 8 and recipe.seed == 1:
            raise MemoryError("no room")
        return real(recipe, **options)

    monkeypatch.setattr(run, "train", train)
    report = _compare(digits_toolkit, "model.hidden=8,16")
    assert [(row.status, sorted(row.seeds)) for row in report.rows] == [("failed", [0]), ("trained", [0, 1])]
    assert report.rows[0].reason == "seed 1: MemoryError: no room"
    assert report.rows[1].difference["test/accuracy"].low is None, "one pair has no interval"
    monkeypatch.setattr(run, "train", real)
    untimed.ran.clear()
    assert [row.status for row in _compare(digits_toolkit, "model.hidden=8,16").rows] == ["trained", "trained"]
    assert untimed.ran == ["model.hidden=8 seed 1"]


def test_a_folder_of_something_else_is_refused(digits_toolkit, canned, tmp_path):
    out = tmp_path / "out"
    _compare(digits_toolkit, "model.hidden=8,16", seeds=1, out=out)
    with pytest.raises(RunError, match=r"the overrides differ: .*batch_size=50"):
        _compare(digits_toolkit, "model.hidden=8,16", "data.batch_size=50", out=out)
    with pytest.raises(RunError, match=r"keys that vary differ: model.hidden there, model.heads here"):
        _compare(digits_toolkit, "model.heads=2,4", out=out)
    with pytest.raises(RunError, match="recipe differs: 'digits' there, 'gat_karate' here"):
        compare(span("gat_karate", [*TINY, "model.hidden=8,16"], digits_toolkit), out=out)
    copy = tmp_path / "digits.yaml"
    copy.write_text(load("digits", digits_toolkit).text().replace("0.003", "0.004"))
    with pytest.raises(RunError, match="recipe has changed since"):
        compare(span(str(copy), [*TINY, "model.hidden=8,16"], digits_toolkit), out=out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no comparison"):
        _compare(digits_toolkit, "model.hidden=8,16", out=tmp_path / "full")


def test_metric_is_chosen_before_training(digits_toolkit, canned):
    with pytest.raises(RecipeError, match=r"--metric: validation does not log 'acuracy'\. Did you mean 'accuracy'"):
        _compare(digits_toolkit, "model.hidden=8,16", metric="acuracy")
    assert canned.ran == []
    report = _compare(digits_toolkit, "model.hidden=8,16", metric="val/loss", seeds=1)
    assert (report.metric, report.better) == ("loss", "min")
    assert set(report.rows[1].difference) == {"val/loss", "test/loss"}
