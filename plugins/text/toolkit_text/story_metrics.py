"""Metrics of questions about stories: by task, and of attention against the sentences that matter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from toolkit.data import Spec
from toolkit.errors import RecipeError

SOLVED = 0.05
"""The error up to which a task counts as solved. Source: Weston et al. 2015, arXiv:1502.05698, sec. 5."""


class _ByTask(Metric):
    """Counts right and all answers of each task. Shapes: preds (S, C), target (S,), task (S,)."""

    reads: ClassVar[tuple[str, ...]] = ("task",)
    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, tasks: list[str]) -> None:
        super().__init__()
        self.tasks = tasks
        self.add_state("right", torch.zeros(len(tasks), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(tasks), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, task: Tensor) -> None:
        hit = preds.argmax(-1) == target
        self.right.add_(torch.bincount(task[hit], minlength=len(self.tasks)))
        self.total.add_(torch.bincount(task, minlength=len(self.tasks)))

    @property
    def errors(self) -> Tensor:
        """The error of each task that was asked about. Shapes: (tasks,)."""
        asked = self.total > 0
        return 1 - self.right[asked] / self.total[asked]


class TaskErrors(_ByTask):
    """The error of each task that was asked about, by its name."""

    def compute(self) -> dict[str, Tensor]:
        asked = [name for name, count in zip(self.tasks, self.total.tolist(), strict=True) if count]
        return dict(zip(asked, self.errors, strict=True))


class MeanTaskError(_ByTask):
    """The mean of the tasks' errors, each counting the same however many questions it has."""

    def compute(self) -> Tensor:
        return self.errors.mean()


class SolvedTasks(_ByTask):
    """How many tasks have an error of 5 % at most."""

    def compute(self) -> Tensor:
        return (self.errors <= SOLVED + 1e-6).sum()  # 0.05 has no exact float


class SupportMass(Metric):
    """The share of attention, summed over hops, that lies on supporting sentences; the best hop of each counts for it.

    Each question gives the mean, over its supporting sentences, of the largest weight that any hop gives it; questions
    without supporting sentences do not count, and without any the value is NaN. Shapes: support_mass (S,), NaN where
    there is none.
    """

    reads: ClassVar[tuple[str, ...]] = ("support_mass",)
    full_state_update = False
    mass: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mass", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, support_mass: Tensor) -> None:
        known = ~support_mass.isnan()
        self.mass.add_(support_mass[known].double().sum())
        self.total.add_(known.sum())

    def compute(self) -> Tensor:
        return self.mass / self.total


def task_errors(spec: Spec) -> Metric:
    """Return the error of each task."""
    return TaskErrors(_tasks(spec))


def mean_task_error(spec: Spec) -> Metric:
    """Return the mean of the tasks' errors."""
    return MeanTaskError(_tasks(spec))


def solved_tasks(spec: Spec) -> Metric:
    """Return how many tasks are answered with an error of 5 % at most."""
    return SolvedTasks(_tasks(spec))


def support_mass(spec: Spec) -> Metric:
    """Return the share of attention on the supporting sentences."""
    return SupportMass()


def _tasks(spec: Spec) -> list[str]:
    if "tasks" not in spec:
        raise RecipeError(
            f"a metric by task reads 'tasks' from its data, whose spec has {', '.join(spec)}: it is for text:answering"
        )
    tasks: list[str] = spec["tasks"]
    return tasks
