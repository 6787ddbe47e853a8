"""`toolkit compare` as it is typed."""

from __future__ import annotations

from pathlib import Path


def test_in_processes_of_its_own(toolkit, tiny):
    """The one test that starts processes: check, training and timing."""
    done = toolkit("compare", "digits", "model.hidden=8,30", *tiny, "--seeds", "1", "--workers", "1", "--json")
    assert done.code == 0, done.err
    good, bad = done.json["rows"]
    assert good["status"] == "trained"
    assert good["metrics"]["test/accuracy"]["mean"] > 0
    assert good["peak_bytes"] > 50e6
    assert good["step_seconds"]["median"] > 0
    assert bad["status"] == "unfit"
    assert "RuntimeError" in bad["reason"]
    assert Path(done.json["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "[1 of 1]" in done.err
    assert not list(Path(done.json["directory"]).rglob("*.failure"))


def test_table_has_every_column_and_the_reason(toolkit, tiny, canned):
    done = toolkit("compare", "digits", "model.hidden=8,16,wide", "seed=1", *tiny, "--seeds", "2", "--out", "table")
    assert done.code == 0, done.err
    heading, _, first, second, misfit, reason, *_ = done.out.splitlines()
    assert heading.split("  ")[0] == "model.hidden"
    for column in ("val/accuracy", "test/accuracy", "test - first", "step", "inference", "memory", "weights"):
        assert column in heading
    assert " +/- " in first
    assert "[" not in first
    assert "[" in second
    assert misfit.split()[:5] == ["wide", "does", "not", "fit", "(1)"]
    assert reason.startswith("(1) ")
    assert "wants a whole number" in reason
    assert "2 seeds; more accuracy is better" in done.out
    assert Path("table/quality_and_cost.png").is_file()
    again = toolkit("compare", "digits", "model.hidden=8,16,wide", "seed=1", *tiny, "--seeds", "2", "--out", "table")
    assert again.out == done.out
    assert "4 of 4 runs are stored" in again.err


def test_ctrl_c_says_how_to_go_on(toolkit, tiny, canned):
    canned.stop.add("model.hidden=16 seed 0")
    words = ["compare", "digits", "model.hidden=8,16", *tiny, "data={use: rows, batch_size: 50}", "--seeds", "1"]
    done = toolkit(*words)
    assert (done.code, done.out) == (130, "")
    assert "Go on with it: toolkit compare digits model.hidden=8,16 " in done.err
    assert "'data={use: rows, batch_size: 50}' --seeds 1" in done.err
    canned.stop.clear()
    assert "1 of 2 runs are stored" in toolkit(*words).err


def test_smoke_changes_apply_before_overrides(toolkit, untimed):
    short = ["trainer.limit_train_batches=2", "schedule=null", "trainer.accelerator=cpu", "--seeds", "1", "--json"]
    done = toolkit("compare", "digits", "model.hidden=8,16", "--smoke", *short)
    assert done.code == 0, done.err
    (stored,) = Path(done.json["directory"]).glob("runs/model.hidden=8-*/recipe.yaml")
    assert "max_epochs: 2" in stored.read_text()


def test_mistakes(toolkit):
    for words, told in {
        ("compare", "digits"): "nothing to compare",
        ("compare", "digit", "model.hidden=8,16"): "Did you mean 'digits'?",
        ("compare", "digits", "model.hidden=8,16", "--seeds", "0"): "--seeds",
        ("compare", "digits", "model.hiden=8,16"): "none of the 2 variants fits",
    }.items():
        done = toolkit(*words)
        assert (done.code, done.out) == (2, ""), words
        assert told in done.err
