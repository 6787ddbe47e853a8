"""The guard of conftest.py: tests stay on this machine unless they are marked `index`."""

import os
import socket
import subprocess
import sys

import pytest
import requests

from toolkit.downloads import session
from toolkit.errors import SourceError

Failed = pytest.fail.Exception


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_connecting_elsewhere_fails_the_test(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as opened:
        opened.settimeout(0.01)
        for connect in (opened.connect, opened.connect_ex):
            with pytest.raises(Failed, match=address):
                connect((address, 80))


@pytest.mark.parametrize(("ask", "more"), [("getaddrinfo", (80,)), ("gethostbyname", ())])
def test_asking_for_a_name_fails_the_test(ask, more):
    with pytest.raises(Failed, match=r"data\.example"):
        getattr(socket, ask)("data.example", *more)
    assert getattr(socket, ask)("127.0.0.1", *more)


def test_no_library_swallows_it():
    with pytest.raises(Failed, match=r"data\.example"):
        requests.get("http://data.example/file", timeout=1, proxies={"http": "", "https": ""})


def test_this_machine_is_allowed():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as opened:
        assert opened.getpeername() == server.getsockname()


def test_processes_are_offline_too():
    with pytest.raises(SourceError, match="TOOLKIT_OFFLINE"):
        session()
    asked = "from toolkit.files import cache_root, offline; print(offline(), cache_root())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", os.environ["TOOLKIT_CACHE"]]


@pytest.mark.index
def test_marked_tests_share_one_cache(index_cache):
    assert os.environ["TOOLKIT_CACHE"] == str(index_cache)
    assert socket.socket.connect.__name__ == "connect"
