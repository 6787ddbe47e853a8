"""Rows of text from files: CSV, TSV, JSON lines and Parquet, as they are or packed by gzip."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from toolkit.errors import DataError, ToolkitWarning, nearest

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": "", ".parquet": ""}
"""What can be read, and what separates the columns of a line."""

EXAMPLE = '{"text": "a text", "label": "its class"}'


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
    if not text:
        raise DataError(f"{path}: name a column with the text; an empty list of columns reads nothing")
    if label in text:
        raise DataError(f"{path}: the column {label!r} cannot be both text and label: the text would give it away")
    table = read_table(path, encoding)
    columns = [str(each) for each in table.columns]
    for name in [*text, *([label] if label is not None else [])]:
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}.{nearest(name, columns)}")
        if columns.count(name) > 1:
            raise DataError(f"{path} has {columns.count(name)} columns called {name!r}: which is meant?")
    return clean(table, list(text), label, str(path))


def clean(table: pd.DataFrame, text: list[str], label: str | None, source: str) -> Texts:
    """Turn a table into texts and labels; see `read_texts`."""
    parts = zip(*(_column(table, name, _cell, source) for name in text), strict=True)
    texts = ["\n\n".join(filter(None, row)) for row in parts]
    labels = None if label is None else _column(table, label, _label, source)
    empty = [row for row, found in enumerate(texts) if not found]
    unlabelled = [row for row, found in enumerate(labels or []) if not found and texts[row]]
    reasons = [f"{len(rows)} without {what}" for what, rows in (("text", empty), ("label", unlabelled)) if rows]
    if reasons:
        left_out = f"{len(empty) + len(unlabelled)} of {len(texts)} rows are left out"
        warnings.warn(ToolkitWarning(f"{source}: {left_out}: {', '.join(reasons)}"), stacklevel=2)
    kept = sorted(set(range(len(texts))).difference(empty, unlabelled))
    if not kept:
        raise DataError(f"{source} has no row with {'a text' if label is None else 'a text and a label'}")
    return Texts(texts, labels or [], list(range(len(texts)))).part(kept)


def read_table(path: Path, encoding: str = "utf-8", kind: str = "") -> pd.DataFrame:
    """Read a file by its suffix, `.gz` behind it or not; cells of text files stay text.

    kind: the suffix that says how to read a file whose name does not. Raises: DataError.
    """
    import pandas as pd

    path = path.expanduser()
    kind = kind or (path.with_suffix("") if _is_packed(path) else path).suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"{path}: the name ends in none of {', '.join(SUFFIXES)} (with .gz behind them or not)")
    if not path.is_file():
        raise DataError(f"{path} is a folder, not a file" if path.is_dir() else f"there is no file {path}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    try:
        if kind == ".parquet":
            table = pd.read_parquet(path)
        elif kind in (".jsonl", ".ndjson"):
            table = pd.DataFrame(_json_lines(path, encoding), dtype=object)
        else:
            table = _separated(path, encoding, SUFFIXES[kind])
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding} throughout: {_first_strange(path, encoding)}. Name its encoding, such as cp1252 "
            "or latin-1"
        ) from error
    except LookupError as error:
        raise DataError(f"{path}: {error}; utf-8, cp1252, latin-1 and utf-16 are some that there are") from error
    except (ValueError, OSError, EOFError) as error:  # pandas' own errors are ValueErrors, pyarrow's are either
        raise DataError(
            f"{path} cannot be read: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
        ) from error
    if table.empty:
        raise DataError(f"{path} has {'a header and ' * bool(SUFFIXES[kind])}no rows")
    return table


def _separated(path: Path, encoding: str, separator: str) -> pd.DataFrame:
    """Read CSV or TSV. The header is read as a row: pandas would take longer rows to begin with a name of theirs."""
    import pandas as pd

    table: Any = pd.read_csv(
        path,
        sep=separator,
        header=None,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
        encoding=encoding,
        compression="gzip" if _is_packed(path) else None,
    )
    columns, table = table.iloc[0].tolist(), table.iloc[1:].reset_index(drop=True)
    table.columns = columns
    if separator == "\t" and (swallowed := _swallowed(table.to_numpy().tolist())):
        warnings.warn(
            ToolkitWarning(
                f"{path}: {len(swallowed)} rows hold cells with tabs and line ends, the first of them row "
                f"{swallowed[0]}: a cell that begins with a quotation mark goes on to the next one"
            ),
            stacklevel=2,
        )
    return cast("pd.DataFrame", table)


def _swallowed(rows: list[list[Any]]) -> list[int]:
    return [
        number
        for number, row in enumerate(rows)
        if any(isinstance(cell, str) and {"\t", "\n"} <= {*cell} for cell in row)
    ]


def _json_lines(path: Path, encoding: str) -> list[dict[str, Any]]:
    """Read an object a line; pandas would round whole numbers past 2^53, and say of no mistake where it is."""
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding  # Windows begins files with a mark
    found = []
    opened: Any = gzip.open if _is_packed(path) else open
    with opened(path, "rt", encoding=encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} cannot be read: line {number}: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path} cannot be read: line {number} is no JSON object, such as {EXAMPLE}")
            found.append(row)
    return found


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _first_strange(path: Path, encoding: str) -> str:
    """Say where the first bytes stand that are no text in an encoding."""
    with gzip.open(path) if _is_packed(path) else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return f"line {number} has the byte {line[error.start]:#04x}"
    return "a character is cut in two"


def _column(table: pd.DataFrame, name: str, read: Callable[[Any], str], source: str) -> list[str]:
    found = []
    for row, value in enumerate(table[name].astype(object)):
        if isinstance(value, list | dict | tuple | set | bytes | np.ndarray):
            kind = type(value).__name__
            raise DataError(f"{source}: column {name!r} of row {row} holds a {kind}, not a text or a number")
        found.append(read(value))
    return found


def _cell(value: Any) -> str:
    """Return a cell as text; what stands for nothing (null, NaN, NA, blanks) is the empty text."""
    import pandas as pd

    if isinstance(value, str):
        return whole(value.strip())
    return "" if pd.isna(value) else str(value)


def _label(value: Any) -> str:
    """Return a label as text: a whole number that became a fraction beside missing ones is whole again."""
    number = float(value) if isinstance(value, float | np.floating) else np.nan
    if abs(number) < 2**53 and number.is_integer():
        return str(int(number))
    return _cell(value)


def whole(text: str) -> str:
    """Return a text that can be written: half a character, which JSON and terminals let in, becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
