"""One file over HTTP: resumed where it broke, retried when that can help, shown as it comes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.util import Retry

from toolkit.errors import SourceError
from toolkit.files import DiskError, free, full, offline, on_disk, sha256_of
from toolkit.pip_settings import PipSettings, pip_settings

TRIES = 4  # without progress
PAUSE = 0.5  # seconds before the first retry, doubled each time
LONGEST_PAUSE = 30.0
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
CHUNK = 1 << 16  # what a break can lose


def session(*, patient: bool = False) -> requests.Session:
    """Return an HTTP session with the user's certificates and proxy, which asks again by itself if `patient`.

    Raises: SourceError when TOOLKIT_OFFLINE is set.
    """
    if offline():
        raise SourceError("TOOLKIT_OFFLINE is set, so the network was not touched")
    settings = pip_settings()
    opened = requests.Session()
    # Compressed transfer would make lengths and ranges those of another file.
    opened.headers.update({"User-Agent": "attention-toolkit", "Accept-Encoding": "identity"})
    if patient:
        retry = Retry(total=TRIES - 1, backoff_factor=PAUSE, status_forcelist=TRANSIENT, allowed_methods=None)
        opened.mount("https://", requests.adapters.HTTPAdapter(max_retries=retry))
        opened.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
    if settings.cert:
        opened.verify = settings.cert  # requests lets REQUESTS_CA_BUNDLE win over this
    if settings.client_cert:
        opened.cert = settings.client_cert
    if settings.proxy:
        opened.proxies = {"http": settings.proxy, "https": settings.proxy}
    for host in settings.trusted_hosts:
        opened.mount(f"https://{host}/", _Unverified())
    return opened


def timeout(settings: PipSettings | None = None) -> tuple[float, float]:
    """Return the seconds to wait for a connection and between two pieces of an answer."""
    return 10.0, (settings or pip_settings()).timeout or 60.0


def download(url: str, part: Path, sha256: str) -> None:
    """Bring `url` to the file `part`, going on from what is already there.

    A part that an earlier run left may belong to another file: when the sum comes out wrong after such a start, it is
    fetched once more from nothing. The caller judges the final sum.

    Raises: SourceError with the reason; DiskError when the disk is full.
    """
    resumed = part.exists() and part.stat().st_size > 0
    with session() as opened:
        if _complete(opened, url, part) and resumed and sha256_of(part) != sha256:
            _forget(part)
            _complete(opened, url, part)
    _notes(part).unlink(missing_ok=True)


def _complete(opened: requests.Session, url: str, part: Path) -> bool:
    """Fetch until the whole file is there, and return whether any of it was there before."""
    tries, furthest, kept = 0, part.stat().st_size if part.exists() else 0, False
    while True:
        try:
            kept |= _one_request(opened, url, part)
            return kept
        except _TransientError as error:
            reached = part.stat().st_size if part.exists() else 0
            # A line that breaks often but gets further each time is worth staying with.
            tries, furthest = (0, reached) if reached > furthest else (tries + 1, furthest)
            if tries >= TRIES:
                raise SourceError(f"{error} (tried {TRIES} times without getting further)") from error
            time.sleep(min(error.pause or PAUSE * 2**tries, LONGEST_PAUSE))


def _one_request(opened: requests.Session, url: str, part: Path) -> bool:
    have = part.stat().st_size if part.exists() else 0
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator := _validator(part, url):
            headers["If-Range"] = validator
    try:
        with opened.get(url, headers=headers, stream=True, timeout=timeout()) as answer:
            if answer.status_code == 416:  # the part is whole already, or longer than the file
                whole = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
                if whole and int(whole[1]) == have:
                    return True
                _forget(part)
                raise _TransientError("the server has less than was already fetched")
            if answer.status_code in TRANSIENT:
                raise _TransientError(f"HTTP {answer.status_code} {answer.reason}", _retry_after(answer))
            if not answer.ok:
                raise SourceError(f"HTTP {answer.status_code} {answer.reason}")
            goes_on = answer.status_code == 206 and _starts_at(answer) == have
            if answer.status_code == 206 and not goes_on:
                _forget(part)
                raise _TransientError("the server answered with another range than was asked for")
            _receive(answer, url, part, have if goes_on else 0)
            return goes_on and have > 0
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _TransientError(_short(error)) from error
    except requests.RequestException as error:
        raise SourceError(_short(error)) from error


def _receive(answer: requests.Response, url: str, part: Path, start: int) -> None:
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    if total is not None and total - start > free(part.parent):
        raise DiskError(full(part.parent, total - start))
    _note(part, url, answer)
    with on_disk(part.parent, total), open(part, "ab" if start else "wb") as file, _bar(url, start, total) as advance:
        for chunk in answer.iter_content(CHUNK):
            file.write(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and part.stat().st_size < total:
        raise _TransientError("the connection closed before the end")


@contextlib.contextmanager
def _bar(url: str, start: int, total: int | None) -> Iterator[Any]:
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(Path(urlsplit(url).path).name, total=total, completed=start)
        yield lambda size: progress.advance(task, size)


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _note(part: Path, url: str, answer: requests.Response) -> None:
    """Remember what the part belongs to, so that it is continued only while the server still has the same file."""
    tag = answer.headers.get("ETag", "")
    validator = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
    with on_disk(part.parent):
        _notes(part).write_text(json.dumps({"url": shown(url), "validator": validator}), encoding="utf-8")


def _validator(part: Path, url: str) -> str:
    try:
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
        return str(notes["validator"]) if notes["url"] == shown(url) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # without it the sum at the end decides


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _starts_at(answer: requests.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _retry_after(answer: requests.Response) -> float | None:
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isdigit() else None


def shown(url: str) -> str:
    """Return a URL, or a text that holds some, without the names, passwords and tokens they may carry."""
    return re.sub(r"\?[^\s'\")]*", "?...", re.sub(r"//[^/@\s]+@", "//***@", url))


def _short(error: Exception) -> str:
    """Say in one line why a request failed: the innermost cause is the one that tells."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__ or getattr(inner, "reason", None)) and isinstance(
        cause, BaseException
    ):
        inner = cause
    kind = type(error).__name__
    return shown(f"{kind}: {inner}" if str(inner) else kind).replace("\n", " ")[:300]


class _TransientError(Exception):
    """A failure that may pass: worth another try."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _Unverified(requests.adapters.HTTPAdapter):
    """For hosts that the user's pip settings trust: the sha256 still guards every file."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        return super().send(request, *args, **{**options, "verify": False})
