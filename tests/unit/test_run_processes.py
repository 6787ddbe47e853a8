"""Two CPU processes over gloo: signals to one of them or to both, and resuming with each its own random numbers."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from toolkit import checkpoint
from toolkit.callbacks.random_state import RandomState

SCRIPT = Path(__file__).parents[1] / "fixtures" / "two_processes.py"
RECIPE = ["digits", "data.batch_size=15", "trainer.max_epochs=2", "loggers=[csv]", "model.dropout=0.5"]
"""34 steps an epoch, from the 15th on with 15 images for one process and 14 for the other: they draw unlike numbers."""

SECONDS = 300
"""A hang fails a test after that. A run takes some 12 s, most of them imports, and more where others want the cores."""


def train(folder, environment, *arguments, processes=2):
    command = [sys.executable, str(SCRIPT), str(folder), str(processes), *RECIPE, *arguments]
    environment = {name: value for name, value in environment.items() if name != "TOOLKIT_RUN_DIRECTORY"}
    with (folder.parent / "stderr").open("w+") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout=SECONDS)
            stderr.seek(0)
            assert code == 0, stderr.read()[-4000:]
        finally:
            with contextlib.suppress(ProcessLookupError):  # the second process must not outlive a test that failed
                os.killpg(process.pid, signal.SIGKILL)
    return checkpoint.read(folder / "run" / "checkpoints" / "last.ckpt")


def status(folder):
    return json.loads((folder / "run" / "run.json").read_text())["status"]


@pytest.fixture(scope="module")
def environment(digits_folders):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*digits_folders, os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, environment):
    return train(tmp_path_factory.mktemp("runs") / "unbroken", environment)["state_dict"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, environment):
    """A run stopped in mid-epoch, by a signal to its second process alone."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    return folder, train(folder, environment, "--press", "1@20")


def test_a_process_that_a_checkpoint_has_no_state_of_draws_as_in_a_new_run():
    callback = RandomState()
    saved = callback.state_dict()
    torch.manual_seed(5)
    expected = torch.rand(3)
    for rank, goes_on in ((0, False), (1, True)):
        callback.load_state_dict(saved)
        torch.manual_seed(5)
        callback.on_train_start(SimpleNamespace(global_rank=rank), None)
        assert torch.equal(torch.rand(3), expected) is goes_on


def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_signal_to_one_process_stops_both_between_two_steps(stopped):
    folder, saved = stopped
    assert status(folder) == "interrupted"
    assert (saved["epoch"], saved["global_step"]) == (0, 21)


def test_each_process_saves_its_own_random_numbers(stopped):
    first, second = stopped[1]["callbacks"]["RandomState"]["processes"]
    assert not torch.equal(first["torch"], second["torch"])


def test_a_resumed_run_of_two_processes_ends_as_an_unbroken_one(stopped, unbroken, environment, tmp_path):
    folder = copied(stopped[0], tmp_path)
    assert same(train(folder, environment, "--resume")["state_dict"], unbroken)
    assert status(folder) == "finished"


def test_a_signal_to_all_processes_leaves_a_way_on_too(unbroken, environment, tmp_path):
    saved = train(tmp_path / "all", environment, "--press", "0,1@40")
    assert status(tmp_path / "all") == "interrupted"
    assert (saved["epoch"], saved["global_step"]) == (1, 41)
    assert same(train(tmp_path / "all", environment, "--resume")["state_dict"], unbroken)


def test_a_signal_before_the_first_step_hangs_nobody(environment, tmp_path):
    saved = train(tmp_path / "early", environment, "trainer.num_sanity_val_steps=2", "--press", "1@0", "--early")
    assert status(tmp_path / "early") == "interrupted"
    assert saved["global_step"] == 1


def test_another_number_of_processes_goes_on(stopped, environment, tmp_path):
    saved = train(copied(stopped[0], tmp_path), environment, "--resume", processes=1)
    assert saved["epoch"] == 2
    assert len(saved["callbacks"]["RandomState"]["processes"]) == 1
