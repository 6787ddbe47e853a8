"""What tests of every room share: no network, and the third-party plugin of `fixtures/` as if pip had installed it."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# One thread a process: tests run one process a core, and threads that wait for a core cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"

from toolkit.files import cache_root
from toolkit.plugins import Toolkit, using

DIGITS = Path(__file__).parent / "fixtures" / "digits_plugin"


@pytest.fixture(scope="session")
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of tests marked `index`: the user's own if there is one, else one that all workers share."""
    own = cache_root()
    if os.environ.get("TOOLKIT_CACHE") or (own.is_dir() and os.access(own, os.W_OK)):
        return own
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "index-cache"


@pytest.fixture(autouse=True)
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index_cache: Path) -> None:
    """Let only tests marked `index` leave this machine; the others get an empty cache, and so do their processes."""
    if request.node.get_closest_marker("index"):
        monkeypatch.setenv("TOOLKIT_CACHE", str(index_cache))
        return
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    for method in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, method, _guarded_connect(getattr(socket.socket, method)))
    for function in ("getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, function, _guarded_lookup(getattr(socket, function)))


def _guarded_connect(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _allow(address[0])
        return connect(self, address)

    return guarded


def _guarded_lookup(lookup: Any) -> Any:
    def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
        _allow(host)
        return lookup(host, *arguments, **options)

    return guarded


def _allow(host: Any) -> None:
    """Fail the test unless the host is this machine. A failure is no Exception: nothing in the code swallows it."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", "localhost.localdomain", socket.gethostname()):
        return
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        address = None
    if address is None or not (address.is_loopback or address.is_unspecified):
        pytest.fail(f"this test reaches for {name!r} on the network; only tests marked `index` may")


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
