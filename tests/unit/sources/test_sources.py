"""A file by name and sum: what is believed, what is set aside, what is told, and who fetches of several."""

import subprocess
import sys
import textwrap
import time

import pytest
from served import CONTENT, Page, digest, put, resource

from toolkit import files
from toolkit.errors import SourceError
from toolkit.sources import LocalFile, PackageMember, Resource, Url, fetch


def test_a_wrong_sum_is_set_aside_and_the_next_source_tried(server):
    wrong = b"not what was wanted"
    wanted = resource(put(server, Page(wrong)), put(server, Page(CONTENT), "/right"))
    assert fetch(wanted).read_bytes() == CONTENT
    aside = wanted.path.with_name(f"file.wrong-sha256-{digest(wrong)[:8]}")
    assert aside.read_bytes() == wrong


def test_a_wrong_file_in_the_cache_is_set_aside(server):
    wanted = resource(put(server, Page(CONTENT)))
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(b"rotten")
    assert fetch(wanted).read_bytes() == CONTENT
    assert wanted.path.with_name(f"file.wrong-sha256-{digest(b'rotten')[:8]}").read_bytes() == b"rotten"


def test_every_failure_is_told_with_the_way_out(server, tmp_path):
    wrong = b"wrong"
    wanted = resource(
        LocalFile(path=str(tmp_path), name="absent"), Url(url=server.home + "/gone"), put(server, Page(wrong))
    )
    with pytest.raises(SourceError) as caught:
        fetch(wanted)
    message = str(caught.value)
    for part in (
        f"there is no file {tmp_path / 'absent'}",
        "/gone: HTTP 404",
        f"wrong sha256 {digest(wrong)}",
        f"file.wrong-sha256-{digest(wrong)[:8]}",
        f"Place the file by hand at {wanted.path} (sha256 {wanted.sha256})",
    ):
        assert part in message
    assert not wanted.path.exists()


def test_a_file_placed_by_hand_is_taken(server):
    wanted = resource(Url(url=server.home + "/gone"))
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(CONTENT)
    assert fetch(wanted) == wanted.path


def test_offline_never_asks_and_says_so(server, monkeypatch):
    page = Page(CONTENT)
    wanted = resource(
        put(server, page),
        PackageMember(package="any", version="1", archive="sdist", member="any", sha256="0" * 64),
    )
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    with pytest.raises(SourceError, match="TOOLKIT_OFFLINE") as caught:
        fetch(wanted)
    assert str(caught.value).count("TOOLKIT_OFFLINE is set, so the network was not touched") == 2
    assert str(caught.value).endswith("\nOr let the network be asked: unset TOOLKIT_OFFLINE.")
    assert page.asked == []


def test_two_processes_fetch_once(server, tmp_path):
    page = Page(CONTENT, delay=0.5)
    put(server, page)
    code = """
        import pathlib, sys, time
        from toolkit.sources import Resource, Url, fetch
        import toolkit.downloads
        pathlib.Path(sys.argv[3]).touch()
        while not pathlib.Path(sys.argv[4]).exists():
            time.sleep(0.005)
        fetch(Resource(name="set/file", sha256=sys.argv[2], sources=[Url(url=sys.argv[1])]))
    """
    go = tmp_path / "go"
    ready = [tmp_path / "ready0", tmp_path / "ready1"]
    command = [sys.executable, "-c", textwrap.dedent(code), server.home + "/file", digest(CONTENT)]
    both = [subprocess.Popen([*command, str(mark), str(go)]) for mark in ready]
    end = time.monotonic() + 60
    while not all(mark.exists() for mark in ready):
        assert time.monotonic() < end
        time.sleep(0.01)
    go.touch()
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(page.asked) == 1
    assert files.sha256_of(files.cache_root() / "set" / "file") == digest(CONTENT)


def test_a_local_file_is_used_where_it_lies(tmp_path):
    (tmp_path / "mine").write_bytes(CONTENT)
    assert fetch(resource(LocalFile(path=str(tmp_path / "mine")))) == tmp_path / "mine"
    assert fetch(resource(LocalFile(path=str(tmp_path), name="mine"))) == tmp_path / "mine"


def test_a_wrong_local_file_is_the_users_own_and_stays(tmp_path):
    (tmp_path / "mine").write_bytes(b"other")
    with pytest.raises(SourceError, match="left as it is"):
        fetch(resource(LocalFile(path=str(tmp_path / "mine"))))
    assert (tmp_path / "mine").read_bytes() == b"other"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../outside", "a/../../b", "c:\\x"])
def test_a_name_cannot_leave_the_cache(name):
    with pytest.raises(SourceError, match="no name for a file"):
        Resource(name=name, sha256="0" * 64, sources=[])


def test_a_sum_must_be_one():
    with pytest.raises(SourceError, match="hexadecimal"):
        Resource(name="x", sha256="abc", sources=[])
