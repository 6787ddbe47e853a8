"""A disk that fills up under a run: the state is saved if there is room for it, and the first error is the one told."""

import errno
import os

import pytest
from training import digits, same, weights

from toolkit import checkpoint, loggers, run
from toolkit.callbacks.checkpoints import LOG_ROWS
from toolkit.errors import RunError
from toolkit.loggers import read_rows
from toolkit.run_directory import RunDirectory


@pytest.fixture
def full_disk(monkeypatch):
    """Fill the disk for files whose name has a given ending, from a given file of that kind on."""
    rename, written = os.replace, []

    def fill(ending, first=1):
        def refuse(source, target):
            if str(target).endswith(ending):
                written.append(target)
                if len(written) >= first:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rename(source, target)

        monkeypatch.setattr(os, "replace", refuse)

    return fill


def test_a_log_that_cannot_be_written_costs_no_state(digits_toolkit, tmp_path, full_disk, monkeypatch):
    chosen = digits(digits_toolkit, "checkpoint.every_seconds=0")
    unbroken = run.train(chosen, out=tmp_path / "unbroken", quiet=True)
    full_disk("metrics.csv", first=11)
    with pytest.raises(RunError) as caught:
        run.train(chosen, out=tmp_path / "full", quiet=True)
    directory = RunDirectory(tmp_path / "full")
    for part in (f"The disk of {directory.path} is full", "Free some space", directory.resume):
        assert part in str(caught.value)
    assert "TOOLKIT_CACHE" not in str(caught.value)
    assert directory.state()["status"] == "failed"
    saved, rows = checkpoint.read(directory.last), read_rows(directory.path / "metrics.csv")
    assert saved["global_step"] > max(row["step"] for row in rows) + 1
    monkeypatch.undo()
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    resumed = run.train(chosen, resume=directory.path, quiet=True)
    assert same(weights(resumed.directory), weights(unbroken.directory))
    assert read_rows(directory.path / "metrics.csv") == read_rows(unbroken.directory / "metrics.csv")
    assert LOG_ROWS not in checkpoint.read(directory.last)


def test_killed_between_log_and_state_a_run_has_all_rows(digits_toolkit, tmp_path, monkeypatch):
    """The log is ahead of the state then, and is cut back to it."""
    chosen = digits(digits_toolkit, "checkpoint.every_seconds=0")
    unbroken = run.train(chosen, out=tmp_path / "unbroken", quiet=True)
    write, saved = checkpoint.write, []

    def killed(state, path):
        saved.append(path)
        if len(saved) > 15:
            raise KeyboardInterrupt
        write(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            run.train(chosen, out=tmp_path / "killed", quiet=True)
    assert RunDirectory(tmp_path / "killed").state()["status"] == "interrupted"
    resumed = run.train(chosen, resume=tmp_path / "killed", quiet=True)
    assert read_rows(resumed.directory / "metrics.csv") == read_rows(unbroken.directory / "metrics.csv")


def test_a_state_that_cannot_be_written_is_what_is_told(digits_toolkit, tmp_path, full_disk):
    """Neither the logs, which Lightning closes then, nor the note of the failure hide it."""
    chosen = digits(digits_toolkit, "checkpoint.every_seconds=0")
    full_disk(("last.ckpt", "metrics.csv", "run.json"), first=4)  # the note of the start, one log and one state fit
    with pytest.raises(RunError, match=r"cannot write last\.ckpt.*--resume") as caught:
        run.train(chosen, out=tmp_path / "full", quiet=True)
    assert "TOOLKIT_CACHE" not in str(caught.value)
    assert RunDirectory(tmp_path / "full").state()["status"] == "running"


def test_an_error_of_the_training_is_told_though_the_disk_is_full(digits_toolkit, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(loggers.CSVLogger, "finalize", full)
    wild = digits(digits_toolkit, "optimizer={use: sgd, lr: 1e30}", "schedule=null", "stop={patience: 2}")
    with pytest.raises(RunError, match="diverged"):
        run.train(wild, out=tmp_path / "wild", quiet=True)
    assert "diverged" in RunDirectory(tmp_path / "wild").state()["error"]


def test_a_foreign_logger_on_a_full_disk_gets_the_advice_too(digits_toolkit, tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(loggers.TensorBoard, "flush", full)
    chosen = digits(digits_toolkit, "loggers=[csv, tensorboard]", "checkpoint.every_seconds=0")
    with pytest.raises(RunError, match=r"is full.*Then go on: toolkit train --resume"):
        run.train(chosen, out=tmp_path / "full", quiet=True)
    assert checkpoint.read(RunDirectory(tmp_path / "full").last)["global_step"] == 1


def test_a_run_that_cannot_even_note_its_start_leaves_nothing(digits_toolkit, tmp_path, full_disk):
    full_disk("recipe.yaml")
    with pytest.raises(Exception, match=r"is full.*Free some space"):
        run.train(digits(digits_toolkit), out=tmp_path / "full", quiet=True)
    assert not (tmp_path / "full").exists()
