"""A user's own texts, from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from toolkit.errors import DataError
from toolkit.files import sha256_of
from toolkit_text.data.labelled import LabelledTexts
from toolkit_text.data.table import Written, read_parts
from toolkit_text.data.texts import Parts, numbered

PART = 10_000
"""Rows that are read at a time."""


class TextFiles(LabelledTexts):
    """Texts with a class each, from CSV, TSV, JSON lines or Parquet files, packed by gzip or not.

    train, val, test: a file each, or several; where val or test is missing, a share of train is split off. text: the
    column with the text, or several to be joined. label: the column with the class. header: the names of the columns of
    CSV and TSV files that do not begin with them. quotes: whether quotation marks enclose cells of these; without, they
    are characters as others are. encoding: of text files. The rest is `LabelledTexts`'.
    """

    def __init__(
        self,
        *,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        text: str | list[str] = "text",
        label: str = "label",
        header: list[str] | None = None,
        quotes: bool = True,
        encoding: str = "utf-8",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        given = (("train", train), ("val", val), ("test", test))
        self.files = {name: paths_of(name, each) for name, each in given if each is not None}
        self.text, self.label, self.encoding = text, label, encoding
        self.written = Written(encoding, None if header is None else tuple(header), quotes)

    @property
    def columns(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text

    def sources(self) -> dict[str, Parts]:
        size = PART if self.keep == "disk" else None

        def of(path: Path) -> Parts:
            return partial(read_parts, path, self.columns, self.label, self.written, size)

        return {name: partial(numbered, [of(path) for path in paths]) for name, paths in self.files.items()}

    def origin(self) -> dict[str, Any]:
        read = [self.columns, self.label, self.encoding, self.written.header, self.written.quotes]
        return {"files": sums_there(self.files), "read": read}

    def provenance(self) -> dict[str, str]:
        return {str(path): sum_of(path) for paths in self.files.values() for path in paths}


def sums_there(files: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    """Return the sha256 of the files of each split that are there."""
    return {name: [sum_of(path) for path in paths if path.is_file()] for name, paths in files.items()}


def sum_of(path: Path) -> str:
    """Return the sha256 of a file, which is read once as long as it stays as it is."""
    state = path.stat()
    return _sum(path.absolute(), state.st_size, state.st_mtime_ns)


@cache
def _sum(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def paths_of(name: str, given: str | list[str]) -> list[Path]:
    """Return the files of a split. Raises: DataError for a list of none."""
    listed = [given] if isinstance(given, str) else given
    if not listed:
        raise DataError(f"data.{name} is an empty list: name a file, or several")
    return [Path(each).expanduser() for each in listed]
