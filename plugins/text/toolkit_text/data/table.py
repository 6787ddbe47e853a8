"""Rows of text from files: CSV, TSV, JSON lines and Parquet, as they are or packed by gzip."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import DataError, ToolkitWarning, nearest

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": "", ".parquet": ""}
"""What can be read, and what separates the columns of a line."""


@dataclass
class Texts:
    """Texts and their labels, row by row. rows: the number of each in the file it came from, from 0."""

    texts: list[str]
    labels: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def part(self, places: Sequence[int] | np.ndarray) -> Texts:
        """Return some of the rows."""
        chosen = [int(place) for place in places]
        labels = [self.labels[place] for place in chosen] if self.labels else []
        return Texts([self.texts[place] for place in chosen], labels, [self.rows[place] for place in chosen])

    def __len__(self) -> int:
        return len(self.texts)


def read_texts(path: Path, text: Sequence[str], label: str | None, encoding: str = "utf-8") -> Texts:
    """Read the columns of texts, joined by a blank line, and the column of labels.

    Rows without text or without label are left out, and counted in a warning. label: None reads no labels.
    Raises: DataError naming the file, and the line or column, when it cannot be read.
    """
    table = read_table(path, encoding)
    wanted = [*text, *([label] if label is not None else [])]
    for name in wanted:
        if name not in table.columns:
            columns = [str(each) for each in table.columns]
            raise DataError(f"{path} has no column {name!r}.{nearest(name, columns)} Its columns: {', '.join(columns)}")
    return clean(table, list(text), label, str(path))


def clean(table: pd.DataFrame, text: list[str], label: str | None, source: str) -> Texts:
    """Turn a table into texts and labels; see `read_texts`."""
    cells = table[text].map(_cell)
    joined = cells.apply(lambda row: "\n\n".join(part for part in row if part), axis=1)
    empty = (joined == "").to_numpy()
    unlabelled = np.zeros(len(table), dtype=bool)
    labels = None
    if label is not None:
        labels = table[label].map(_label)
        unlabelled = (labels == "").to_numpy() & ~empty
    reasons = [
        f"{count} without {what}" for what, count in (("text", empty.sum()), ("label", unlabelled.sum())) if count
    ]
    if reasons:
        left_out = f"{int(empty.sum() + unlabelled.sum())} of {len(table)} rows are left out"
        warnings.warn(ToolkitWarning(f"{source}: {left_out}: {', '.join(reasons)}"), stacklevel=2)
    kept = np.flatnonzero(~(empty | unlabelled))
    if len(kept) == 0:
        raise DataError(f"{source} has no row with {'a text' if label is None else 'a text and a label'}")
    return Texts(
        joined.iloc[kept].tolist(), [] if labels is None else labels.iloc[kept].tolist(), [int(row) for row in kept]
    )


def read_table(path: Path, encoding: str = "utf-8", kind: str = "") -> pd.DataFrame:
    """Read a file by its suffix, `.gz` behind it or not; cells of text files stay text.

    kind: the suffix that says how to read a file whose name does not. Raises: DataError.
    """
    import pandas as pd

    path = path.expanduser()
    kind = kind or (path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix)
    if kind not in SUFFIXES:
        raise DataError(f"{path}: the name ends in none of {', '.join(SUFFIXES)} (with .gz behind them or not)")
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        if kind in (".jsonl", ".ndjson"):
            return pd.read_json(path, lines=True, dtype=False, encoding=encoding)
        table: Any = pd.read_csv(
            path, sep=SUFFIXES[kind], dtype=str, keep_default_na=False, skip_blank_lines=False, encoding=encoding
        )
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding} throughout: {_first_strange(path, encoding)}. data.encoding names another, such "
            "as cp1252 or latin-1"
        ) from error
    except (ValueError, OSError, EOFError) as error:  # pandas' own errors are ValueErrors, pyarrow's are either
        raise DataError(
            f"{path} cannot be read: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
        ) from error
    if table.empty:
        raise DataError(f"{path} has a header and no rows")
    return table


def _first_strange(path: Path, encoding: str) -> str:
    """Say where the first bytes stand that are no text in an encoding."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return f"line {number} has the byte {line[error.start]:#04x}"
    return "a character is cut in two"


def _cell(value: Any) -> str:
    """Return a cell as text; what stands for nothing (null, NaN, blanks) is the empty text."""
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value).strip()


def _label(value: Any) -> str:
    """Return a label as text: a whole number that became a fraction beside missing ones is whole again."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _cell(value)
