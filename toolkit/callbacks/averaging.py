"""The average of the weights over training, which is what is validated, tested and kept as the best."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from toolkit.binding import NonNegative, Probability


class WeightAverage(pl.Callback):
    """Keep an exponential moving average of all weights, and put it in their place while the model is validated.

    average <- rate * average + (1 - rate) * weights after each step, with rate = min(decay, (1 + n) / (10 + n)) at the
    n-th averaged step, so that the first weights are soon forgotten; the average begins after `begin` steps. Validation
    looks at the average, so `best.ckpt` holds it and tests use it; `last.ckpt` holds the weights themselves, and the
    average beside them, from which training goes on as if it had never stopped.
    Source: Polyak & Juditsky 1992; as a moving average Tarvainen & Valpola 2017, arXiv:1703.01780; the rate as in
    TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, *, decay: Probability = 0.999, begin: NonNegative = 0) -> None:
        self.decay, self.begin = decay, begin
        self.average: dict[str, Tensor] = {}
        self.averaged = 0
        self._own: dict[str, Tensor] = {}  # the weights, while the average is in their place
        self._step = -1

    def state_dict(self) -> dict[str, Any]:
        return {"average": dict(self.average), "averaged": self.averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average, self.averaged = dict(state["average"]), int(state["averaged"])

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.average = {name: value.to(task.device) for name, value in self.average.items()}
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._put_back(task)  # validation may lie within an epoch

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step or trainer.global_step <= self.begin:  # gradients are gathered, or warm-up
            return
        self._step = trainer.global_step
        self.update(task)

    @torch.no_grad()
    def update(self, task: nn.Module) -> None:
        """Take the weights of a step into the average."""
        weights = dict(_weights(task))
        if not self.average:
            self.average = {name: value.detach().clone() for name, value in weights.items()}
            return
        self.averaged += 1
        rate = min(self.decay, (1 + self.averaged) / (10 + self.averaged))
        averages = [self.average[name] for name in weights]
        torch._foreach_lerp_(averages, [value.detach() for value in weights.values()], 1 - rate)

    def on_validation_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.average and trainer.state.fn == "fit" and not self._own:
            self._own = {name: value.detach().clone() for name, value in _weights(task)}
            _assign(task, self.average)

    # Not at the end of validation: `Checkpoints` takes the best weights there, after this callback.

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._put_back(task)

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        self._put_back(task)

    def _put_back(self, task: nn.Module) -> None:
        own, self._own = self._own, {}
        _assign(task, own)


def _weights(task: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the weights that are learned; what layers count, such as running means, is their own average already."""
    return [(name, weight) for name, weight in task.named_parameters() if weight.requires_grad]


@torch.no_grad()
def _assign(task: nn.Module, values: dict[str, Tensor]) -> None:
    for name, weight in task.named_parameters():
        if name in values:
            weight.copy_(values[name])
