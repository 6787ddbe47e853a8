"""Metrics by name, each made from the data's spec."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAUROC, MulticlassCalibrationError, MulticlassF1Score

from toolkit.data import Spec


class Accuracy(Metric):
    """Share of items whose highest score is their class.

    torchmetrics' own counts right and wrong for each class first, which takes longer than a small graph's evaluation.
    Shapes: preds (S, C), target (S,).
    """

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.right.add_((preds.argmax(-1) == target).sum())  # in place: setting an attribute of a Metric is slow
        self.total.add_(len(target))

    def compute(self) -> Tensor:
        return self.right / self.total


def accuracy(spec: Spec) -> Metric:
    """Return the share of right answers."""
    return Accuracy()


def macro_f1(spec: Spec) -> Metric:
    """Return F1 averaged over classes, each counting the same. Shapes: preds (S, C), target (S,)."""
    return MulticlassF1Score(len(spec["classes"]), average="macro", validate_args=False)


def calibration_error(spec: Spec) -> Metric:
    """Return the expected calibration error over 15 bins. Shapes: preds (S, C) logits, target (S,).

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    return MulticlassCalibrationError(len(spec["classes"]), n_bins=15, norm="l1", validate_args=False)


def auroc(spec: Spec) -> Metric:
    """Return the area under the receiver operating characteristic, averaged over classes, each against the rest.

    Of two classes that is the area of either. Shapes: preds (S, C), target (S,).
    """
    return MulticlassAUROC(len(spec["classes"]), average="macro", validate_args=False)
