import json
import os
import signal
from importlib.metadata import version

import pytest
import pytorch_lightning as pl
from training import Crash, Crasher, digits, same, weights, with_callback

from toolkit import checkpoint, resuming, run, trained, yamlfile
from toolkit.errors import CheckpointError, MissingExtraError, RecipeError, RunError
from toolkit.loggers import read_rows


@pytest.fixture
def unbroken(digits_toolkit, tmp_path):
    return run.train(digits(digits_toolkit), out=tmp_path / "unbroken", quiet=True)


def test_a_run_directory_holds_everything(unbroken):
    folder = unbroken.directory
    present = {path.name for path in folder.iterdir()}
    assert {"recipe.yaml", "run.json", "metrics.csv", "curves.png", "checkpoints"} <= present
    state = json.loads((folder / "run.json").read_text())
    assert state["status"] == "finished"
    assert state["metrics"] == unbroken.metrics
    assert state["versions"]["torch"] == version("torch")
    rows = [row for row in read_rows(folder / "metrics.csv") if "val/loss" in row]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert unbroken.metrics["val/loss"] == min(row["val/loss"] for row in rows)
    assert rows[unbroken.best_epoch]["val/loss"] == unbroken.metrics["val/loss"]
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_training_learns(unbroken, digits_toolkit, tmp_path):
    rows = read_rows(unbroken.directory / "metrics.csv")
    assert rows[2]["train/loss"] < rows[0]["train/loss"]


def test_test_is_measured_with_the_best_weights(digits_toolkit, tmp_path):
    upside_down = digits(digits_toolkit, "checkpoint={monitor: val/loss, mode: max}")
    found = run.train(upside_down, out=tmp_path / "it", quiet=True)
    assert found.best_epoch == 0
    again = trained.evaluate(found.directory, [])
    assert (again.epoch, again.status) == (0, "finished")
    assert again.metrics["test/loss"] == pytest.approx(found.metrics["test/loss"], rel=1e-6)
    assert not same(weights(found.directory, "best.ckpt"), weights(found.directory))


def test_a_run_repeats_bit_for_bit_and_another_seed_does_not(unbroken, digits_toolkit, tmp_path):
    again = run.train(digits(digits_toolkit), out=tmp_path / "again", quiet=True)
    other = run.train(digits(digits_toolkit, "seed=1"), out=tmp_path / "other", quiet=True)
    assert same(weights(unbroken.directory), weights(again.directory))
    assert unbroken.metrics == again.metrics
    assert not same(weights(unbroken.directory), weights(other.directory))


