"""Fixtures that several families of attention share."""

import pytest


@pytest.fixture(params=[2, 3, 128])
def chunk(request, monkeypatch):
    """Chunks that divide the length or not, and one that holds it."""
    monkeypatch.setattr("toolkit.attention.running_sums._CHUNK", request.param)
