"""What tests of every room share: the third-party plugin of `fixtures/`, found as if pip had installed it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# One thread a process: tests run one process a core, and threads that wait for a core cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"

from toolkit.plugins import Toolkit, using  # noqa: E402 - torch reads the variable when it is first imported

DIGITS = Path(__file__).parent / "fixtures" / "digits_plugin"


@pytest.fixture(scope="session")
def digits_folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the folders which, on the module path, make the plugin `digits` an installed distribution."""
    site = tmp_path_factory.mktemp("site")
    info = site / "toolkit_digits-0.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-digits\nVersion: 0.3.0\n")
    (info / "entry_points.txt").write_text("[toolkit]\ndigits = toolkit_digits.plugin\n")
    return [str(DIGITS), str(site)]


@pytest.fixture
def digits_toolkit(digits_folders: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Toolkit]:
    """A fresh toolkit, in use during the test, with the plugin `digits`; processes that Python spawns find it too."""
    for folder in digits_folders:
        monkeypatch.syspath_prepend(folder)
    toolkit = Toolkit()
    toolkit.load_entry_points()
    assert not toolkit.statuses["digits"].error
    with using(toolkit):
        yield toolkit


@pytest.fixture
def digits_environment(digits_folders: list[str]) -> dict[str, str]:
    """The environment for `subprocess` in which the plugin `digits` is installed."""
    path = [*digits_folders, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
