"""What the tests of the graph plugin share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from toolkit.plugins import Toolkit, using


@pytest.fixture
def toolkit() -> Iterator[Toolkit]:
    fresh = Toolkit()
    fresh.load_entry_points()
    with using(fresh):
        yield fresh
