"""A user's own texts, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.files import sha256_of
from toolkit_text.data.labelled import LabelledTexts
from toolkit_text.data.table import Texts, read_texts


class TextFiles(LabelledTexts):
    """Texts with a class each, from CSV, TSV, JSON lines or Parquet files, packed by gzip or not.

    train, val, test: files; where val or test is missing, a share of train is split off. text: the column with the
    text, or several to be joined. label: the column with the class. encoding: of text files. The rest is
    `LabelledTexts`'.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str | None = None,
        test: str | None = None,
        text: str | list[str] = "text",
        label: str = "label",
        encoding: str = "utf-8",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.files = {
            name: Path(path).expanduser()
            for name, path in (("train", train), ("val", val), ("test", test))
            if path is not None
        }
        self.text, self.label, self.encoding = text, label, encoding

    @property
    def columns(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text

    def read(self) -> dict[str, Texts]:
        return {name: read_texts(path, self.columns, self.label, self.encoding) for name, path in self.files.items()}

    def provenance(self) -> dict[str, str]:
        return {str(path): sha256_of(path) for path in self.files.values()}
