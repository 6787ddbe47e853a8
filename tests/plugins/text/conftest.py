"""What the tests of the text plugin share: real sentences in files of a few kinds."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from text_samples import reviews

from toolkit.plugins import Toolkit, using


@pytest.fixture
def toolkit() -> Iterator[Toolkit]:
    fresh = Toolkit()
    fresh.load_entry_points()
    with using(fresh):
        yield fresh


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV file with the columns text and label."""
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *reviews()])
    return path
