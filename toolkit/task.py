"""The base LightningModule: a task writes `step`, and gets losses, metrics, logging and the optimizer from here."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from toolkit.attention import Mechanism
from toolkit.batches import Batch
from toolkit.choice import Choice
from toolkit.data import Spec
from toolkit.errors import CapabilityError, RecipeError

Row = dict[str, Any]
"""One prediction as plain values, by column."""


class StepOutput(NamedTuple):
    """What one forward pass yields.

    Shapes: loss (), the mean over the batch's S items; preds (S, ...), what the metrics take; target (S, ...).
    """

    loss: Tensor
    preds: Tensor
    target: Tensor


@dataclass(frozen=True)
class Optimization:
    """The optimizer, and the schedule with what Lightning wants to know about it."""

    optimizer: Choice
    schedule: Choice | None = None
    interval: str = "step"
    monitor: str | None = None


class Task(pl.LightningModule):
    """A model with a loss, metrics and predictions; trained, tested and restored the same way in every modality.

    A subclass names the keys it reads from the data's spec (`reads_spec`), the batches it takes (`takes_batch`), the
    arguments it gives to the model (`gives_model`), and writes `model_sizes`, `step` and `rows`. `item_column` names
    the column of its rows that numbers the items, if there is one: predictions are handed out in that order.
    `reads_aux`: whether its loss has the terms that some mechanisms learn from, such as `ReinforceLoss`.
    """

    takes_batch: ClassVar[type[Batch]] = Batch
    reads_aux: ClassVar[bool] = False
    reads_spec: ClassVar[tuple[str, ...]] = ()
    gives_model: ClassVar[tuple[str, ...]] = ()
    item_column: ClassVar[str | None] = None

    def __init__(self, *, spec: Spec, model: Choice, metrics: Sequence[str] = ()) -> None:
        super().__init__()
        self.spec = dict(spec)
        missing = [key for key in self.reads_spec if key not in self.spec]
        if missing:
            raise RecipeError(
                f"{type(self).__name__} reads {missing[0]!r} from its data, whose spec has {', '.join(self.spec)}: "
                "this data belongs to another task"
            )
        self.model: nn.Module = model.build(**self.model_sizes())
        self._check_mechanisms()
        # Not submodules: Lightning visits every submodule twice an epoch, to set and reset its training mode.
        self._metrics = {stage: {name: self._metric(name) for name in metrics} for stage in ("val", "test")}
        self.optimization: Optimization | None = None
        self._loss_sum: dict[str, Tensor] = {}
        self._item_sum: dict[str, int] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # Lightning sets it twice a hook; nn.Module's way costs more than most hooks do
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _check_mechanisms(self) -> None:
        for module in () if self.reads_aux else self.model.modules():
            if isinstance(module, Mechanism) and module.learns_from_aux:
                raise CapabilityError(
                    f"attention {module.name!r} learns from a loss on what it draws (`aux`), which "
                    f"{type(self).__name__} does not have; with estimator: straight_through it learns from any loss"
                )

    @abstractmethod
    def model_sizes(self) -> dict[str, Any]:
        """Return the model's arguments that follow from the spec, one for each name in `gives_model`."""

    @abstractmethod
    def step(self, batch: Any) -> StepOutput:
        """Run the model on a batch and return its mean loss, predictions and targets."""

    def beside(self, stage: str, name: str, batch: Any) -> Any:
        """Return what a metric takes beside predictions and targets, by its name in the metric's `reads`.

        stage: `val` or `test`. Here a field of the batch with one entry for each item, such as which group it belongs
        to; a task that writes texts gives these. Raises: RecipeError.
        """
        if not hasattr(batch, name):
            raise RecipeError(
                f"a metric of task.metrics reads {name!r} of each item, which {type(batch).__name__} does not have"
            )
        return getattr(batch, name)

    @abstractmethod
    def rows(self, batch: Any) -> Iterator[Row]:
        """Yield one plain row for each item of a batch, without looking at targets."""

    def start(self) -> None:
        """Let the model load what training begins with, such as pretrained weights; a restored task has its own."""
        begin = getattr(self.model, "start", None)
        if callable(begin):
            begin()

    def _metric(self, name: str) -> Metric:
        made: Metric = Choice("metrics", name).target()(self.spec)
        return made

    # Training -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        output = self.step(self._own(batch))
        items = len(output.target)
        if items == 0:  # more processes than items: no share in the step, but every weight takes part in the average
            return output.preds.sum() * 0
        self._add_loss("train", output.loss.detach(), items)
        if batch.total is None or self.trainer.world_size == 1:
            return output.loss
        return output.loss * (items * self.trainer.world_size / batch.total)

    def on_train_epoch_end(self) -> None:
        self.report({"train/loss": self._mean_loss("train")})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        loss_sum, num_items = self._all_sums("train")
        if num_items:
            checkpoint["train_sums"] = [loss_sum, int(num_items)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        sums = checkpoint.get("train_sums")
        # Saved in mid-epoch: the mean loss of the epoch goes on from there, in the process that counts for all.
        if sums and self.trainer.is_global_zero:
            self._loss_sum["train"], self._item_sum["train"] = sums[0].to(self.device), int(sums[1])

    # Evaluation -----------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self._conclude("val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def predict_step(self, batch: Batch, batch_index: int) -> list[Row]:
        return list(self.rows(self._own(batch)))

    def _own(self, batch: Batch) -> Batch:
        if not isinstance(batch, self.takes_batch):
            raise RecipeError(
                f"{type(self).__name__} takes a {self.takes_batch.__name__} from its data, but was given a "
                f"{type(batch).__name__}: choose data and task of one modality"
            )
        return batch

    def _evaluate(self, stage: str, batch: Batch) -> None:
        output = self.step(self._own(batch))
        if len(output.target) == 0:
            return
        self._add_loss(stage, output.loss, len(output.target))
        known: dict[str, Any] = {}  # made once for all metrics: writing the texts of a batch takes a while
        for metric in self._metrics[stage].values():
            reads: tuple[str, ...] = getattr(metric, "reads", ())
            known.update({name: self.beside(stage, name, batch) for name in reads if name not in known})
            beside = {name: known[name] for name in reads}
            _on(metric, output.preds.device).update(output.preds, output.target, **beside)

    def _conclude(self, stage: str) -> None:
        values = {f"{stage}/loss": self._mean_loss(stage)}
        for name, metric in self._metrics[stage].items():
            found = _on(metric, self.device).compute()
            parts = found if isinstance(found, dict) else {"": found}
            values.update({f"{stage}/{name}" + f"/{part}" * bool(part): value for part, value in parts.items()})
            metric.reset()
        self.report(values)

    def report(self, values: Mapping[str, Tensor]) -> None:
        """Give the values of an epoch, equal on all processes, to the callbacks and the loggers.

        Lightning's own `log` keeps books for reductions that these values do not need; on a model of a few
        milliseconds a step that would be a third of the time. A task may still call it for values of its own.
        """
        trainer = self.trainer
        trainer.callback_metrics.update(values)
        if trainer.sanity_checking or not trainer.loggers:
            return
        row = {name: float(value) for name, value in values.items()} | {"epoch": float(trainer.current_epoch)}
        # Steps are counted from 0, and the last of the epoch is done; a test comes after all of them.
        step = trainer.global_step - 1 if trainer.state.fn == "fit" else trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)
            logger.save()  # ours write now and then

    # The mean loss over items is exact for any batch sizes and any number of processes.

    def _add_loss(self, stage: str, loss: Tensor, num_items: int) -> None:
        share = loss.detach().to(self._exact) * num_items
        before = self._loss_sum.get(stage)
        self._loss_sum[stage] = share if before is None else before + share
        self._item_sum[stage] = self._item_sum.get(stage, 0) + num_items

    @property
    def _exact(self) -> torch.dtype:
        """What losses are summed in: in half precision a sum over an epoch would stand still. MPS has no double."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _mean_loss(self, stage: str) -> Tensor:
        loss_sum, num_items = self._all_sums(stage)
        self._loss_sum.pop(stage, None)
        self._item_sum.pop(stage, None)
        return loss_sum / num_items

    def _all_sums(self, stage: str) -> tuple[Tensor, float]:
        """Return the sum of losses and the number of items of all processes together; all of them must ask."""
        loss_sum = self._loss_sum.get(stage, torch.zeros((), dtype=self._exact, device=self.device))
        num_items = self._item_sum.get(stage, 0)
        if self.trainer.world_size == 1:
            return loss_sum, num_items
        sums = torch.stack([loss_sum, loss_sum.new_tensor(float(num_items))])
        sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return sums[0], float(sums[1])

    # Optimizer ------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        if self.optimization is None:
            raise RecipeError("this task has no optimizer: set task.optimization before training it")
        optimizer = self.optimization.optimizer.build([weight for weight in self.parameters() if weight.requires_grad])
        if self.optimization.schedule is None:
            return optimizer
        scheduler = self._schedule(self.optimization.schedule, optimizer)
        settings = {"scheduler": scheduler, "interval": self.optimization.interval}
        if self.optimization.monitor is not None:
            settings["monitor"] = self.optimization.monitor
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:  # Optimizer.zero_grad does the same inside a profiler's scope
            for weight in group["params"]:
                weight.grad = None

    def on_validation_model_zero_grad(self) -> None:
        for optimizer in self.trainer.optimizers:  # not self.zero_grad(), which walks the module tree
            self.optimizer_zero_grad(self.trainer.current_epoch, 0, optimizer)

    def _schedule(self, choice: Choice, optimizer: torch.optim.Optimizer) -> Any:
        if choice.options.get("total_steps") is None and takes_total_steps(choice.target()):
            steps = self.trainer.estimated_stepping_batches
            if steps == float("inf"):
                raise RecipeError(f"schedule {choice.name} needs an end: set trainer.max_epochs or trainer.max_steps")
            if self.optimization is not None and self.optimization.interval == "epoch":
                steps = self.trainer.max_epochs or steps
            choice = replace(choice, options={**choice.options, "total_steps": int(steps)})
        return choice.build(optimizer)


# Lightning asks for the signature of a step before every step, to see whether it takes a batch_index.
Task.training_step.__signature__ = inspect.signature(Task.training_step)  # type: ignore[attr-defined]


def _on(metric: Metric, device: torch.device) -> Metric:
    """Return the metric on a device; moving one that is there already would cost as much as updating it."""
    return metric if metric.device == device else metric.to(device)


def takes_total_steps(schedule: Callable[..., Any]) -> bool:
    """Tell whether a schedule wants to know the length of training."""
    from toolkit.binding import parameters

    return "total_steps" in parameters(schedule)
