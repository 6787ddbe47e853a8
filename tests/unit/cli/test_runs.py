"""`train`, `evaluate`, `predict`, `check`, `copy`: a run from the command line, and what goes wrong on the way."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from toolkit import run as runs
from toolkit import run_directory, trained
from toolkit.cli.predict import printed
from toolkit.cli.train import LATEST, sort_words
from toolkit.run import RunResult


@pytest.fixture
def finished(toolkit, tiny):
    """A finished run in ./run, and what `train --json` said of it."""
    done = toolkit("train", "digits", *tiny, "--out", "run", "--quiet", "--json")
    assert done.code == 0, done.err
    return done.json


def test_train_evaluate_predict(toolkit, finished):
    assert finished["finished"] is True
    assert finished["directory"] == "run"
    assert 0 <= finished["best_epoch"] < 2

    metrics = toolkit("evaluate", "run", "--json").json["metrics"]
    assert metrics["test/accuracy"] == pytest.approx(finished["metrics"]["test/accuracy"])
    assert "val/accuracy" in toolkit("evaluate", "run", "--split", "val").out

    rows = toolkit("predict", "run", "--json").json["rows"]
    assert len(rows) == 400
    assert toolkit("predict", "run", "--top", "7", "--json").json["rows"] == rows[:7]
    shown = toolkit("predict", "run")
    assert "380 more rows" in shown.err
    assert toolkit("predict", "run", "--out", "rows.csv").code == 0
    assert Path("rows.csv").read_text().splitlines() == ["class", *(row["class"] for row in rows)]
    assert toolkit("predict", "run", "--out", "rows.jsonl").code == 0
    assert [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()] == rows
    refused = toolkit("predict", "run", "--out", "rows.xlsx")
    assert refused.code == 2
    assert ".csv or .jsonl" in refused.err


ROWS = [
    {"node": 0, "class": "a, b", "probabilities": {"a, b": 0.75, "c": 0.25}, "tokens": ["x", "y"]},
    {"node": 1, "class": "c", "probabilities": {"a, b": 0.125, "c": 0.875}, "tokens": [], "span": {"at": {"row": 2}}},
]


def test_predictions_in_csv_have_one_column_a_class(toolkit, monkeypatch):
    monkeypatch.setattr(trained, "predict", lambda run, overrides: iter(ROWS))
    assert toolkit("predict", "run", "--out", "rows.csv").code == 0
    with open("rows.csv", newline="") as file:
        first, second = csv.DictReader(file)
    columns = ["node", "class", "probabilities.a, b", "probabilities.c", "tokens", "span.at.row"]
    assert list(first) == columns
    assert list(first.values()) == ["0", "a, b", "0.75", "0.25", '["x", "y"]', ""]
    assert list(second.values()) == ["1", "c", "0.125", "0.875", "[]", "2"]
    assert toolkit("predict", "run", "--out", "rows.jsonl").code == 0
    assert [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()] == ROWS


def test_two_columns_of_one_name_are_refused_and_nothing_is_written(toolkit, monkeypatch):
    monkeypatch.setattr(trained, "predict", lambda run, overrides: iter([{"a": {"b": 1}, "a.b": 2}]))
    done = toolkit("predict", "run", "--out", "rows.csv")
    assert done.code == 2
    assert "two columns would be called 'a.b'; take a .jsonl file" in done.err
    assert not Path("rows.csv").exists()


def test_train_prints_metrics_directory_and_what_is_next(toolkit, tiny):
    done = toolkit("train", "digits", *tiny, "--quiet", "--seed", "3")
    assert done.code == 0, done.err
    assert "test/accuracy" in done.out
    assert "best epoch" in done.out
    assert "toolkit evaluate runs/digits-1" in done.out
    assert run_directory.open_existing("runs/digits-1").state()["seed"] == 3


def test_existing_directory_is_not_touched(toolkit, finished, tiny):
    before = Path("run/metrics.csv").read_bytes()
    done = toolkit("train", "digits", *tiny, "--out", "run")
    assert done.code == 2
    assert "--resume run" in done.err
    assert Path("run/metrics.csv").read_bytes() == before


def test_interrupted_run_says_how_to_go_on_and_goes_on(toolkit, tiny, monkeypatch):
    """A wish to stop after the first step, as Ctrl-C makes it; then a bare --resume with another override."""
    from contextlib import contextmanager

    @contextmanager
    def stop_at_once():
        yield lambda: True

    with monkeypatch.context() as patch:
        patch.setattr(runs, "stop_on_signal", stop_at_once)
        done = toolkit("train", "digits", *tiny, "--quiet")
    assert done.code == 130
    assert "toolkit train --resume runs/digits-1" in done.err
    assert done.out == ""
    resumed = toolkit("train", "digits", "--resume", "trainer.max_epochs=3", "--quiet", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["directory"] == "runs/digits-1"
    state = run_directory.open_existing("runs/digits-1").state()
    assert (state["status"], state["epochs"]) == ("finished", 3)


def test_resume_with_schedule_that_counts_its_steps(toolkit, monkeypatch):
    """The resolved recipe in the run directory says total_steps: null, and must still train."""
    from contextlib import contextmanager

    @contextmanager
    def stop_at_once():
        yield lambda: True

    overrides = ["trainer.max_epochs=2", "schedule.warmup=1", "trainer.accelerator=cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "stop_on_signal", stop_at_once)
        assert toolkit("train", "digits", *overrides, "--out", "here", "--quiet").code == 130
    done = toolkit("train", "--resume", "here", "--quiet")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "digit"], "Did you mean 'digits'?"),
        (["train"], "give a recipe"),
        (["train", "no/such.yaml"], "no recipe file"),
        (["train", "digits", "--resume"], "no unfinished run of 'digits'"),
        (["train", "--resume", "nowhere/at/all"], "no run directory"),
        (["train", "--resume"], "--resume needs the directory"),
        (["train", "digits", "--resume", "--smoke"], "leave --out and --smoke"),
        (["train", "digits", "model.hiden=3"], "Did you mean 'hidden'?"),
        (["train", "digits", "optimizer.lr=fast"], "optimizer.lr wants a number, given 'fast'"),
        (["train", "digits", "trainer"], "section.key=value"),
        (["evaluate", "nowhere"], "no run or checkpoint at nowhere"),
        (["evaluate", "nowhere", "model.hidden=3"], "can only be given other data"),
        (["predict", "nowhere"], "no run or checkpoint at nowhere"),
        (["check", "digits", "data.use=rowz"], "Did you mean 'rows'?"),
    ],
)
def test_mistakes_exit_2_with_one_screen(toolkit, arguments, text):
    done = toolkit(*arguments)
    assert done.code == 2
    assert text in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not Path("runs").exists() or not list(Path("runs").glob("digits-*"))


def test_words_of_train_are_sorted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    assert sort_words(("digits", "a.b=1"), None) == ("digits", ["a.b=1"], None)
    assert sort_words(("digits",), "a.b=1") == ("digits", ["a.b=1"], LATEST)
    assert sort_words((), "mine") == (None, [], "mine")
    assert sort_words(("a.b=1",), "mine") == (None, ["a.b=1"], "mine")
    assert sort_words((), "digits") == ("digits", [], LATEST)
    assert sort_words((), "runs/digits-1") == (None, [], "runs/digits-1")


def test_resume_refuses_a_run_of_another_recipe(toolkit, finished):
    Path("other.yaml").write_text(Path("run/recipe.yaml").read_text().replace("name: digits", "name: other"))
    done = toolkit("train", "other.yaml", "--resume", "run")
    assert done.code == 2
    assert "is a run of 'digits', not of 'other'" in done.err


def test_only_the_first_process_prints(toolkit, monkeypatch):
    result = RunResult(Path("runs/x"), {"a": 1.0}, best_epoch=0, finished=True)
    monkeypatch.setattr(runs, "train", lambda *_, **__: result)
    assert "runs/x" in toolkit("train", "digits").out
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert toolkit("train", "digits").out == ""


def test_check_reports_all_mistakes(toolkit):
    wrong = ["data.use=rowz", "optimizer.lr=abc", "trainer.max_epoch=3", "model.heads=0"]
    done = toolkit("check", "digits", *wrong, "--json")
    assert done.code == 2
    problems = done.json["problems"]
    assert len(problems) == len(wrong)
    assert done.err.count("error:") == len(wrong)
    assert done.json["ok"] is False


def test_check_goes_on_after_an_unknown_section(toolkit):
    Path("mine.yaml").write_text("name: mine\ncolour: red\nshape: 3\ndata: rowz\ntask: digits:classification\n")
    done = toolkit("check", "mine.yaml", "trainer.max_epoch=3", "--json")
    assert done.code == 2
    wanted = ["'colour'", "'shape'", "no section 'model'", "no section 'optimizer'", "'rowz'", "'max_epoch'"]
    assert [word in problem for word, problem in zip(wanted, done.json["problems"], strict=True)] == [True] * 6


def test_swap_in_one_line_leaves_out_what_does_not_fit_and_says_so(toolkit, tiny, monkeypatch):
    assert toolkit("copy", "digits", "mine.yaml").code == 0
    text = Path("mine.yaml").read_text()
    Path("mine.yaml").write_text(text.replace("scaled_dot_product, dropout", "scaled_dot_product, scale: 0.5, dropout"))
    done = toolkit("train", "mine.yaml", "attention=gat", *tiny, "--quiet", "--json", "--out", "run")
    assert done.code == 0, done.err
    assert done.json["finished"]
    assert done.err.count("left out") == 1
    assert (
        "note: override 'attention=gat': left out {scale: 0.5} of 'scaled_dot_product', which 'gat' does not take; "
        "kept {dropout: 0.1}\n"
    ) in done.err
    assert "scale:" not in Path("run/recipe.yaml").read_text()
    monkeypatch.setenv("RANK", "1")
    assert "left out" not in toolkit("check", "mine.yaml", "attention=gat").err


def test_check_batch_measures(toolkit, tiny):
    done = toolkit("check", "digits", *tiny, "--batch", "--json")
    assert done.code == 0, done.err
    found = done.json["batch"]
    items = found["batch"]["target"]["shape"][0]
    assert 100 < items <= 128
    assert found["batch"]["rows"] == {"shape": [items, 8, 8], "dtype": "float32"}
    assert found["output"]["preds"]["shape"] == [items, 10]
    hidden, features, classes = 32, 8, 10
    assert found["parameters"]["embed"] == features * hidden + hidden
    assert found["parameters"]["total"] == sum(v for k, v in found["parameters"].items() if k != "total")
    assert found["parameters"]["classify"] == hidden * classes + classes
    memory = found["memory_bytes"]
    assert memory["weights"] == memory["gradients"] == 4 * found["parameters"]["total"]
    assert 2 * memory["weights"] <= memory["optimizer"] < 2.2 * memory["weights"]  # AdamW keeps two moments
    assert memory["activations"] > items * 8 * hidden * 4
    assert found["batches"] == 6
    assert found["run_seconds"] == pytest.approx(6 * found["step_seconds"])
    assert not Path("runs").exists()
    bigger = toolkit("check", "digits", *tiny, "model.hidden=64", "--batch", "--json").json["batch"]
    assert bigger["memory_bytes"]["activations"] > memory["activations"]


def test_check_prints_what_it_found(toolkit, tiny):
    done = toolkit("check", "digits", *tiny, "--batch")
    assert "digits is sound" in done.out
    assert " x 8 x 8" in done.out


def test_check_fits_a_page_where_it_is_piped_and_loses_nothing(toolkit):
    done = toolkit("check", "digits")
    assert max(map(len, done.out.splitlines())) <= 120
    shown = "".join(done.out.split())
    options = toolkit("check", "digits", "--json").json["document"]["optimizer"]
    assert len(options) > 8
    assert all(f"{key}=" in shown for key in options if key != "use")
    assert "amsgrad=false" in shown  # as an override would say it


def test_copy_keeps_the_header_and_overwrites_nothing(toolkit):
    assert toolkit("copy", "digits", ".").code == 0
    copied = Path("digits.yaml").read_text()
    assert copied.startswith("# Digits by self-attention over rows.\n# Run: toolkit train digits\n")
    Path("digits.yaml").write_text("mine")
    done = toolkit("copy", "digits", "digits.yaml")
    assert done.code == 2
    assert "exists" in done.err
    assert Path("digits.yaml").read_text() == "mine"
    assert toolkit("copy", "digits", "no/folder/x.yaml").code == 2
    assert [path.name for path in Path().iterdir()] == ["digits.yaml"]
    assert toolkit("copy", "digits", "other.yaml", "--json").json["file"] == "other.yaml"
    assert "model" in toolkit("show", "./other.yaml", "--json").json["recipe"]


def test_cells_are_printed_for_people():
    many = {f"class {number}": number / 100 for number in range(16)}
    assert printed(many) == "class 15 0.15, class 14 0.14, class 13 0.13, 13 more"
    assert printed({"yes": 0.123456, "no": 0.876544}) == '{"yes": 0.1235, "no": 0.8765}'
    assert printed("a text as long as it is " * 20) == "a text as long as it is " * 20
    assert len(printed([{"sentence": "ada walks to the mill", "weight": 0.5}] * 9)) == 103
