"""How good texts are that a model wrote: BLEU, chrF and exact matches; and how good it is token by token.

Their states are sums, so that they are exact for any batches and any number of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from toolkit.data import Spec
from toolkit.metrics import Accuracy


class TextMetric(Metric):
    """Base of metrics that compare what was written with its reference, whatever the tokens."""

    full_state_update = False
    reads: ClassVar[tuple[str, ...]] = ("written", "reference")
    """What the task gives besides predictions and targets: a text of each for every item."""


class BLEU(TextMetric):
    """BLEU from 0 to 100 of all texts together, as sacreBLEU computes it with tokenizer 13a and one reference each.

    lowercase: compare without regard to case. Source: Papineni et al. 2002; Post 2018, arXiv:1804.08771.
    """

    counts: Tensor
    totals: Tensor
    lengths: Tensor

    def __init__(self, lowercase: bool = False) -> None:
        super().__init__()
        from sacrebleu import metrics as sacrebleu

        self.bleu = sacrebleu.BLEU(lowercase=lowercase, force=True)  # force: it would warn of texts that seem tokenized
        for name, size in (("counts", 4), ("totals", 4), ("lengths", 2)):
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Any, target: Any, written: Sequence[str], reference: Sequence[str]) -> None:
        found = self.bleu.corpus_score(list(written), [list(reference)])
        self.counts += torch.tensor(found.counts, device=self.counts.device)
        self.totals += torch.tensor(found.totals, device=self.totals.device)
        self.lengths += torch.tensor([found.sys_len, found.ref_len], device=self.lengths.device)

    def compute(self) -> Tensor:
        written, wanted = self.lengths.tolist()
        score = self.bleu.compute_bleu(self.counts.tolist(), self.totals.tolist(), written, wanted).score
        return torch.tensor(score, dtype=torch.float64)


class ChrF(TextMetric):
    """chrF2 from 0 to 100 of all texts together, as sacreBLEU computes it: F-score of runs of 1 to 6 characters.

    Blanks do not count. Precision and recall are means over the lengths of runs that both sides have.
    Shapes: runs (6, 3): written, wanted, both. Source: Popovic 2015, WMT, with beta 2.
    """

    ORDER, BETA = 6, 2
    runs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("runs", torch.zeros(self.ORDER, 3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Any, target: Any, written: Sequence[str], reference: Sequence[str]) -> None:
        found = [[0, 0, 0] for _ in range(self.ORDER)]
        for text, wanted in zip(written, reference, strict=True):
            one, other = "".join(text.split()), "".join(wanted.split())
            for order, sums in enumerate(found, start=1):
                ours, theirs = runs(one, order), runs(other, order)
                both = (ours & theirs).total()
                # sacreBLEU counts what was written only where there is a reference to match
                for place, value in enumerate((ours.total() if theirs else 0, theirs.total(), both)):
                    sums[place] += value
        self.runs += torch.tensor(found, device=self.runs.device)

    def compute(self) -> Tensor:
        factor = self.BETA**2
        counted = [each for each in self.runs.tolist() if each[0] and each[1]]
        precision = sum(both / written for written, _, both in counted) / max(1, len(counted))
        recall = sum(both / wanted for _, wanted, both in counted) / max(1, len(counted))
        total = factor * precision + recall
        score = (1 + factor) * precision * recall / total if total else 0.0
        return torch.tensor(100 * score, dtype=torch.float64)


def runs(text: str, length: int) -> Counter[str]:
    """Count the runs of `length` characters."""
    return Counter(text[start : start + length] for start in range(len(text) - length + 1))


class ExactMatch(TextMetric):
    """Share of texts that were written exactly as they should have been."""

    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Any, target: Any, written: Sequence[str], reference: Sequence[str]) -> None:
        self.right += sum(one == other for one, other in zip(written, reference, strict=True))
        self.total += len(reference)

    def compute(self) -> Tensor:
        return self.right / self.total


def bleu(spec: Spec) -> Metric:
    """Return sacreBLEU's BLEU, upper and lower case being different."""
    return BLEU()


def bleu_lowercase(spec: Spec) -> Metric:
    """Return sacreBLEU's BLEU of texts in lower case."""
    return BLEU(lowercase=True)


def chrf(spec: Spec) -> Metric:
    """Return sacreBLEU's chrF2."""
    return ChrF()


def exact_match(spec: Spec) -> Metric:
    """Return the share of texts that are exactly right."""
    return ExactMatch()


def token_accuracy(spec: Spec) -> Metric:
    """Return the share of tokens that are scored highest, each after the true ones before it."""
    return Accuracy()
