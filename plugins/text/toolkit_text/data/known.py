"""The known data sets of text classification: where they are, how their files are laid out, what classes are called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import DataError
from toolkit_text.data.hub import HubSplit
from toolkit_text.data.table import SUFFIXES, Written, read_tables, suffix
from toolkit_text.data.texts import Cleaner, Texts


@dataclass(frozen=True)
class Layout:
    """How a file may be laid out. columns: what it has, in order. text, label, names: as in `Cleaner`.

    A file fits that begins with the names of text and label, or that has as many columns and no such line.
    """

    columns: tuple[str, ...]
    text: tuple[str, ...]
    label: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class KnownSet:
    """A published data set. hub: its splits on the hub. layouts: of files, tried in order. stems: what the file of a
    split may be called, up to a dot or a dash. quotes: of these files, as in `Written`.
    """

    title: str
    hub: Mapping[str, HubSplit]
    layouts: tuple[Layout, ...]
    stems: Mapping[str, tuple[str, ...]]
    quotes: bool = True


STEMS = {"train": ("train",), "val": ("dev", "val", "valid", "validation"), "test": ("test",)}


def read_known(path: Path, known: KnownSet, encoding: str, size: int | None) -> Iterator[Texts]:
    """Yield the rows of a file of a known set, with its classes by name. Raises: DataError."""
    layout, header = _layout(path, known, encoding)
    cleaner = Cleaner(layout.text, layout.label, str(path), layout.names)
    written = Written(encoding, header, known.quotes)
    for table in read_tables(path, written, size=size, wanted=[*layout.text, layout.label]):
        yield cleaner.part(table)
    cleaner.finish()


def _layout(path: Path, known: KnownSet, encoding: str) -> tuple[Layout, tuple[str, ...] | None]:
    """Return how a file is laid out, and the names of its columns where it does not begin with them."""
    separated = bool(SUFFIXES.get(suffix(path)))
    first = next(read_tables(path, Written(encoding, () if separated else None, known.quotes), size=1))
    names = [str(name) for name in (first.iloc[0] if separated else first.columns)]
    for layout in known.layouts:
        if {*layout.text, layout.label} <= set(names):
            return layout, None
    if separated:
        for layout in known.layouts:
            if len(layout.columns) == len(names) and not {*layout.text, layout.label} & set(names):
                return layout, layout.columns
    wanted = " or ".join(", ".join(layout.columns) for layout in known.layouts)
    raise DataError(f"{path} is not laid out as {known.title} is: it has the columns {', '.join(names)}, not {wanted}")


def files_of(folder: Path, known: KnownSet, given: Collection[str]) -> dict[str, list[Path]]:
    """Return the files of each split in a folder but those given otherwise.

    Raises: DataError where there is none for train, or several for one split.
    """
    if not folder.is_dir():
        raise DataError(f"data.folder: there is no folder {folder}")
    found: dict[str, list[Path]] = {}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for split, stems in known.stems.items():
        if split in given:
            continue
        named = [path for path in files if _named(path, stems)]
        if len(named) > 1 and not all("-of-" in path.name for path in named):
            listed = ", ".join(str(path.relative_to(folder)) for path in named)
            raise DataError(f"{folder} has several files for {split}: {listed}. Say which with data.{split}=FILE")
        if named:
            found[split] = named
    if "train" not in {*found, *given}:
        begins = ", ".join(known.stems["train"])
        raise DataError(
            f"{folder} has no file of {known.title} whose name begins with {begins} and ends in .csv, .tsv, .jsonl or "
            ".parquet (with .gz or not). Say which it is with data.train=FILE"
        )
    return found


def _named(path: Path, stems: tuple[str, ...]) -> bool:
    name = path.name.lower()
    kinds = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".label")
    return name.removesuffix(".gz").endswith(kinds) and any(
        name.startswith((f"{stem.lower()}.", f"{stem.lower()}-")) for stem in stems
    )


def same(*names: str) -> dict[str, str]:
    """Return classes that are called what they are called."""
    return {name: name for name in names}
