"""Tables from files: CSV, TSV, JSON lines and Parquet, as they are or packed by gzip, whole or part by part."""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import DataError, ToolkitWarning, nearest
from toolkit_text.data.texts import Cleaner, Texts, joined

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": "", ".parquet": ""}
"""What can be read, and what separates the columns of a line."""

EXAMPLE = '{"text": "a text", "label": "its class"}'


@dataclass(frozen=True)
class Written:
    """How a file of rows is written.

    header: the names of the columns of a CSV or TSV file that does not begin with them; () numbers them from 0. quotes:
    whether quotation marks enclose cells; without, they are characters as others are.
    """

    encoding: str = "utf-8"
    header: tuple[str, ...] | None = None
    quotes: bool = True


def read_texts(path: Path, text: Sequence[str], label: str | None, encoding: str = "utf-8") -> Texts:
    """Read the columns of texts, joined by a blank line, and the column of labels.

    Rows without text or without label are left out, and counted in a warning. label: None reads no labels.
    Raises: DataError naming the file, and the line or column, when it cannot be read.
    """
    return joined(read_parts(path, text, label, Written(encoding)))


def read_parts(
    path: Path, text: Sequence[str], label: str | None, written: Written, size: int | None = None
) -> Iterator[Texts]:
    """Yield what `read_texts` returns in parts of `size` rows of the file; None yields all of them at once."""
    if not text:
        raise DataError(f"{path}: name a column with the text; an empty list of columns reads nothing")
    cleaner = Cleaner(text, label, str(path))
    for table in read_tables(path, written, size=size, wanted=[*text, *([label] if label is not None else [])]):
        yield cleaner.part(table)
    cleaner.finish()


def read_table(path: Path, encoding: str = "utf-8", kind: str = "") -> pd.DataFrame:
    """Read a whole file by its suffix, `.gz` behind it or not; cells of text files stay text.

    kind: the suffix that says how to read a file whose name does not. Raises: DataError.
    """
    (table,) = read_tables(path, Written(encoding), kind=kind)
    return table


