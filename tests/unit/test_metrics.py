import pytest
import torch
from sklearn.metrics import roc_auc_score

from toolkit.metrics import auroc, calibration_error


def measured(make, classes, preds, target, size=None):
    metric = make({"classes": [str(k) for k in range(classes)]})
    for part in torch.arange(len(target)).split(size or len(target)):
        metric.update(preds[part], target[part])
    return float(metric.compute())


def scores(classes, count=300, seed=0):
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (count,), generator=draw)
    preds = torch.rand(count, classes, generator=draw) * 0.6  # between 0 and 1, as probabilities are
    preds[torch.arange(count), target] += 0.3
    preds[::2] = preds[::2] * 8 - 3  # and others that are not
    return preds, target


@pytest.mark.parametrize("classes", [2, 4])
def test_the_area_is_scikit_learns(classes):
    preds, target = scores(classes)
    chances = preds.double().softmax(-1)
    wanted = roc_auc_score(target, chances[:, 1] if classes == 2 else chances, multi_class="ovr")
    assert measured(auroc, classes, preds, target) == pytest.approx(wanted, abs=1e-9)
    tied = preds.round()
    chances = tied.double().softmax(-1)
    wanted = roc_auc_score(target, chances[:, 1] if classes == 2 else chances, multi_class="ovr")
    assert measured(auroc, classes, tied, target) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("make", [auroc, calibration_error])
def test_the_size_of_batches_changes_nothing(make):
    preds, target = scores(3)
    assert measured(make, 3, preds, target, size=1) == pytest.approx(measured(make, 3, preds, target), abs=1e-6)


def test_a_class_that_is_not_there_has_no_area():
    preds, target = scores(3)
    kept = target != 2
    preds, target = preds[kept], target[kept]
    chances = preds.double().softmax(-1)
    wanted = [roc_auc_score(target == index, chances[:, index]) for index in (0, 1)]
    assert measured(auroc, 3, preds, target) == pytest.approx(sum(wanted) / 2, abs=1e-9)
    assert torch.tensor(measured(auroc, 3, preds, torch.zeros_like(target))).isnan()


def test_confident_scores_are_told_apart():
    preds = torch.tensor([[0.0, 20.0], [0.0, 25.0], [0.0, 18.0], [0.0, 30.0]])
    assert measured(auroc, 2, preds, torch.tensor([0, 1, 0, 1])) == 1.0
