"""Files inside the archives of a package index, found as pip would find them."""

import pytest
from served import digest, member, publish, resource, sdist, wheel

from toolkit import files
from toolkit.errors import SourceError
from toolkit.sources import fetch


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


def test_offline_the_archive_is_named_and_brings_every_member_once_it_is_placed(server, monkeypatch):
    """The error is followed to the letter: what it names is put where it says, and the next run finds it."""
    archive = sdist({"some_pack-1.0/data/a": b"A", "some_pack-1.0/data/b": b"B"})
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    monkeypatch.setenv("PIP_INDEX_URL", server.home + "/simple/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", server.home + "/second/")
    wanted = resource(member(archive), content=b"A", name="set/a")
    with pytest.raises(SourceError) as caught:
        fetch(wanted)
    place = files.cache_root() / "packages" / "some-pack-1.0.sdist"
    told = "TOOLKIT_OFFLINE is set, so the network was not touched"
    assert str(caught.value).splitlines() == [
        "set/a could not be fetched. Tried:",
        "  - some_pack-1.0/data/a of some-pack 1.0 (sdist, package index):",
        f"      {server.home}/simple/: {told}",
        f"      {server.home}/second/: {told}",
        f"Place the file by hand at {wanted.path} (sha256 {wanted.sha256}).",
        "Or place its archive, the sdist of some-pack 1.0 on the package index (some-pack-1.0.tar.gz or .zip), "
        f"under exactly this name at {place} (sha256 {digest(archive)}); files of the same archive need no more.",
        "Or let the network be asked: unset TOOLKIT_OFFLINE.",
    ]
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(archive)
    assert fetch(wanted).read_bytes() == b"A"
    other = member(archive, name="some_pack-1.0/data/b")
    assert fetch(resource(other, content=b"B", name="set/b")).read_bytes() == b"B"
