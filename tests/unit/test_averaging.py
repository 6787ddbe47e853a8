"""The average of the weights: what it is, where it stands, and going on with it."""

import pytest
import torch
from torch import nn
from training import Crash, Crasher, digits, same, weights, with_callback

from toolkit import checkpoint
from toolkit.callbacks.averaging import WeightAverage
from toolkit.run import train
from toolkit.trained import evaluate

AVERAGE = "callbacks=[{use: weight_average, decay: 0.9}]"


def averages(directory):
    found = checkpoint.read(directory / "checkpoints" / "last.ckpt")["callbacks"]
    (state,) = [value for key, value in found.items() if "WeightAverage" in key]
    return state


def test_it_is_a_moving_average_of_the_weights_after_each_step():
    torch.manual_seed(0)
    model, average = nn.Linear(3, 2), WeightAverage(decay=0.5)
    expected, seen = None, []
    for step in range(12):
        for weight in model.parameters():
            weight.data.add_(torch.randn_like(weight))
        average.update(model)
        now = model.weight.detach().clone()
        rate = min(0.5, (1 + step) / (10 + step))
        expected = now if expected is None else rate * expected + (1 - rate) * now
        seen.append(rate)
        torch.testing.assert_close(average.average["weight"], expected)
    assert seen[0] < seen[5] < 0.5 == seen[-1]


def test_the_best_is_the_average_and_the_last_the_weights(digits_toolkit, tmp_path):
    plain = train(digits(digits_toolkit), out=tmp_path / "plain", quiet=True)
    averaged = train(digits(digits_toolkit, AVERAGE), out=tmp_path / "averaged", quiet=True)
    assert same(weights(plain.directory), weights(averaged.directory))  # training itself is not touched
    assert averaged.best_epoch == 2
    kept, state = weights(averaged.directory, "best.ckpt"), averages(averaged.directory)
    assert set(state["average"]) == set(kept)
    assert all(torch.equal(kept[name], value) for name, value in state["average"].items())
    assert not same(kept, weights(averaged.directory))
    found = evaluate(averaged.directory, []).metrics
    for name, value in found.items():
        assert averaged.metrics[name] == pytest.approx(value, abs=1e-6)
    assert averaged.metrics["val/loss"] != pytest.approx(plain.metrics["val/loss"], abs=1e-4)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_start", "on_train_epoch_end"])
def test_going_on_is_exact(digits_toolkit, tmp_path, hook):
    recipe = digits(digits_toolkit, AVERAGE, "checkpoint.every_seconds=1e-9", "trainer.max_epochs=4")
    whole = train(recipe, out=tmp_path / "whole", quiet=True)
    steps = checkpoint.read(whole.directory / "checkpoints" / "last.ckpt")["global_step"]
    with with_callback(Crasher(hook, steps // 2 + 1)), pytest.raises(Crash):
        train(recipe, out=tmp_path / "broken", quiet=True)
    resumed = train(recipe, resume=tmp_path / "broken", quiet=True)
    for name in ("last.ckpt", "best.ckpt"):
        assert same(weights(whole.directory, name), weights(resumed.directory, name))
    one, other = averages(whole.directory), averages(resumed.directory)
    assert one["averaged"] == other["averaged"] == steps - 1
    assert same(one["average"], other["average"])
    assert resumed.metrics == whole.metrics


def test_it_may_begin_later_and_validation_may_lie_within_an_epoch(digits_toolkit, tmp_path):
    settings = ["trainer.val_check_interval=0.5", "callbacks=[{use: weight_average, decay: 0.9, begin: 5}]"]
    plain = train(digits(digits_toolkit, settings[0]), out=tmp_path / "plain", quiet=True)
    averaged = train(digits(digits_toolkit, *settings), out=tmp_path / "averaged", quiet=True)
    assert same(weights(plain.directory), weights(averaged.directory))
    steps = checkpoint.read(averaged.directory / "checkpoints" / "last.ckpt")["global_step"]
    assert averages(averaged.directory)["averaged"] == steps - 6
