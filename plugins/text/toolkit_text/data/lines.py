"""Texts from files, one a line: as they are or packed by gzip."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from toolkit.errors import DataError


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Return the lines of a file, empty ones too; they end with line feeds, before which a return is left out.

    Other separators of lines, such as U+2028, stand within texts: they would put lines of two files out of step.
    Raises: DataError naming the file, and the line that is not in the encoding.
    """
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"{path} is a folder, not a file" if path.is_dir() else f"there is no file {path}")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not raw.strip():
        raise DataError(f"{path} is empty")
    try:
        text = raw.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not {encoding} throughout: line {line} has the byte {raw[error.start]:#04x}. Name its "
            "encoding, such as cp1252 or latin-1"
        ) from error
    except LookupError as error:
        raise DataError(f"{path}: {error}; utf-8, cp1252, latin-1 and utf-16 are some that there are") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
