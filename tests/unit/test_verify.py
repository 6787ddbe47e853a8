"""Verification: seeds in their own processes, stored results, verdicts, and the table in the docs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolkit import pool, results, seed_runs
from toolkit import verify as module
from toolkit.cli.main import main
from toolkit.errors import RecipeError, RunError
from toolkit.recipe import load
from toolkit.settings import Expectation
from toolkit.statistics import Summary, summarize
from toolkit.verify import judge, verify

ROOT = Path(__file__).parents[2]

CHANGES = {
    "trainer": {"max_epochs": 2, "limit_train_batches": 3, "accelerator": "cpu"},
    "schedule": None,
    "expect": {"metric": "test/accuracy", "at_least": 0.01, "seeds": 2, "first_seed": 5},
    "baseline": {"model": {"hidden": 4}},
}


@pytest.fixture
def recipe(digits_toolkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load("digits", digits_toolkit).changed(CHANGES, "test")


def test_seeds_and_baseline_run_are_stored_and_reused(recipe, tmp_path):
    """The one test that starts processes: everything about a real verification is looked at here."""
    out, lines = tmp_path / "out", []
    first = verify(recipe, out=out, workers=2, progress=lines.append)
    assert first.verdict == "pass"
    assert sorted(first.recipe.values) == [5, 6]
    assert sorted(first.baseline.values) == [5, 6]
    assert first.difference.low <= first.difference.mean <= first.difference.high
    assert first.recipe.peak_bytes > 50e6
    assert 0 < first.wall_seconds <= first.compute_seconds + 60
    assert len(lines) == 4
    assert any("recipe seed 5" in line and "of 4" in line for line in lines)
    stored = sorted(path.name for path in out.iterdir())
    assert stored == ["baseline-seed-5.json", "baseline-seed-6.json", "recipe-seed-5.json", "recipe-seed-6.json"]
    assert not (tmp_path / "runs").exists()

    again = verify(recipe, out=out, workers=2)
    assert again.reused == 4
    assert again.recipe == first.recipe

    (out / "recipe-seed-6.json").write_text("{ broken off")
    mended = verify(recipe, out=out, workers=1)
    assert mended.reused == 3
    assert mended.recipe.values.keys() == first.recipe.values.keys()

    failing = recipe.changed({"data": {"batch_size": 10**9}, "model": {"hidden": 30}}, "test")  # 30 is no 4 heads
    with pytest.raises(RunError, match="seed 5 failed"):
        verify(failing, out=out, workers=2)
    assert not list(out.glob("*.failure"))


@pytest.fixture
def canned(monkeypatch):
    """Jobs that train nothing: the score is taken from a table by (arm, seed)."""
    scores: dict[tuple[str, int], float] = {}
    ran: list[str] = []

    def run_jobs(jobs, work, devices, workers, done):
        for job in jobs:
            ran.append(job.label)
            facts = {"identity": job.identity, "arm": job.arm, "seed": job.seed, "best_epoch": 1, "seconds": 30.0}
            facts |= {"metrics": {"test/accuracy": scores[job.arm, job.seed]}, "peak_bytes": 10**9}
            facts |= {"device_peak_bytes": 0, "versions": {"torch": "2"}, "plugins": {}}
            facts |= {"hardware": {"processor": "test", "cores": 2, "accelerators": []}}
            facts |= {"began": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:00:30+00:00"}
            job.path.parent.mkdir(parents=True, exist_ok=True)
            job.path.write_text(json.dumps(facts))
            done(job)
        return 1

    monkeypatch.setattr(module, "run_jobs", run_jobs)
    return scores, ran


def test_other_recipe_code_or_version_is_run_again(recipe, tmp_path, canned, monkeypatch):
    scores, ran = canned
    scores.update({(arm, seed): 0.5 for arm in module.ARMS for seed in (5, 6)})
    verify(recipe, out=tmp_path / "out")
    assert len(ran) == 4
    verify(recipe.changed({"summary": "Other words", "seed": 9}, "test"), out=tmp_path / "out")
    assert len(ran) == 4, "neither words nor the recipe's own seed change a result"
    verify(recipe.changed({"optimizer": {"lr": 0.1}}, "test"), out=tmp_path / "out")
    assert len(ran) == 8
    monkeypatch.setattr(seed_runs.provenance, "versions", lambda: {"torch": "another"})
    verify(recipe.changed({"optimizer": {"lr": 0.1}}, "test"), out=tmp_path / "out")
    assert len(ran) == 12
    monkeypatch.setattr(seed_runs, "code_versions", lambda document: {"core": "changed"})
    verify(recipe.changed({"optimizer": {"lr": 0.1}}, "test"), out=tmp_path / "out")
    assert len(ran) == 16


def test_code_version_follows_the_plugin_and_not_the_commands(digits_toolkit, tmp_path, monkeypatch):
    folder = tmp_path / "package"
    shutil.copytree(Path(module.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(seed_runs, "__file__", str(folder / "verify.py"))
    before = seed_runs.code_versions({"data": {"use": "digits:rows"}})
    assert sorted(before) == ["core", "digits"]
    (folder / "cli" / "list.py").write_text("# other output")
    assert seed_runs.code_versions({"data": {"use": "digits:rows"}}) == before
    (folder / "task.py").write_text("# another task")
    assert seed_runs.code_versions({"data": {"use": "digits:rows"}})["core"] != before["core"]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.84, 0.83], "pass"), ([0.83, 0.82], "fail"), ([0.99], "not decided"), ([0.9, float("nan")], "fail")],
)
def test_verdict(values, verdict):
    expect = Expectation(metric="test/accuracy", at_least=0.83, seeds=2)
    assert judge(expect, summarize(values))[0] == verdict


def test_verdict_of_a_loss_is_from_above():
    expect = Expectation(metric="test/loss", at_most=0.5, seeds=1)
    assert judge(expect, Summary(0.4, None, 0.4, 0.4, 1))[0] == "pass"
    assert judge(expect, Summary(0.6, None, 0.6, 0.6, 1))[0] == "fail"


def test_recipe_without_claim_and_unknown_metric_are_refused(recipe, tmp_path, canned):
    scores, _ = canned
    scores.update({(arm, seed): 0.5 for arm in module.ARMS for seed in (5, 6)})
    with pytest.raises(RecipeError, match="no section 'expect'"):
        verify(recipe.changed({"expect": None}, "test"), out=tmp_path / "out")
    with pytest.raises(RecipeError, match="Did you mean 'test/accuracy'"):
        verify(recipe.changed({"expect": {"metric": "test/acuracy"}}, "test"), out=tmp_path / "out")


def test_several_devices_a_run_are_refused(recipe):
    with pytest.raises(RecipeError, match=r"trainer\.devices is 2"):
        pool.devices_of({"devices": 2})


def test_wall_time_counts_overlap_once():
    def span(began, ended):
        return {"began": f"2026-01-01T00:{began}+00:00", "ended": f"2026-01-01T00:{ended}+00:00"}

    assert module._wall([span("00:00", "01:00"), span("00:30", "01:30"), span("10:00", "10:10")]) == 100


@pytest.fixture
def checkout(digits_toolkit, tmp_path, monkeypatch, canned):
    """A checkout of the digits plugin, whose recipe has a baseline; scores are canned."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "toolkit-digits"\n')
    scores, _ = canned
    scores.update({("recipe", 0): 0.9, ("recipe", 1): 0.8})
    return scores


