import errno
import os
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from toolkit import files
from toolkit.errors import SourceError


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "elsewhere"))
    assert files.cache_root() == tmp_path / "elsewhere"
    monkeypatch.setenv("TOOLKIT_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_root() == tmp_path / ".cache" / "attention-toolkit"


@pytest.mark.parametrize(
    ("value", "is_offline"), [("1", True), ("true", True), ("0", False), ("", False), ("No", False)]
)
def test_offline_reads_the_usual_words(monkeypatch, value, is_offline):
    monkeypatch.setenv("TOOLKIT_OFFLINE", value)
    assert files.offline() is is_offline


def test_writing_replaces_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file"
    for content in (b"first", b"second"):
        with files.writing(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half():
        with files.writing(path) as file:
            file.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_process_killed_while_writing_keeps_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = """
        import os, sys
        from toolkit.files import writing
        with writing(sys.argv[1]) as file:
            file.write(b"half"); file.flush(); os._exit(9)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], check=False)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_written_file_has_the_mode_of_any_file_of_this_user(tmp_path):
    with files.writing(tmp_path / "ours") as file:
        file.write(b"x")
    (tmp_path / "usual").touch()
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("cached", [True, False])
def test_a_full_disk_names_folder_and_cure(monkeypatch, tmp_path, cached):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write():
        with files.writing(tmp_path / "folder" / "file") as file:
            file.write(b"content")

    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / ("folder" if cached else "elsewhere")))
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(SourceError) as caught:
        write()
    assert str(tmp_path / "folder") in str(caught.value)
    assert ("TOOLKIT_CACHE" in str(caught.value)) is cached  # the variable moves the cache and nothing else
    assert "Free some space" in str(caught.value)
    assert "MB are free" in str(caught.value)
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.parametrize("cached", [True, False])
def test_a_cache_that_cannot_be_a_folder_says_so(tmp_path, monkeypatch, cached):
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / ("file" if cached else "elsewhere")))
    (tmp_path / "file").touch()
    cure = "Set TOOLKIT_CACHE to a folder" if cached else "Choose a folder"
    with pytest.raises(SourceError, match=cure), files.locked(tmp_path / "file" / "below"):
        pass


def test_the_free_space_of_a_folder_not_yet_made(tmp_path):
    assert files.free(tmp_path / "a" / "b") > 0


def test_a_lock_keeps_another_process_out(tmp_path):
    code = """
        import sys, time, pathlib
        from toolkit.files import locked
        with locked(sys.argv[1]):
            pathlib.Path(sys.argv[1] + ".held").touch()
            time.sleep(0.7)
            pathlib.Path(sys.argv[1] + ".done").touch()
    """
    path = tmp_path / "file"
    other = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(path)])
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "file.held").exists():
            assert time.monotonic() < end
            assert other.poll() in (None, 0)
            time.sleep(0.01)
        with files.locked(path):
            assert (tmp_path / "file.done").exists()
    finally:
        other.wait()
    assert other.returncode == 0


def test_setting_aside_loses_nothing(tmp_path):
    path = tmp_path / "file.part"
    path.write_bytes(b"wrong")
    digest = files.sha256_of(path)
    aside = files.set_aside(path, digest, "file")
    assert aside.name == f"file.wrong-sha256-{digest[:8]}"
    assert aside.read_bytes() == b"wrong"
    assert not path.exists()


def test_the_sum_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, example B.1
    assert files.sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