def test_the_recipe_in_the_run_directory_trains_the_same(unbroken, digits_toolkit, tmp_path):
    again = run.train(resuming.recipe_of(unbroken.directory), out=tmp_path / "again", quiet=True)
    assert same(weights(unbroken.directory), weights(again.directory))


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_start", 0),
        ("on_train_batch_end", 3),
        ("on_train_batch_end", 8),
        ("on_validation_end", 8),
        ("on_train_epoch_end", 16),
        ("on_train_epoch_start", 8),
        ("on_train_batch_start", 21),
    ],
)
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(unbroken, digits_toolkit, tmp_path, hook, step):
    chosen = digits(digits_toolkit, "checkpoint.every_seconds=0")
    with with_callback(Crasher(hook, step)), pytest.raises(Crash):
        run.train(chosen, out=tmp_path / "killed", quiet=True)
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["status"] == "failed"
    resumed = run.train(chosen, resume=tmp_path / "killed", quiet=True)
    assert same(weights(unbroken.directory), weights(resumed.directory))
    assert same(weights(unbroken.directory, "best.ckpt"), weights(resumed.directory, "best.ckpt"))
    assert resumed.metrics == unbroken.metrics
    assert read_rows(resumed.directory / "metrics.csv") == read_rows(unbroken.directory / "metrics.csv")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_leaves_a_way_on(unbroken, digits_toolkit, tmp_path, number):
    class Press(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 11:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with with_callback(Press()):
        stopped = run.train(digits(digits_toolkit), out=tmp_path / "stopped", quiet=True)
    assert signal.getsignal(number) is before
    assert not stopped.finished
    assert json.loads((stopped.directory / "run.json").read_text())["status"] == "interrupted"
    assert checkpoint.read(stopped.directory / "checkpoints" / "last.ckpt")["global_step"] == 12
    resumed = run.train(digits(digits_toolkit), resume=stopped.directory, quiet=True)
    assert same(weights(unbroken.directory), weights(resumed.directory))


def test_sigterm_in_validation_leaves_a_way_on_too(unbroken, digits_toolkit, tmp_path):
    class Press(pl.Callback):
        def on_validation_batch_start(self, trainer, *_):
            if trainer.global_step == 16:
                os.kill(os.getpid(), signal.SIGTERM)

    with with_callback(Press()):
        stopped = run.train(digits(digits_toolkit), out=tmp_path / "stopped", quiet=True)
    assert not stopped.finished
    resumed = run.train(digits(digits_toolkit), resume=stopped.directory, quiet=True)
    assert same(weights(unbroken.directory), weights(resumed.directory))


def test_a_finished_run_can_train_longer(unbroken, digits_toolkit):
    longer = digits(digits_toolkit, "trainer.max_epochs=4")
    found = run.train(longer, resume=unbroken.directory, quiet=True)
    assert [row["epoch"] for row in read_rows(found.directory / "metrics.csv") if "val/loss" in row] == [0, 1, 2, 3]


def test_resuming_for_fewer_epochs_than_done_is_told(unbroken, digits_toolkit):
    with pytest.raises(CheckpointError, match=r"already trained 3 epochs and trainer\.max_epochs is 2"):
        run.train(digits(digits_toolkit, "trainer.max_epochs=2"), resume=unbroken.directory, quiet=True)


def test_what_lightning_refuses_is_an_error_of_the_user(digits_toolkit, tmp_path):
    with pytest.raises(RunError, match="Lightning refuses"):
        run.train(digits(digits_toolkit, "callbacks=[learning_rate_monitor]", "loggers=[]"), out=tmp_path / "it")


def test_a_logger_without_its_package_names_the_pip_line(digits_toolkit, tmp_path, monkeypatch):
    def lacks(*_, **__):
        raise ModuleNotFoundError("wandb is not installed")

    monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger.__init__", lacks)
    with pytest.raises(MissingExtraError, match='pip install "wandb"'):
        run.train(digits(digits_toolkit, "loggers=[wandb]"), out=tmp_path / "it", quiet=True)


@pytest.mark.parametrize("override", ["model.hidden=16", "optimizer.lr=0.5", "data.batch_size=50", "seed=3"])
def test_resuming_with_another_recipe_is_refused(unbroken, digits_toolkit, override):
    before = weights(unbroken.directory)
    with pytest.raises(CheckpointError, match=f"another {override.split('.')[0].split('=')[0]!r}"):
        run.train(digits(digits_toolkit, override), resume=unbroken.directory, quiet=True)
    assert same(before, weights(unbroken.directory))


def test_a_run_directory_that_exists_is_kept(unbroken, digits_toolkit):
    with pytest.raises(RunError, match=r"exists and is not empty.*--resume"):
        run.train(digits(digits_toolkit), out=unbroken.directory, quiet=True)
    assert (unbroken.directory / "checkpoints" / "best.ckpt").exists()


def test_runs_are_numbered(digits_toolkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smoke = digits(digits_toolkit, "trainer.max_epochs=1", "schedule=null")
    names = [run.train(smoke, quiet=True, test=False).directory.name for _ in range(2)]
    assert names == ["digits-1", "digits-2"]


def test_resuming_what_is_no_run_is_refused(digits_toolkit, tmp_path):
    with pytest.raises(RunError, match=r"no recipe\.yaml"):
        run.train(digits(digits_toolkit), resume=tmp_path, quiet=True)


def test_a_diverging_run_says_so_and_keeps_the_last_good_state(digits_toolkit, tmp_path):
    wild = digits(digits_toolkit, "optimizer={use: sgd, lr: 1e30}", "schedule=null", "stop={patience: 2}")
    with pytest.raises(RunError, match=r"diverged: val/loss is nan.*optimizer\.lr"):
        run.train(wild, out=tmp_path / "wild", quiet=True)
    assert json.loads((tmp_path / "wild" / "run.json").read_text())["status"] == "failed"


def test_early_stopping_waits_its_patience(digits_toolkit, tmp_path):
    still = digits(
        digits_toolkit,
        "optimizer={use: sgd, lr: 1e-12}",
        "schedule=null",
        "trainer.max_epochs=30",
        "stop={monitor: val/accuracy, patience: 3}",
    )
    run.train(still, out=tmp_path / "still", quiet=True, test=False)
    assert len(read_rows(tmp_path / "still" / "metrics.csv")) == 4
    counted = still.with_overrides(["stop.count_ties=true", "trainer.max_epochs=8"])
    run.train(counted, out=tmp_path / "counted", quiet=True, test=False)
    assert len(read_rows(tmp_path / "counted" / "metrics.csv")) == 8


def test_a_tie_in_the_first_metric_is_broken_by_the_second(digits_toolkit, tmp_path):
    settings = "checkpoint={monitor: [val/accuracy, val/loss]}"
    found = run.train(digits(digits_toolkit, settings), out=tmp_path / "it", quiet=True, test=False)
    rows = read_rows(found.directory / "metrics.csv")
    best = max(range(3), key=lambda epoch: (rows[epoch]["val/accuracy"], -rows[epoch]["val/loss"]))
    assert found.best_epoch == best


def test_predictions_and_evaluation_come_from_the_run_alone(unbroken):
    rows = list(trained.predict(unbroken.directory, []))
    assert len(rows) == 400
    assert set(rows[0]) == {"class"}
    val = trained.evaluate(unbroken.directory, [], split="val")
    assert val.metrics["val/loss"] == pytest.approx(unbroken.metrics["val/loss"], rel=1e-6)


def test_a_trained_run_takes_other_data_only(unbroken):
    with pytest.raises(RunError, match=r"other data\.\* keys"):
        trained.evaluate(unbroken.directory, ["model.hidden=8"])
    with pytest.raises(RunError, match="trained on data whose 'features'"):
        trained.evaluate(unbroken.directory, ["data={use: graph:karate}"])


def test_data_of_another_task_is_told(digits_toolkit, tmp_path):
    odd = digits(digits_toolkit, "task=node_classification", "model={use: attention_network}", "attention=gat")
    with pytest.raises(RecipeError, match="takes a GraphBatch from its data, but was given a DigitBatch"):
        run.train(odd, out=tmp_path / "odd", quiet=True)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.gradient_clip_val=0.01",
        "trainer.accumulate_grad_batches=2",
        "trainer.precision=bf16-mixed",
        "schedule.warmup=1",
    ],
)
def test_training_options_take_effect(unbroken, digits_toolkit, tmp_path, override):
    found = run.train(digits(digits_toolkit, override), out=tmp_path / "it", quiet=True)
    assert not same(weights(unbroken.directory), weights(found.directory))


def test_logs_go_where_the_recipe_says(digits_toolkit, tmp_path):
    chosen = digits(digits_toolkit, "loggers=[csv, tensorboard]", "callbacks=[gradient_norm, learning_rate_monitor]")
    found = run.train(chosen, out=tmp_path / "it", quiet=True)
    assert list((found.directory / "tensorboard").glob("events.out.tfevents*"))
    rows = read_rows(found.directory / "metrics.csv")
    assert any("train/gradient_norm" in row for row in rows)
    assert yamlfile.load_file(found.directory / "recipe.yaml")[0]["callbacks"][0]["every_steps"] == 1


def test_more_processes_than_the_machine_has_cores_are_refused_before_one_is_started(
    digits_toolkit, tmp_path, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    with pytest.raises(RecipeError, match=r"99 processes .* 4 core.* takes 4 at most"):
        run.train(
            digits(digits_toolkit, "trainer.devices=99", "trainer.accelerator=cpu"), out=tmp_path / "run", quiet=True
        )
    assert not (tmp_path / "run").exists()
