"""Everything here talks to a server on this machine only."""

import os
import threading
from http.server import ThreadingHTTPServer

import pytest
from served import Handler

from toolkit import downloads


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """A cache of our own, and none of the machine's pip settings, proxies and pauses."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "TOOLKIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PAUSE", 0.001)


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.pages = {}
    server.home = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
