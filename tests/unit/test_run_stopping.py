"""How a run ends before its end, or finds that it is there already, and what is said then."""

import json
import os
import signal
import time

import pytest
import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException
from training import Crash, digits, same, weights, with_callback

from toolkit import checkpoint, recipe, resuming, run
from toolkit.cli.main import main
from toolkit.errors import RunError
from toolkit.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def _ctrl_c_stops():
    """Lightning ignores Ctrl-C in a process that was stopped by it once, which may be the test before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def unbroken(digits_toolkit, tmp_path):
    return run.train(digits(digits_toolkit), out=tmp_path / "unbroken", quiet=True)


def status(result):
    return json.loads((result.directory / "run.json").read_text())["status"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_test_leaves_the_trained_weights(unbroken, digits_toolkit, tmp_path, number):
    class Press(pl.Callback):
        def on_test_batch_start(self, *_):
            os.kill(os.getpid(), number)

    with with_callback(Press()):
        stopped = run.train(digits(digits_toolkit), out=tmp_path / "stopped", quiet=True)
    assert not stopped.finished
    assert status(stopped) == "interrupted"
    resumed = run.train(digits(digits_toolkit), resume=stopped.directory, quiet=True)
    assert resumed.finished
    assert resumed.trained  # it is this part that finished the run, though it took no step
    assert resumed.metrics == unbroken.metrics
    assert same(weights(unbroken.directory), weights(resumed.directory))


def test_a_signal_right_after_lightning_took_it_is_still_a_wish(digits_toolkit, tmp_path):
    """Lightning registers its handler after the setup; the validation before all steps is the first hook after it."""

    class Press(pl.Callback):
        def on_sanity_check_start(self, trainer, *_):
            os.kill(os.getpid(), signal.SIGTERM)
            assert not trainer.received_sigterm

    with with_callback(Press()):
        stopped = run.train(digits(digits_toolkit, "trainer.num_sanity_val_steps=1"), out=tmp_path / "it", quiet=True)
    assert status(stopped) == "interrupted"
    assert checkpoint.read(stopped.directory / "checkpoints" / "last.ckpt")["global_step"] == 1


def test_lightning_s_own_way_to_stop_is_a_wish_too(unbroken, digits_toolkit, tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 11:
                raise SIGTERMException

    with with_callback(Stop()):
        stopped = run.train(digits(digits_toolkit, "checkpoint.every_seconds=0"), out=tmp_path / "stopped", quiet=True)
    assert status(stopped) == "interrupted"
    resumed = run.train(digits(digits_toolkit), resume=stopped.directory, quiet=True)
    assert same(weights(unbroken.directory), weights(resumed.directory))


def test_a_second_ctrl_c_stops_at_once(digits_toolkit, tmp_path):
    class Press(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 11:
                ours = signal.getsignal(signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                while signal.getsignal(signal.SIGINT) == ours:  # two at once may reach the process as one
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)

    with with_callback(Press()), pytest.raises(KeyboardInterrupt):
        run.train(digits(digits_toolkit), out=tmp_path / "it", quiet=True)
    assert RunDirectory(tmp_path / "it").state()["status"] == "interrupted"


def test_what_lightning_refuses_at_once_is_an_error_of_the_user_too(digits_toolkit, tmp_path):
    with pytest.raises(RunError, match=r"Lightning refuses this run: .*val_check_interval"):
        run.train(digits(digits_toolkit, "trainer.val_check_interval=5.5"), out=tmp_path / "it", quiet=True)
    assert not (tmp_path / "it").exists()


def test_a_crash_in_the_test_is_noted(digits_toolkit, tmp_path):
    class Crasher(pl.Callback):
        def on_test_start(self, *_):
            raise Crash("of the test")

    with with_callback(Crasher()), pytest.raises(Crash):
        run.train(digits(digits_toolkit), out=tmp_path / "it", quiet=True)
    assert RunDirectory(tmp_path / "it").state()["error"] == "Crash: of the test"


def test_a_finished_run_is_not_trained_again(unbroken, digits_toolkit, monkeypatch):
    files = [path for path in unbroken.directory.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    monkeypatch.setattr(run, "build_data", lambda *_: pytest.fail("there is nothing to do"))
    again = run.train(resuming.recipe_of(unbroken.directory), resume=unbroken.directory, quiet=True)
    assert (again.metrics, again.best_epoch) == (unbroken.metrics, unbroken.best_epoch)
    assert (again.finished, again.trained, unbroken.trained) == (True, False, True)
    assert {path: path.read_bytes() for path in unbroken.directory.rglob("*") if path.is_file()} == before


def test_a_finished_run_with_a_change_that_trains_nothing_says_so(unbroken, digits_toolkit):
    changed = resuming.recipe_of(unbroken.directory).with_overrides(["checkpoint.every_seconds=7"])
    again = run.train(changed, resume=unbroken.directory, quiet=True)
    assert not again.trained
    assert again.metrics == unbroken.metrics


def test_a_finished_run_that_was_not_tested_is_tested(digits_toolkit, tmp_path):
    found = run.train(digits(digits_toolkit), out=tmp_path / "it", quiet=True, test=False)
    again = run.train(resuming.recipe_of(found.directory), resume=found.directory, quiet=True)
    assert "test/accuracy" in again.metrics


# From the command line -----------------------------------------------------------------------------------------------


def test_resuming_a_finished_run_says_how_to_train_longer(unbroken, capfd):
    place = str(unbroken.directory)
    assert main(["train", "--resume", place, "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert "was finished already: nothing was trained. It has trained 3 epochs." in err
    assert f"toolkit train --resume {place} trainer.max_epochs=6" in err
    assert "test/accuracy" in out
    assert "Trained in" not in out
    assert main(["train", "--resume", place, "--quiet", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["trained"] is False
    assert main(["train", "--resume", place, "--quiet", "trainer.max_epochs=4"]) == 0
    out, err = capfd.readouterr()
    assert "already" not in err
    assert "Trained in" in out


def test_resuming_a_run_that_stopped_early_names_its_patience(digits_toolkit, tmp_path, capfd):
    still = ["optimizer={use: sgd, lr: 1e-12}", "schedule=null", "stop={monitor: val/accuracy, patience: 2}"]
    chosen = recipe.load("digits", digits_toolkit, [*still, "trainer.max_epochs=30"])
    run.train(chosen, out=tmp_path / "it", quiet=True)
    assert main(["train", "--resume", str(tmp_path / "it"), "--quiet"]) == 0
    said = capfd.readouterr().err
    assert "It stopped early after 3 epochs, with stop.patience=2." in said
    assert "stop.patience=4" in said
    assert main(["train", "--resume", str(tmp_path / "it"), "--quiet", "stop.patience=4"]) == 0
    assert RunDirectory(tmp_path / "it").state()["epochs"] == 5


def test_evaluating_an_unfinished_run_says_so(digits_toolkit, tmp_path, capfd):
    class Press(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step in (3, 11):
                os.kill(os.getpid(), signal.SIGTERM)

    place = str(tmp_path / "it")
    chosen = digits(digits_toolkit)
    with with_callback(Press()):
        run.train(chosen, out=place, quiet=True)
        assert main(["evaluate", place]) == 0
        first = capfd.readouterr().err
        run.train(chosen, resume=place, quiet=True)
    assert main(["evaluate", place, "--json"]) == 0
    out, second = capfd.readouterr()
    assert "has not finished (interrupted): these are the metrics of epoch 0, its last, for none was validated" in first
    assert "has not finished (interrupted): these are the metrics of epoch 0, its best so far" in second
    assert f"Go on with it: toolkit train --resume {place}" in second
    assert json.loads(out)["status"] == "interrupted"
    run.train(chosen, resume=place, quiet=True)
    assert main(["evaluate", place]) == 0
    assert "not finished" not in capfd.readouterr().err


def test_only_the_first_process_ends_with_the_code_of_an_interrupt(digits_toolkit, monkeypatch, tmp_path):
    """Lightning kills the first process, still at its last words, when another one ends with any code but 0."""
    result = run.RunResult(tmp_path, {}, best_epoch=0, finished=False)
    monkeypatch.setattr(run, "train", lambda *_, **__: result)
    assert main(["train", "digits"]) == 130
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["train", "digits"]) == 0
