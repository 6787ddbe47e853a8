"""Texts with a class each from the Hugging Face hub, read by the library `datasets`: no script of theirs is run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from toolkit.errors import DataError, MissingExtraError
from toolkit.files import offline
from toolkit_text.data.labelled import LabelledTexts
from toolkit_text.data.table import check_columns
from toolkit_text.data.texts import Cleaner, Parts, Texts

PART = 10_000
"""Rows that are read at a time."""


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set on the hub. text, label, names: as in `Cleaner`; revision: a branch, tag or commit."""

    id: str
    split: str
    text: tuple[str, ...] = ("text",)
    label: str = "label"
    config: str | None = None
    revision: str | None = None
    names: Mapping[str, str] | None = None

    def __str__(self) -> str:
        where = "/".join(filter(None, (self.id, self.config, self.split)))
        return f"{where}{'@' + self.revision if self.revision else ''} of the Hugging Face hub"

    def load(self) -> Any:
        """Return the split as the library holds it, fetched into its cache if need be. Raises: DataError."""
        try:
            import datasets
        except ImportError as error:
            raise MissingExtraError("data of the hub needs the library datasets: pip install datasets") from error
        from huggingface_hub import constants

        before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
        if offline():  # the library reads its own variable once, when it is imported
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        try:
            return datasets.load_dataset(self.id, self.config, split=self.split, revision=self.revision)
        except Exception as error:  # the library raises its own, the hub's, pyarrow's and OS errors
            hint = "TOOLKIT_OFFLINE is set; " if offline() else ""
            first = (str(error).strip().splitlines() or [""])[0][:300]
            raise DataError(f"{self} could not be had: {hint}{type(error).__name__}: {first}") from error
        finally:
            datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before

    def parts(self) -> Iterator[Texts]:
        """Yield its rows part by part; numbers of classes become their names. Raises: DataError."""
        import pandas as pd

        found = self.load()
        wanted = [*self.text, self.label]
        check_columns(self, found.column_names, wanted)
        called = getattr(found.features[self.label], "names", None)
        cleaner = Cleaner(self.text, self.label, str(self), self.names)
        for batch in found.select_columns(wanted).iter(PART):
            if called is not None:
                batch[self.label] = [None if each is None else _name(called, each, self) for each in batch[self.label]]
            yield cleaner.part(pd.DataFrame({name: pd.Series(batch[name], dtype=object) for name in wanted}))
        cleaner.finish()


def _name(names: Sequence[str], number: int, split: HubSplit) -> str:
    if not 0 <= number < len(names):  # -1 stands for a label that is kept secret
        raise DataError(
            f"{split} has rows with the label {number}, which stands for one that is not told; its classes "
            f"are {', '.join(names)}. Choose a split with labels"
        )
    return names[number]


class HubTexts(LabelledTexts):
    """Texts with a class each from a data set on the Hugging Face hub, or from a folder that is laid out like one.

    id: the data set, such as `fancyzhx/ag_news`. config: its configuration, where it has several. revision: a branch,
    tag or commit; a commit never changes. train, val, test: what its splits are called; where val or test is missing, a
    share of train is split off. text: the column with the text, or several to be joined. label: the column with the
    class. The rest is `LabelledTexts`'. With `keep: disk` no more than a part of the rows is in memory.
    """

    def __init__(
        self,
        *,
        id: str,
        config: str | None = None,
        revision: str | None = None,
        train: str = "train",
        val: str | None = None,
        test: str | None = None,
        text: str | list[str] = "text",
        label: str = "label",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.text = [text] if isinstance(text, str) else text
        whole = HubSplit(id, train, tuple(self.text), label, config, revision)
        given = {"train": train, "val": val, "test": test}
        self.hub = {name: replace(whole, split=split) for name, split in given.items() if split is not None}

    @property
    def columns(self) -> list[str]:
        return self.text

    def prepare_data(self) -> None:
        super().prepare_data()
        if self.trained is None:
            for split in self.hub.values():
                split.load()

    def sources(self) -> dict[str, Parts]:
        return {name: split.parts for name, split in self.hub.items()}

    def provenance(self) -> dict[str, str]:
        return {str(split): self._digests[name] for name, split in self.hub.items()}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: digest(split.parts) for name, split in self.hub.items()}


def digest(parts: Parts) -> str:
    """Return the sha256 of rows as they are read: a hub's files may be packed in many ways."""
    found = hashlib.sha256()
    for part in parts():
        for text, label in zip(part.texts, part.labels, strict=True):
            for each in (text, label):
                found.update(f"{len(each)}:".encode())
                found.update(each.encode())
    return found.hexdigest()
