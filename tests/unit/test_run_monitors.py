"""The names of monitored metrics: refused before training where nothing can log them, and never where something may."""

import json

import pytest
import pytorch_lightning as pl
from training import digits, with_callback

from toolkit import run
from toolkit.callbacks.monitors import Monitor
from toolkit.errors import RecipeError
from toolkit.loggers import read_rows


class NoTraining(pl.Callback):
    def on_train_batch_start(self, *_):
        pytest.fail("a step was trained before the name was looked at")


class Logging(pl.Callback):
    """Somebody's own, which logs when training has begun."""

    def on_validation_epoch_end(self, trainer, task):
        task.log("val/mine", float(trainer.current_epoch))


@pytest.mark.parametrize(("section", "named"), [("stop", "val/los"), ("checkpoint", "val/acuracy")])
def test_a_name_that_nothing_logs_is_refused_before_training(digits_toolkit, tmp_path, section, named):
    mistaken = digits(digits_toolkit, f"{section}={{monitor: {named}}}")
    with (
        with_callback(NoTraining()),
        pytest.raises(RecipeError, match=rf"{section}\.monitor: nothing logs '{named}'. Did you mean 'val/"),
    ):
        run.train(mistaken, out=tmp_path / "it", quiet=True)
    assert json.loads((tmp_path / "it" / "run.json").read_text())["status"] == "failed"


def test_one_wrong_name_of_several_is_found(digits_toolkit, tmp_path):
    mistaken = digits(digits_toolkit, "stop={monitor: [val/loss, val/acuracy]}")
    with with_callback(NoTraining()), pytest.raises(RecipeError, match=r"nothing logs 'val/acuracy'"):
        run.train(mistaken, out=tmp_path / "it", quiet=True)


def test_the_loss_of_training_comes_too_late(digits_toolkit, tmp_path):
    late = digits(digits_toolkit, "stop={monitor: train/loss}")
    with with_callback(NoTraining()), pytest.raises(RecipeError, match=r"only after its validation.*'val/loss'"):
        run.train(late, out=tmp_path / "it", quiet=True)


def test_a_name_that_a_callback_logs_is_monitored(digits_toolkit, tmp_path):
    chosen = digits(digits_toolkit, "checkpoint={monitor: val/mine}")
    with with_callback(Logging()):
        found = run.train(chosen, out=tmp_path / "it", quiet=True)
    assert found.best_epoch == 2


def test_where_something_may_log_a_wrong_name_is_found_after_an_epoch(digits_toolkit, tmp_path):
    mistaken = digits(digits_toolkit, "checkpoint={monitor: val/mien}")
    with (
        with_callback(Logging()),
        pytest.raises(RecipeError, match=r"nothing logs 'val/mien'. Did you mean 'val/mine'"),
    ):
        run.train(mistaken, out=tmp_path / "it", quiet=True)


def test_a_name_that_a_task_logs_is_monitored(digits_toolkit, tmp_path, monkeypatch):
    """As a plugin's own task may do, here in a nested function that only a look at its code finds."""
    from toolkit_digits.task import DigitClassification

    def rate(self):
        def tell():
            self.log("val/rate", -float(self.current_epoch))

        tell()

    monkeypatch.setattr(DigitClassification, "on_validation_start", rate, raising=False)
    found = run.train(digits(digits_toolkit, "checkpoint={monitor: val/rate}"), out=tmp_path / "it", quiet=True)
    assert found.best_epoch == 0


def test_a_run_that_goes_on_by_another_metric_starts_its_comparison_anew(digits_toolkit, tmp_path):
    by_loss = digits(digits_toolkit, "stop={monitor: val/loss, patience: 9}")
    run.train(by_loss, out=tmp_path / "it", quiet=True)
    by_both = digits(
        digits_toolkit, "trainer.max_epochs=5", "stop={monitor: [val/accuracy, val/macro_f1], patience: 9}"
    )
    found = run.train(by_both, resume=tmp_path / "it", quiet=True)
    rows = [row for row in read_rows(found.directory / "metrics.csv") if row["epoch"] >= 3 and "val/loss" in row]
    assert found.metrics["val/accuracy"] == max(row["val/accuracy"] for row in rows)


def test_a_monitor_keeps_its_best_for_the_same_comparison_only():
    saved = Monitor(["val/loss"], "auto")
    saved.best = [-0.5]
    same, other, turned = Monitor(["val/loss"], "min"), Monitor(["val/accuracy"], "auto"), Monitor(["val/loss"], "max")
    assert same.load_state_dict(saved.state_dict())
    assert same.best == [-0.5]
    for monitor in (other, turned):
        assert not monitor.load_state_dict(saved.state_dict())
        assert monitor.best == [-float("inf")]
