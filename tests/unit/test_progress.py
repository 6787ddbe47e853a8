"""Where there is no terminal, lines say how far a training is, also within a long epoch."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from toolkit.callbacks import progress
from toolkit.callbacks.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def lines(clock, capsys, *, epochs, batches, seconds):
    """Return what is printed while batches take some seconds each."""
    trainer = SimpleNamespace(
        is_global_zero=True,
        current_epoch=0,
        max_epochs=epochs,
        should_stop=False,
        num_training_batches=batches,
        callback_metrics={"val/loss": 0.5},
    )
    bar = ProgressBar(Console(file=io.StringIO()))
    bar.on_train_start(trainer, None)
    for trainer.current_epoch in range(epochs):
        for batch in range(batches):
            clock.seconds += seconds
            bar.on_train_batch_end(trainer, None, None, None, batch)
        bar.on_train_epoch_end(trainer, None)
    return capsys.readouterr().err.splitlines()


def test_a_long_epoch_tells_its_batches(clock, capsys):
    found = lines(clock, capsys, epochs=1, batches=10, seconds=16)
    assert found == [*(f"epoch 1: batch {batch} of 10" for batch in (2, 4, 6, 8)), "epoch 1: val/loss 0.5"]


def test_lines_of_batches_leave_out_no_epoch(clock, capsys):
    found = lines(clock, capsys, epochs=3, batches=2, seconds=20)
    assert [line for line in found if "val/loss" in line] == [f"epoch {epoch}: val/loss 0.5" for epoch in (1, 2, 3)]


def test_short_epochs_tell_a_line_every_half_minute(clock, capsys):
    found = lines(clock, capsys, epochs=100, batches=1, seconds=1)
    assert 3 <= len(found) <= 5
    assert found[-1] == "epoch 100: val/loss 0.5"
