"""Rows of texts with their labels, and how a table becomes them: what stands for nothing is left out, and counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import DataError, ToolkitWarning

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Texts:
    """Texts and their labels, row by row. rows: the number of each in the file it came from, from 0."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def part(self, places: Sequence[int] | np.ndarray) -> Texts:
        """Return some of the rows."""
        chosen = [int(place) for place in places]
        labels = [self.labels[place] for place in chosen] if self.labels else []
        return Texts([self.texts[place] for place in chosen], labels, [self.rows[place] for place in chosen])

    def __len__(self) -> int:
        return len(self.texts)


Parts = Callable[[], Iterator[Texts]]
"""Yields the rows of a split part by part, from the first one on each time it is called."""


def joined(parts: Iterable[Texts]) -> Texts:
    """Return the rows of all parts as one."""
    found = Texts()
    for part in parts:
        found.texts += part.texts
        found.labels += part.labels
        found.rows += part.rows
    return found


def numbered(sources: Sequence[Parts]) -> Iterator[Texts]:
    """Yield the parts of several sources, the rows of each numbered on from the last one of those before."""
    first = 0
    for source in sources:
        last = first
        for part in source():
            rows = [first + row for row in part.rows]
            last = max(last, rows[-1] + 1) if rows else last
            yield Texts(part.texts, part.labels, rows)
        first = last


class Cleaner:
    """Turns the parts of one table into texts and labels; rows without text or without label are left out.

    text: the columns of the text, joined by a blank line. label: that of the label, None to read none. source: the
    table's name in messages. names: what labels are called here; one that is not in it is an error. None keeps all.
    Raises: DataError for a column that is both.
    """

    def __init__(
        self, text: Sequence[str], label: str | None, source: str, names: Mapping[str, str] | None = None
    ) -> None:
        if label in text:
            raise DataError(f"{source}: column {label!r} cannot be both text and label: the text would give it away")
        self.text, self.label, self.source, self.names = list(text), label, source, names
        self.rows = self.empty = self.unlabelled = self.kept = 0

    def part(self, table: pd.DataFrame) -> Texts:
        """Return the rows that have all that is wanted, numbered on from the part before. Raises: DataError."""
        parts = zip(*(self._column(table, name, _cell) for name in self.text), strict=True)
        texts = ["\n\n".join(filter(None, row)) for row in parts]
        labels = None if self.label is None else self._column(table, self.label, _label)
        empty = [row for row, found in enumerate(texts) if not found]
        unlabelled = [row for row, found in enumerate(labels or []) if not found and texts[row]]
        kept = sorted(set(range(len(texts))).difference(empty, unlabelled))
        rows = [self.rows + row for row in range(len(texts))]
        self.rows += len(texts)
        self.empty += len(empty)
        self.unlabelled += len(unlabelled)
        self.kept += len(kept)
        found = Texts(texts, labels or [], rows).part(kept)
        if self.names is not None:
            found.labels = [self._named(label, row) for label, row in zip(found.labels, found.rows, strict=True)]
        return found

    def finish(self) -> None:
        """Tell how many rows were left out, and why. Raises: DataError where that left none."""
        counts = ((self.empty, "text"), (self.unlabelled, "label"))
        reasons = [f"{count} without {what}" for count, what in counts if count]
        if reasons:
            left_out = f"{self.empty + self.unlabelled} of {self.rows} rows are left out"
            warnings.warn(ToolkitWarning(f"{self.source}: {left_out}: {', '.join(reasons)}"), stacklevel=2)
        if not self.kept:
            raise DataError(f"{self.source} has no row with {'a text' + ' and a label' * (self.label is not None)}")

    def _named(self, label: str, row: int) -> str:
        assert self.names is not None
        if label not in self.names:
            raise DataError(
                f"{self.source}: row {row} has the label {label!r}, which is none of {', '.join(map(repr, self.names))}"
            )
        return self.names[label]

    def _column(self, table: pd.DataFrame, name: str, read: Callable[[Any], str]) -> list[str]:
        found = []
        for row, value in enumerate(table[name].astype(object), start=self.rows):
            if isinstance(value, list | dict | tuple | set | bytes | np.ndarray):
                kind = type(value).__name__
                raise DataError(f"{self.source}: column {name!r} of row {row} holds a {kind}, not a text or a number")
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
