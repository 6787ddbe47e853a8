"""What the tests of training share: a recipe of seconds, runs that end early, and weights to compare."""

from contextlib import contextmanager

import pytest
import pytorch_lightning as pl
import torch

from toolkit import checkpoint, recipe, run


def digits(toolkit, *overrides):
    return recipe.load("digits", toolkit, ["trainer.max_epochs=3", "loggers=[csv]", *overrides])


def weights(directory, name="last.ckpt"):
    return checkpoint.read(directory / "checkpoints" / name)["state_dict"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Crash(BaseException):
    """As sudden as a kill: nobody catches it on the way."""


class Crasher(pl.Callback):
    def __init__(self, hook, step):
        def crash(trainer, *_):
            if trainer.global_step >= step:
                raise Crash

        setattr(self, hook, crash)


@contextmanager
def with_callback(callback):
    """Train with one more callback than the recipe asks for."""
    build = run._trainer

    def trainer(*arguments):
        built = build(*arguments)
        built.callbacks.insert(0, callback)
        return built

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_trainer", trainer)
        yield