def _run(capfd, *arguments):
    capfd.readouterr()
    code = main(arguments)
    return code, *capfd.readouterr()


def test_record_writes_result_and_table(checkout, capfd):
    assert "never verified" in results.page(Path(), results.current_toolkit())
    code, out, err = _run(capfd, "verify", "digits", "--record")
    assert code == 0, err
    assert "PASS" in out
    stored = json.loads(Path("docs/results/digits.json").read_text())
    assert stored["recipe"]["summary"]["mean"] == pytest.approx(0.85)
    (row,) = [line for line in Path("docs/results.md").read_text().splitlines() if line.startswith("| `digits`")]
    assert "0.8500 +/- 0.0707 (0.8000 to 0.9000)" in row
    assert "| pass |" in row
    assert "2026-01-01 (1)" in row


def test_failing_row_is_in_the_table_and_the_exit_code(checkout, capfd):
    checkout["recipe", 1] = 0.2
    code, out, _ = _run(capfd, "verify", "digits", "--record")
    assert code == 1
    assert "FAIL" in out
    assert "| fail |" in Path("docs/results.md").read_text()


def test_too_few_seeds_decide_nothing(checkout, capfd):
    code, out, _ = _run(capfd, "verify", "digits", "--seeds", "1", "--json")
    assert code == 1
    assert json.loads(out)["verdict"] == "not decided"


def test_nan_is_recorded_as_failing(checkout, capfd):
    checkout["recipe", 1] = None
    code, _, err = _run(capfd, "verify", "digits", "--record")
    assert code == 1, err
    assert "not a number" in Path("docs/results.md").read_text()


def test_mistakes(checkout, capfd):
    for arguments, text in {
        ("verify",): "give a recipe, or --all",
        ("verify", "digit"): "Did you mean 'digits'?",
        ("verify", "digits", "--seeds", "0"): "--seeds",
        ("verify", "digits", "model.hidden=4", "--record"): "overrides make another recipe",
    }.items():
        code, out, err = _run(capfd, *arguments)
        assert (code, out) == (2, ""), arguments
        assert text in err


def test_record_outside_a_checkout_is_refused_before_anything_runs(checkout, canned, capfd, monkeypatch):
    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: self.name != "pyproject.toml" and real(self))
    code, out, err = _run(capfd, "verify", "digits", "--record")
    assert (code, out) == (2, "")
    assert "no folder around" in err
    assert canned[1] == []


def test_results_page_of_this_checkout_is_current():
    from toolkit.plugins import load_toolkit

    found = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert found == results.page(ROOT, load_toolkit()), "write it again: python -m toolkit.results"
