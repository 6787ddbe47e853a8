"""Metrics of translations against sacreBLEU, whatever the batches."""

from __future__ import annotations

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from toolkit_text.translation_metrics import bleu, bleu_lowercase, chrf, exact_match, token_accuracy

REFERENCES = [
    "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    "Mehrere Männer mit Schutzhelmen bedienen ein Antriebsradsystem.",
    "Ein kleines Mädchen klettert in ein Spielhaus aus Holz.",
    "Ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster.",
    "Zwei Männer stehen am Herd und bereiten Essen zu.",
    "Ja.",
    "日本語の文です。",
]
WRITTEN = [
    "Zwei junge Männer sind draußen in der Nähe von vielen Büschen.",
    "Mehrere Männer mit Helmen bedienen ein System .",
    "ein kleines Mädchen klettert in ein Spielhaus aus Holz.",
    "Ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster.",
    "",
    "Nein",
    "日本の文。",
]
NOTHING = torch.zeros(0)


def measured(made, written, references, size):
    metric = made({})
    for first in range(0, len(written), size):
        metric.update(NOTHING, NOTHING, written[first : first + size], references[first : first + size])
    return float(metric.compute())


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(
    ("made", "reference"),
    [(bleu, BLEU()), (bleu_lowercase, BLEU(lowercase=True)), (chrf, CHRF())],
    ids=["bleu", "bleu_lowercase", "chrf"],
)
def test_as_sacrebleu_says(made, reference, size):
    expected = reference.corpus_score(WRITTEN, [REFERENCES]).score
    assert 5 < expected < 95
    assert measured(made, WRITTEN, REFERENCES, size) == pytest.approx(expected, abs=1e-9)
    perfect = reference.corpus_score(REFERENCES, [REFERENCES]).score
    assert measured(made, REFERENCES, REFERENCES, size) == pytest.approx(perfect, abs=1e-9) == pytest.approx(100)
    assert measured(made, [""] * 7, REFERENCES, size) == 0.0


def test_case_counts_unless_it_is_said_not_to():
    assert measured(bleu, [text.upper() for text in REFERENCES], REFERENCES, 3) < 20
    assert measured(bleu_lowercase, [text.upper() for text in REFERENCES[:1]], REFERENCES[:1], 3) > 60


def test_texts_match_whole_or_not():
    assert measured(exact_match, WRITTEN, REFERENCES, 2) == pytest.approx(1 / 7)


def test_tokens_match_one_by_one():
    metric = token_accuracy({})
    metric.update(torch.eye(4)[[0, 1, 2, 3, 3]], torch.tensor([0, 1, 2, 2, 3]))
    assert float(metric.compute()) == pytest.approx(4 / 5)