def read_tables(
    path: Path,
    written: Written = Written(),
    *,
    kind: str = "",
    size: int | None = None,
    wanted: Sequence[str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield a file's rows in tables of `size` rows, of the `wanted` columns alone if any are named.

    Raises: DataError naming the file and the line, a wanted column that is missing with the nearest, or one that is
    there twice.
    """
    path = path.expanduser()
    kind = kind or suffix(path)
    if kind not in SUFFIXES:
        raise DataError(f"{path}: the name ends in none of {', '.join(SUFFIXES)} (with .gz behind them or not)")
    if not path.is_file():
        raise DataError(f"{path} is a folder, not a file" if path.is_dir() else f"there is no file {path}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    if written.header is not None and not SUFFIXES[kind]:
        raise DataError(f"{path}: data.header names the columns of .csv and .tsv files; this file names its own")
    empty = True
    try:
        for table in _READERS[kind](path, written, size, wanted):
            if not table.empty:
                empty = False
                yield table
    except UnicodeDecodeError as error:
        told = _strange_bytes(path, written.encoding) or f"a character is cut in two. {_NAME_IT}"
        raise DataError(f"{path} is not {written.encoding} throughout: {told}") from error
    except LookupError as error:
        raise DataError(f"{path}: {error}; utf-8, cp1252, latin-1 and utf-16 are some that there are") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' own errors are ValueErrors
        if isinstance(error, ValueError) and SUFFIXES[kind] and (strange := _strange_bytes(path, written.encoding)):
            raise DataError(f"{path} is not {written.encoding} throughout: {strange}") from error  # cut, then decoded
        says = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if SUFFIXES[kind] and "Expected" in says:  # so many columns, saw more
            says += f"; a cell with {SUFFIXES[kind]!r} in it stands between quotation marks"
        raise DataError(f"{path} cannot be read: {says}") from error
    if empty:
        raise DataError(f"{path} has {'a header and ' * (bool(SUFFIXES[kind]) and written.header is None)}no rows")


def suffix(path: Path) -> str:
    """Return the suffix that says how a file is read, without the `.gz` of a packed one."""
    return (path.with_suffix("") if _is_packed(path) else path).suffix.lower()


def _separated(path: Path, written: Written, size: int | None, wanted: Sequence[str] | None) -> Iterator[pd.DataFrame]:
    """Read CSV or TSV. The header is read as a row: pandas would take longer rows to begin with a name of theirs."""
    import csv

    import pandas as pd

    separator = SUFFIXES[suffix(path)]
    options: dict[str, Any] = {
        "sep": separator,
        "header": None,
        "dtype": str,
        "keep_default_na": False,
        "skip_blank_lines": False,
        "encoding": written.encoding,
        "compression": "gzip" if _is_packed(path) else None,
        "quoting": csv.QUOTE_MINIMAL if written.quotes else csv.QUOTE_NONE,
    }
    tables = pd.read_csv(path, chunksize=size, **options) if size else iter([pd.read_csv(path, **options)])
    columns = None if written.header is None else list(written.header)
    swallowed: list[int] = []
    row = 0
    for table in tables:
        if columns is None:
            columns, table = [str(name) for name in table.iloc[0]], table.iloc[1:]
        columns = columns or [str(number) for number in range(table.shape[1])]
        if len(columns) != table.shape[1]:
            raise DataError(
                f"{path} has {table.shape[1]} columns, but data.header names {len(columns)}: {', '.join(columns)}"
            )
        table = table.reset_index(drop=True)
        table.columns = columns
        check_columns(path, columns, wanted)
        if separator == "\t" and written.quotes:
            swallowed += [row + each for each in _swallowed(table.to_numpy().tolist())]
        row += len(table)
        yield table
    if swallowed:
        warnings.warn(
            ToolkitWarning(
                f"{path}: {len(swallowed)} rows hold cells with tabs and line ends, the first of them row "
                f"{swallowed[0]}: a cell that begins with a quotation mark goes on to the next one; data.quotes: false "
                "takes such marks as they are"
            ),
            stacklevel=2,
        )


def _json_lines(path: Path, written: Written, size: int | None, wanted: Sequence[str] | None) -> Iterator[pd.DataFrame]:
    """Read an object a line; pandas would round whole numbers past 2^53, and say of no mistake where it is."""
    import pandas as pd

    encoding = written.encoding
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding  # Windows begins files with a mark
    columns: list[str] = []

    def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
        made = pd.DataFrame(rows, dtype=object)
        if not columns:
            columns.extend(map(str, made.columns))
            check_columns(path, columns, wanted)
        return made.reindex(columns=made.columns.union(wanted, sort=False)) if wanted else made

    rows = []
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
            rows.append(row)
            if size and len(rows) == size:
                yield table(rows)
                rows = []
    if rows:
        yield table(rows)


def _parquet(path: Path, written: Written, size: int | None, wanted: Sequence[str] | None) -> Iterator[pd.DataFrame]:
    """Read Parquet; values become Python's own, since pandas would round whole numbers beside missing ones."""
    import pandas as pd
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = file.schema_arrow.names
        check_columns(path, columns, wanted)
        chosen = columns if wanted is None else list(wanted)
        for batch in file.iter_batches(size or max(1, file.metadata.num_rows), columns=chosen):
            yield pd.DataFrame({name: pd.Series(batch[name].to_pylist(), dtype=object) for name in chosen})


_READERS = {kind: _separated if separator else _json_lines for kind, separator in SUFFIXES.items()} | {
    ".parquet": _parquet
}


def check_columns(source: Any, columns: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Raise DataError for a wanted column that is not there, or twice."""
    for name in wanted or ():
        if name not in columns:
            raise DataError(f"{source} has no column {name!r}.{nearest(name, columns)}")
        if columns.count(name) > 1:
            raise DataError(f"{source} has {columns.count(name)} columns called {name!r}: which is meant?")


def _swallowed(rows: list[list[Any]]) -> list[int]:
    return [
        number
        for number, row in enumerate(rows)
        if any(isinstance(cell, str) and {"\t", "\n"} <= {*cell} for cell in row)
    ]


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


_NAME_IT = "Name its encoding, such as cp1252, latin-1 or utf-16"


def _strange_bytes(path: Path, encoding: str) -> str | None:
    """Say where the first bytes stand that are no text in an encoding, and what to do; None where lines show none."""
    if b"\0" in "\n".encode(encoding):  # lines of bytes are no lines of text
        return None
    first, strange, fitting = "", 0, 0
    with gzip.open(path) if _is_packed(path) else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                fitting += not line.decode(encoding).isascii()
            except UnicodeDecodeError as error:
                first = first or f"line {number} has the byte {line[error.start]:#04x}"
                strange += 1
    if first and fitting:
        counts = f"{fitting} fit and {strange} do not"
        return f"{first}. Of the lines with more than ASCII {counts}: it is mixed, mend the fewer"
    return f"{first}. {_NAME_IT}" if first else None
