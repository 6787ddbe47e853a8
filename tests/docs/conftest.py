"""The documentation is read with a fresh toolkit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from toolkit.plugins import Toolkit, using


@pytest.fixture(autouse=True)
def toolkit() -> Iterator[Toolkit]:
    fresh = Toolkit()
    fresh.load_entry_points(disabled=frozenset({"distance", "digits"}))  # whoever followed the README has it installed
    with using(fresh):
        yield fresh
