"""Files that survive a kill, a second process and a full disk: the cache folder, hashes, locks and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from toolkit.errors import SourceError

CHUNK = 1 << 20
PATIENCE = 5.0  # seconds of waiting for another process before we say so
FULL = {errno.ENOSPC, errno.EDQUOT}


def cache_root() -> Path:
    """Return the folder that fetched files are kept in: `TOOLKIT_CACHE`, or ~/.cache/attention-toolkit."""
    given = os.environ.get("TOOLKIT_CACHE", "").strip()
    return Path(given).expanduser().absolute() if given else Path.home() / ".cache" / "attention-toolkit"


def offline() -> bool:
    """Return whether `TOOLKIT_OFFLINE` forbids the network."""
    return os.environ.get("TOOLKIT_OFFLINE", "").strip().lower() not in {"", "0", "false", "no", "off"}


def sha256_of(path: Path | str) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[IO[bytes]]:
    """Open a file that appears under `path`, whole and on the disk, when the block ends well, and not at all otherwise.

    Raises: DiskError when the disk is full.
    """
    path = Path(path)
    with on_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            settle(Path(name), path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def settle(ready: Path, path: Path) -> None:
    """Move a finished file of the same folder to its name, readable like any file this user makes."""
    mask = os.umask(0)  # the only way to read the mask; mkstemp made the file private to this user
    os.umask(mask)
    os.chmod(ready, 0o666 & ~mask)
    os.replace(ready, path)
    if os.name == "posix":  # the new name itself must reach the disk as well
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
                os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold the lock of a file, so that of several processes one does the work and the others find it done."""
    path = Path(path)
    with on_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            print(f"Waiting for another process that is at work on {path.name} ...", file=sys.stderr)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def set_aside(path: Path, digest: str, name: str = "") -> Path:
    """Rename a file whose content is wrong so that nothing uses it and nothing is lost, and return the new path.

    name: what the file was to be called, where it is not called that yet.
    """
    aside = path.with_name(f"{name or path.name}.wrong-sha256-{digest[:8]}")
    os.replace(path, aside)
    return aside


@contextlib.contextmanager
def on_disk(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full or forbidden disk into a DiskError that says where, how much is needed and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskError(full(folder, needed), folder) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
            cure = "Set TOOLKIT_CACHE to" if _cached(folder) else "Choose"
            raise DiskError(
                f"Cannot write in {folder}: {error.strerror}. {cure} a folder you may write to.", folder
            ) from error
        raise


def full(folder: Path, needed: int | None = None) -> str:
    """Say that the disk under `folder` has no room, with needed and free bytes."""
    want = f"{megabytes(needed)} are needed" if needed else "more is needed"
    cure = ", or set TOOLKIT_CACHE to a folder on another disk." if _cached(folder) else "."
    return f"The disk of {folder} is full: {want}, {megabytes(free(folder))} are free. Free some space{cure}"


def _cached(folder: Path) -> bool:
    """Tell whether a folder is in the cache, which alone TOOLKIT_CACHE moves."""
    return folder.absolute().is_relative_to(cache_root())


def free(folder: Path) -> int:
    """Return the bytes free on the disk that holds `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


class DiskError(SourceError):
    """The disk under `folder` is full or forbidden: no other source can help, so nothing else is tried."""

    def __init__(self, message: str, folder: Path | None = None) -> None:
        super().__init__(message)
        self.folder = folder
