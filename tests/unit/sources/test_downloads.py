"""One file over HTTP: resumed, retried, given up, and shown as it comes."""

import errno
import io
import sys

import pytest
from served import CONTENT, Page, part_of, put, resource

from toolkit import downloads
from toolkit.errors import SourceError
from toolkit.sources import Url, fetch


def test_a_file_is_fetched_once_and_kept(server):
    page = Page(CONTENT)
    wanted = resource(put(server, page))
    assert fetch(wanted) == wanted.path
    assert wanted.path.read_bytes() == CONTENT
    assert fetch(wanted).read_bytes() == CONTENT
    assert len(page.asked) == 1
    assert sorted(path.name for path in wanted.path.parent.iterdir() if not path.name.startswith(".")) == ["file"]


def test_a_broken_download_goes_on_where_it_stopped(server):
    page = Page(CONTENT, breaks=3)
    assert fetch(resource(put(server, page))).read_bytes() == CONTENT
    starts = [int(asked.get("Range", "bytes=0-")[6:-1]) for asked in page.asked]
    assert starts == [0, len(CONTENT) // 2, len(CONTENT) * 3 // 4, len(CONTENT) * 7 // 8]
    assert page.asked[1]["If-Range"] == '"v1"'


def test_a_part_that_an_earlier_run_left_is_used(server):
    page = Page(CONTENT)
    wanted = resource(put(server, page))
    part_of(wanted, CONTENT[:1000])
    assert fetch(wanted).read_bytes() == CONTENT
    assert page.asked[0]["Range"] == "bytes=1000-"


def test_a_whole_part_needs_no_more_bytes(server):
    page = Page(CONTENT)
    wanted = resource(put(server, page))
    part_of(wanted, CONTENT)
    assert fetch(wanted).read_bytes() == CONTENT
    assert len(page.asked) == 1


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * (len(CONTENT) + 5)])
def test_a_part_of_something_else_is_started_anew(server, left):
    page = Page(CONTENT)
    wanted = resource(put(server, page))
    part_of(wanted, left)
    assert fetch(wanted).read_bytes() == CONTENT
    assert "Range" not in page.asked[-1]


def test_a_server_that_ignores_ranges_gives_the_whole_again(server):
    page = Page(CONTENT, breaks=1, ranges=False)
    assert fetch(resource(put(server, page))).read_bytes() == CONTENT
    assert len(page.asked) == 2


def test_a_file_that_changed_between_two_tries_is_started_anew(server):
    page = Page(CONTENT, breaks=1)
    source = put(server, page)
    asked = page.asked

    class Changing(list):
        def append(self, headers):
            super().append(headers)
            if len(self) == 2:  # the file is replaced between the first answer and the second
                page.content, page.etag = CONTENT[::-1], '"v2"'

    page.asked = Changing(asked)
    assert fetch(resource(source, content=CONTENT[::-1])).read_bytes() == CONTENT[::-1]


def test_a_busy_server_is_asked_again(server):
    page = Page(CONTENT, status=[503, 429, 500])
    assert fetch(resource(put(server, page))).read_bytes() == CONTENT
    assert len(page.asked) == 4


def test_a_server_that_stays_busy_is_given_up(server):
    page = Page(CONTENT, status=[503] * 99)
    with pytest.raises(SourceError, match="HTTP 503"):
        fetch(resource(put(server, page)))
    assert len(page.asked) == downloads.TRIES


def test_a_line_that_always_breaks_at_the_same_place_is_given_up(server):
    page = Page(CONTENT, breaks=99, ranges=False)
    with pytest.raises(SourceError, match="without getting further"):
        fetch(resource(put(server, page)))
    assert len(page.asked) <= downloads.TRIES + 1


def test_a_missing_page_is_not_asked_again(server):
    with pytest.raises(SourceError, match="HTTP 404"):
        fetch(resource(Url(url=server.home + "/gone")))


def test_no_server_at_all_is_told_shortly(server):
    with pytest.raises(SourceError) as caught:
        fetch(resource(Url(url="http://127.0.0.1:9/file")))
    assert "refused" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_disk_too_small_is_noticed_before_the_download(server, monkeypatch):
    monkeypatch.setattr(downloads, "free", lambda folder: 1000)
    page, second = Page(CONTENT), Page(CONTENT)
    with pytest.raises(SourceError) as caught:
        fetch(resource(put(server, page), put(server, second, "/second")))
    assert "1.0 MB are needed" in str(caught.value)
    assert "TOOLKIT_CACHE" in str(caught.value)
    assert second.asked == []  # another source would not fit either


def test_a_disk_that_fills_up_stops_everything_and_keeps_the_part(server, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    second = Page(CONTENT)
    wanted = resource(put(server, Page(CONTENT)), put(server, second, "/second"))
    with pytest.raises(SourceError, match="TOOLKIT_CACHE"):
        fetch(wanted)
    assert second.asked == []
    assert wanted.path.with_name("file.part").read_bytes() == CONTENT
    assert not wanted.path.exists()


def test_progress_is_shown_on_a_terminal_only(server, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        path = f"/weights-{shown}"
        fetch(resource(put(server, Page(CONTENT), path), name=path[1:]))
        assert (f"weights-{shown}" in stream.getvalue()) is shown


def test_passwords_are_not_shown(server):
    host = server.home.removeprefix("http://")
    with pytest.raises(SourceError) as caught:
        fetch(resource(Url(url=f"http://me:hidden@{host}/gone?token=concealed")))
    assert "hidden" not in str(caught.value)
    assert "concealed" not in str(caught.value)
