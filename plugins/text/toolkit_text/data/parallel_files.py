"""A user's own texts and their translations, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.errors import DataError
from toolkit.files import sha256_of
from toolkit_text.data.lines import read_lines
from toolkit_text.data.parallel import Pairs, ParallelTexts, paired
from toolkit_text.data.table import SUFFIXES, read_texts, suffix


class ParallelFiles(ParallelTexts):
    """Pairs of texts from two files line by line, or from two columns of a CSV, TSV, JSON lines or Parquet file.

    train, val, test: a table each, or [sources, targets], two files of lines; packed by gzip or not. Where val or test
    is missing, a share of train is split off. source, target: the columns of tables. encoding: of text files. The rest
    is `ParallelTexts`'.
    Raises: DataError for two files with other numbers of lines, or one file that is no table.
    """

    def __init__(
        self,
        *,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        source: str = "source",
        target: str = "target",
        encoding: str = "utf-8",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.files: dict[str, list[Path]] = {}
        for name, given in (("train", train), ("val", val), ("test", test)):
            if given is None:
                continue
            paths = [Path(each).expanduser() for each in ([given] if isinstance(given, str) else given)]
            if len(paths) not in (1, 2):
                raise DataError(f"data.{name}: name one table, or two files of lines; {len(paths)} files were given")
            if len(paths) == 1 and suffix(paths[0]) not in SUFFIXES:
                raise DataError(
                    f"data.{name}: {paths[0]} ends in none of {', '.join(SUFFIXES)} (with .gz behind them or not); of "
                    "files of lines name two, [sources, targets]"
                )
            self.files[name] = paths
        if source == target:
            raise DataError(f"data.source and data.target are both the column {source!r}: nothing is to be translated")
        self.source, self.target, self.encoding = source, target, encoding

    @property
    def columns(self) -> list[str]:
        return [self.source] if len(self.files["train"]) == 1 else []

    def read(self) -> dict[str, Pairs]:
        return {name: self._read(paths) for name, paths in self.files.items()}

    def _read(self, paths: list[Path]) -> Pairs:
        if len(paths) == 2:
            source, target = (read_lines(path, self.encoding) for path in paths)
            return paired(source, target, " and ".join(map(str, paths)))
        found = read_texts(paths[0], [self.source], self.target, self.encoding)
        return Pairs(found.texts, found.labels, found.rows)

    def provenance(self) -> dict[str, str]:
        return {str(path): sha256_of(path) for paths in self.files.values() for path in paths}
