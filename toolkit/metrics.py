"""Metrics by name, each made from the data's spec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError, MulticlassF1Score
from torchmetrics.utilities import dim_zero_cat

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


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error of logits.

    torchmetrics takes a batch whose logits all happen to lie between 0 and 1 for probabilities.
    Shapes: preds (S, C) logits, target (S,).
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.float().softmax(-1), target)


def calibration_error(spec: Spec) -> Metric:
    """Return the expected calibration error over 15 bins. Shapes: preds (S, C) logits, target (S,).

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    return CalibrationError(len(spec["classes"]), n_bins=15, norm="l1", validate_args=False)


class AreaUnderROC(Metric):
    """Area under the receiver operating characteristic, each class against the rest, averaged over classes.

    A class without items, or with all of them, has no area and does not count; where that leaves none, the value is
    NaN. torchmetrics counts such a class as 0, and takes a batch whose logits all happen to lie between 0 and 1 for
    probabilities. Shapes: preds (S, C) logits, target (S,).
    """

    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(_probabilities(preds))
        self.target.append(target)

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        if not self.preds:  # no share in the data: what the processes gather has one shape and type all the same
            nothing = torch.zeros(0, self.classes, device=self.device)
            self.update(nothing, nothing.argmax(-1))
        super()._sync_dist(*arguments, **options)

    def compute(self) -> Tensor:
        preds, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        counts = torch.bincount(target, minlength=self.classes)
        measured = torch.nonzero((counts > 0) & (counts < len(target))).flatten().tolist()
        areas = [_area(preds[:, index], target == index) for index in measured]
        return torch.stack(areas).mean() if areas else preds.new_tensor(torch.nan)


def auroc(spec: Spec) -> Metric:
    """Return the area under the receiver operating characteristic, averaged over classes, each against the rest.

    Of two classes that is the area of either. Shapes: preds (S, C) logits, target (S,).
    """
    return AreaUnderROC(len(spec["classes"]))


def _probabilities(logits: Tensor) -> Tensor:
    """Return the probability of each class, in double precision where there is any: ties would cost area."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64).softmax(-1)


def _area(score: Tensor, positive: Tensor) -> Tensor:
    """Return the chance that a positive item scores above a negative one, a tie counting half (Mann-Whitney).

    Shapes: score (S,), positive (S,) bool -> ().
    """
    _, place, ties = score.unique(return_inverse=True, return_counts=True)
    rank = (ties.cumsum(0) - (ties - 1) / 2)[place].to(score.dtype)  # from 1; equal scores share the mean of theirs
    count = positive.sum()
    return (rank[positive].sum() - count * (count + 1) / 2) / (count * (len(score) - count))
