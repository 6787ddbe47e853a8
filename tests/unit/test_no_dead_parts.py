"""What a recipe may set and what plugins may rely on is read by somebody: a knob nobody reads is a false promise."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from toolkit.batches import Batch
from toolkit.data import Data
from toolkit.settings import CheckpointSettings, CompileSettings, Expectation, StopSettings

ROOT = Path(__file__).parents[2]
SOURCES = [path for room in ("toolkit", "plugins") for path in sorted((ROOT / room).rglob("*.py"))]
CODE = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)

SETTINGS = [
    (kind, field.name)
    for kind in (StopSettings, CheckpointSettings, CompileSettings, Expectation)
    for field in fields(kind)
]
PROMISES = [(kind, name) for kind in (Data, Batch) for name in vars(kind) if not name.startswith("_")]


@pytest.mark.parametrize(("kind", "name"), SETTINGS + PROMISES, ids=lambda value: getattr(value, "__name__", value))
def test_somebody_reads_it(kind, name):
    """As an attribute, or by its key in a document."""
    assert re.search(rf"\.{name}\b|[\"']{name}[\"']\s*[\],)]", CODE)
