"""SST-2, AG News, TREC and IMDB: from the Hugging Face hub, or from files of yours."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from toolkit.data import Spec
from toolkit.errors import DataError
from toolkit_text.data.files import PART, paths_of, sum_of, sums_there
from toolkit_text.data.hub import HubSplit, digest
from toolkit_text.data.known import STEMS, KnownSet, Layout, files_of, read_known, same
from toolkit_text.data.labelled import LabelledTexts
from toolkit_text.data.texts import Cleaner, Parts, Texts, numbered

POLARITY = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive", **same("negative", "positive")}
NEWS = ("World", "Sports", "Business", "Sci/Tech")
FROM_0 = {str(number): name for number, name in enumerate(NEWS)} | same(*NEWS) | {"Sci_Tech": "Sci/Tech"}
FROM_1 = {str(number): name for number, name in enumerate(NEWS, 1)} | same(*NEWS)
QUESTIONS = {
    "ABBR": "abbreviation",
    "ENTY": "entity",
    "DESC": "description",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}


class KnownTexts(LabelledTexts):
    """A published data set of text classification. Without any file named it comes from the Hugging Face hub.

    folder: where its files are; train, val, test: which file of the folder (or by itself) each split is, where their
    names do not tell. What there is no file for is split off from train. The rest is `LabelledTexts`'.
    """

    known: ClassVar[KnownSet]

    def __init__(
        self,
        *,
        folder: str | None = None,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        encoding: str = "utf-8",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.folder = None if folder is None else Path(folder).expanduser()
        self.given = {name: each for name, each in (("train", train), ("val", val), ("test", test)) if each is not None}
        self.encoding = encoding

    @property
    def columns(self) -> list[str]:
        return ["text"]

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """The files of each split; none where the hub has them."""
        found = {} if self.folder is None else files_of(self.folder, self.known, self.given)
        within = self.folder or Path()
        named = {name: [within / path for path in paths_of(name, each)] for name, each in self.given.items()}
        return found | named

    @property
    def from_hub(self) -> bool:
        return self.folder is None and not self.given

    def prepare_data(self) -> None:
        super().prepare_data()
        if self.from_hub:
            for split in self.known.hub.values():
                split.load()

    def sources(self) -> dict[str, Parts]:
        if self.from_hub:
            return {name: split.parts for name, split in self.known.hub.items()}
        size = PART if self.keep == "disk" else None
        return {
            name: partial(numbered, [partial(self.read_file, path, size) for path in paths])
            for name, paths in self.files.items()
        }

    def load(self) -> Spec:
        if self.trained is None and not self.from_hub and "train" not in self.files:
            raise DataError(
                f"data.{next(iter(self.given))} names a file, so data.train or data.folder must name one too"
            )
        return super().load()

    def read_file(self, path: Path, size: int | None) -> Iterator[Texts]:
        """Yield the rows of a file."""
        return read_known(path, self.known, self.encoding, size)

    def origin(self) -> dict[str, Any]:
        if self.from_hub:
            return {"files": self._digests}
        return {"files": sums_there(self.files), "read": self.encoding}

    def provenance(self) -> dict[str, str]:
        if self.from_hub:
            return self._digests
        return {str(path): sum_of(path) for paths in self.files.values() for path in paths}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {str(split): digest(split.parts) for split in self.known.hub.values()}


class SST2(KnownTexts):
    """Sentences of film reviews, negative or positive: 6920, 872 and 1821 whole sentences.

    Files: tab-separated `text`, `label` (0 or 1) without names of columns, or with them (GLUE says `sentence`).
    Source: Socher et al. 2013, EMNLP; this split as Kim 2014, arXiv:1408.5882, has it, without phrases.
    """

    known: ClassVar[KnownSet] = KnownSet(
        title="SST-2",
        hub={
            name: HubSplit("SetFit/sst2", split, names=POLARITY)
            for name, split in (("train", "train"), ("val", "validation"), ("test", "test"))
        },
        layouts=(
            Layout(("text", "label"), ("text",), "label", POLARITY),
            Layout(("sentence", "label"), ("sentence",), "label", POLARITY),
        ),
        stems=STEMS,
        quotes=False,
    )


class AGNews(KnownTexts):
    """News by topic: World, Sports, Business, Sci/Tech; 120,000 texts to train on and 7600 to test.

    Files: `class` (1 to 4), `title`, `description` without names of columns, as published; or `text`, `label` (0 to 3),
    with them or not.
    Source: Zhang, Zhao and LeCun 2015, arXiv:1509.01626.
    """

    known: ClassVar[KnownSet] = KnownSet(
        title="AG News",
        hub={name: HubSplit("fancyzhx/ag_news", name, names=FROM_0) for name in ("train", "test")},
        layouts=(
            Layout(("class", "title", "description"), ("title", "description"), "class", FROM_1),
            Layout(("text", "label"), ("text",), "label", FROM_0),
        ),
        stems=STEMS,
    )


class TREC(KnownTexts):
    """Questions by what they ask for: abbreviation, entity, description, human, location or number; 5452 and 500.

    fine: the 50 classes below these, called as published (`LOC:city`). Files: as published (`train_5500.label`,
    `TREC_10.label`: a class and a question a line, in latin-1), or tables with `text` and `coarse_label` or
    `fine_label`.
    Source: Li and Roth 2002, COLING.
    """

    revision: ClassVar[str] = "refs/convert/parquet"
    """Where the hub keeps this set in a form that needs no script."""

    def __init__(self, *, fine: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.fine = fine
        label = "fine_label" if fine else "coarse_label"
        names = None if fine else QUESTIONS | same(*QUESTIONS.values())
        self.known = KnownSet(  # type: ignore[misc]
            title="TREC",
            hub={
                name: HubSplit("CogComp/trec", name, label=label, revision=self.revision, names=names)
                for name in ("train", "test")
            },
            layouts=(Layout(("text", label), ("text",), label, names or _Any()),),
            stems={**STEMS, "train": ("train", "train_5500"), "test": ("test", "trec_10")},
        )

    def origin(self) -> dict[str, Any]:
        return {**super().origin(), "fine": self.fine}

    def read_file(self, path: Path, size: int | None) -> Iterator[Texts]:
        if path.name.endswith(".label"):
            return iter([self._published(path)])
        return super().read_file(path, size)

    def _published(self, path: Path) -> Texts:
        found = Texts()
        lines = path.read_text(encoding="latin-1").rstrip("\n")
        if not lines:
            raise DataError(f"{path} is empty")
        # Not splitlines(): in latin-1 a byte of another encoding may stand for one of its other line ends.
        for row, line in enumerate(lines.split("\n")):
            label, _, text = line.strip().partition(" ")
            coarse, _, rest = label.partition(":")
            if coarse not in QUESTIONS or not rest or not text:
                raise DataError(
                    f"{path} cannot be read: line {row + 1} is not a class and a question, such as 'LOC:city Where?'"
                )
            found.texts.append(text)
            found.labels.append(label if self.fine else QUESTIONS[coarse])
            found.rows.append(row)
        return found


class _Any(dict[str, str]):
    """Classes that are called what they are called, whatever that is."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return name


