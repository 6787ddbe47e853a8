"""Mechanisms, patterns, backends, shapes, types, biases and needs, drawn at random: each matches or is refused.

TOOLKIT_FUZZ=5000 pytest tests/conformance/test_fuzz.py      draws that many cases
TOOLKIT_FUZZ_SEED=7                                          draws others
"""

from __future__ import annotations

import os
import random

import pytest
import torch

from toolkit.plugins import load_toolkit
from toolkit.testing.case import Case
from toolkit.testing.check import attempt, shrink
from toolkit.testing.kit import CHECKS
from toolkit.testing.patterns import ON_EDGES, WORDS
from toolkit.testing.subject import Subject, not_covered

DRAWS = int(os.environ.get("TOOLKIT_FUZZ", "800"))
SEED = int(os.environ.get("TOOLKIT_FUZZ_SEED", "0"))
SOME = 100  # draws a test
SUBJECTS = [
    variant
    for entry in load_toolkit().registry.all("attention")
    if not not_covered(entry)
    for variant in Subject.of(entry.full_name, entry.load()).variants()
    if not variant.on_maps
]
NORMALIZED = ("softmax", "softmax_plus_one", "sparsemax", "entmax15", "sigmoid", "none")
DENSE_WORDS = [word for word in WORDS if word not in ON_EDGES]
ON_CUDA = ("flash_attn", "fla")  # refused here
CHECKED = ("mask_leak", "empty_rows", "poison", "weights", "row_sums", "batch_independence", "deterministic")


def drawn(chance: random.Random) -> tuple[Subject, str, Case]:
    """Draw a mechanism, a check and a case for it."""
    subject = chance.choice(SUBJECTS)
    layout = chance.choice(subject.layouts())
    queries, keys = chance.randint(1, 7), chance.randint(1, 7)
    heads = chance.choice([1, 2, 4])
    if layout == "edges":
        pattern = chance.choice(["graph", "simple"]) + chance.choice(["", " & causal", " & window", " & strided"])
    else:
        pattern = chance.choice(DENSE_WORDS)
        for _ in range(chance.choice([0, 0, 1, 2])):
            pattern += chance.choice([" & ", " | "]) + chance.choice(DENSE_WORDS)
        if chance.random() < 0.05:
            pattern, queries, keys = "causal", chance.choice([0, 3]), 0
    options = dict(subject.examples[0])
    if subject.takes("normalize") and chance.random() < 0.5:
        options["normalize"] = chance.choice(NORMALIZED)
    halves = [torch.bfloat16, torch.float16] if subject.declared.gradient == "exact" else []  # rounding turns choices
    dtype = chance.choice([torch.float64, torch.float64, torch.float32, *halves])
    check = chance.choice(CHECKED)
    if dtype != torch.float64:
        check = "reference" if dtype == torch.float32 else "half_precision"
    case = Case(
        layout=layout,
        backend=chance.choice(["auto", *(each for each in subject.backends() if each not in ON_CUDA)]),
        dtype=dtype,
        batch=chance.randint(1, 3),
        heads=heads,
        kv_heads=chance.choice([each for each in (1, 2, 4) if heads % each == 0]) if layout == "dense" else None,
        queries=queries,
        keys=keys,
        dim=chance.choice([1, 2, 4, 8]),
        value_dim=chance.choice([None, None, 3]),
        pattern=pattern,
        bias=chance.random() < 0.4,
        options=options,
        seed=chance.randint(0, 10_000),
    )
    return subject, check, case


def fits(subject: Subject, case: Case) -> bool:
    """Tell whether the drawn sizes go with the options."""
    try:
        subject.target(heads=case.heads, dim=case.dim, **case.options)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("part", range(max(1, DRAWS // SOME)))
def test_every_draw_matches_or_is_refused(part, monkeypatch):
    if part % 2:  # small chunks, so that short sequences are cut as well
        monkeypatch.setattr("toolkit.attention.backends.rows._BYTES", 480)
        monkeypatch.setattr("toolkit.attention.segment._CHUNK", 40)
        monkeypatch.setattr("toolkit.attention.weighing._STEP", 40)
    chance, answered = random.Random(f"{SEED} {part}"), 0
    for _ in range(min(DRAWS, SOME)):
        subject, name, case = drawn(chance)
        check = CHECKS[name]
        if check.unless(subject) or not fits(subject, case):
            continue
        # Gradients cancel in tiny cases; only of a plain formula that does so too is it known how much is lost.
        with torch.set_grad_enabled(case.dtype == torch.float64 or subject.pairwise):
            broken, refusal = attempt(check, subject, case)
            case, broken = shrink(check, subject, case, broken) if broken else (case, "")
        if broken:
            pytest.fail(f"{subject.name} breaks {name}: {broken}\n{case}", pytrace=False)
        answered += not broken and not refusal
    assert answered > SOME // 4
