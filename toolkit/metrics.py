"""Metrics by name, each made from the data's spec."""

from __future__ import annotations

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from toolkit.data import Spec


def accuracy(spec: Spec) -> Metric:
    """Return the share of items whose highest score is their class. Shapes: preds (S, C), target (S,)."""
    return MulticlassAccuracy(len(spec["classes"]), average="micro", validate_args=False)


def macro_f1(spec: Spec) -> Metric:
    """Return F1 averaged over classes, each counting the same. Shapes: preds (S, C), target (S,)."""
    return MulticlassF1Score(len(spec["classes"]), average="macro", validate_args=False)


def calibration_error(spec: Spec) -> Metric:
    """Return the expected calibration error over 15 bins. Shapes: preds (S, C) logits, target (S,).

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    return MulticlassCalibrationError(len(spec["classes"]), n_bins=15, norm="l1", validate_args=False)