class IMDB(KnownTexts):
    """Film reviews, negative or positive: 25,000 long texts to train on and as many to test.

    Files: the folder as published (`train/pos/*.txt`, `train/neg/*.txt`, `test/...`), or tables with `text` and `label`
    or `review` and `sentiment`.
    Source: Maas et al. 2011, ACL.
    """

    known: ClassVar[KnownSet] = KnownSet(
        title="IMDB",
        hub={name: HubSplit("stanfordnlp/imdb", name, names=POLARITY) for name in ("train", "test")},
        layouts=(
            Layout(("text", "label"), ("text",), "label", POLARITY),
            Layout(("review", "sentiment"), ("review",), "sentiment", POLARITY),
        ),
        stems=STEMS,
    )

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        if self.folder is not None and not self.given and (self.folder / "train" / "pos").is_dir():
            return {name: _reviews(self.folder / name) for name in ("train", "test") if (self.folder / name).is_dir()}
        return super().files

    def sources(self) -> dict[str, Parts]:
        if not self.from_hub and any(path.suffix == ".txt" for paths in self.files.values() for path in paths):
            return {name: partial(_read_reviews, paths, self.encoding) for name, paths in self.files.items()}
        return super().sources()


def _reviews(folder: Path) -> list[Path]:
    found = [path for kind in ("neg", "pos") for path in sorted((folder / kind).glob("*.txt"))]
    if not found:
        raise DataError(f"{folder} has no reviews: neither neg/*.txt nor pos/*.txt")
    return found


def _read_reviews(paths: list[Path], encoding: str) -> Iterator[Texts]:
    import pandas as pd

    cleaner = Cleaner(["text"], "label", str(paths[0].parents[1]), POLARITY)
    for first in range(0, len(paths), PART):
        some = paths[first : first + PART]
        rows = [(_read_review(path, encoding), path.parent.name) for path in some]
        yield cleaner.part(pd.DataFrame(rows, columns=["text", "label"]))
    cleaner.finish()


def _read_review(path: Path, encoding: str) -> str:
    try:
        return path.read_text(encoding=encoding).replace("<br />", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {encoding} throughout: {error}. Name its encoding: data.encoding") from error
