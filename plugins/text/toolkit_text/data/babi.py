"""bAbI: twenty kinds of questions about small simulated worlds. Weston et al. 2015, arXiv:1502.05698."""

from __future__ import annotations

import gzip
import re
import warnings
from pathlib import Path
from typing import Any, Literal

from toolkit.binding import Fraction, NonNegative
from toolkit.errors import DataError, SourceError, ToolkitWarning
from toolkit.files import sha256_of
from toolkit_text.data.questions import StoryQuestions, split_off
from toolkit_text.data.story import Asked

TASKS = range(1, 21)
NAME = re.compile(r"qa(\d+)_.+_(train|test)\.txt(?:\.gz)?")
SITE = "https://research.facebook.com/downloads/babi/"
ARCHIVE = "tasks_1-20_v1-2.tar.gz"


class BAbI(StoryQuestions):
    """Questions of the bAbI tasks, version 1.2, from files in a folder.

    folder: where the archive is unpacked, or one of its folders such as `en-10k`. variant: which of its folders is
    read: `en` has 1,000 training questions a task, `en-10k` ten times as many. tasks: numbers from 1 to 20; None is all
    whose files are there, with a warning that names the others. val_share: the share of the training stories of each
    task that are split off, by split_seed.
    An answer of several words, such as the lists of task 8 and the paths of task 19, is one class.
    The rest is `StoryQuestions`'.
    Raises: SourceError where there are no such files; DataError naming file and line where one cannot be read.
    Source: arXiv:1502.05698; splits as in arXiv:1503.08895, sec. 4.2.
    """

    def __init__(
        self,
        *,
        folder: str | None = None,
        variant: Literal["en", "en-10k", "hn", "hn-10k", "shuffled", "shuffled-10k"] = "en-10k",
        tasks: list[int] | None = None,
        val_share: Fraction = 0.1,
        split_seed: NonNegative = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if strange := [task for task in tasks or () if task not in TASKS]:
            raise DataError(f"data.tasks: there is no bAbI task {strange[0]}; they are numbered from 1 to {TASKS[-1]}")
        if tasks is not None and not tasks:
            raise DataError("data.tasks names no task; leave it out for all that are there")
        self.folder = None if folder is None else Path(folder).expanduser()
        self.variant, self.tasks = variant, None if tasks is None else sorted(set(tasks))
        self.val_share, self.split_seed = val_share, split_seed

    def read(self) -> dict[str, list[Asked]]:
        files = self.files()
        train = [each for task, pair in files.items() for each in read_file(pair["train"], f"qa{task}")]
        test = [each for task, pair in files.items() for each in read_file(pair["test"], f"qa{task}")]
        train, val = split_off(train, self.val_share, self.split_seed)
        return {"train": train, "val": val, "test": test}

    def files(self) -> dict[int, dict[str, Path]]:
        """Return the files of each task. Raises: SourceError where some that are asked for are missing."""
        folder = self._folder()
        found: dict[int, dict[str, Path]] = {}
        for path in sorted(folder.iterdir()):
            if matched := NAME.fullmatch(path.name):
                found.setdefault(int(matched[1]), {})[matched[2]] = path
        wanted = list(TASKS) if self.tasks is None else self.tasks
        missing = {
            task: [part for part in ("train", "test") if part not in found.get(task, {})]
            for task in wanted
            if len(found.get(task, {})) < 2
        }
        told = ", ".join(f"task {task} ({' and '.join(parts)})" for task, parts in missing.items())
        if missing and (self.tasks is not None or len(missing) == len(TASKS)):
            raise SourceError(f"{folder} lacks files of {len(missing)} of {len(wanted)} tasks: {told}. {self._help()}")
        if missing:
            text = f"{folder} lacks files of {len(missing)} of {len(wanted)} tasks, which are left out: {told}"
            warnings.warn(ToolkitWarning(text), stacklevel=2)
        return {task: found[task] for task in wanted if task not in missing}

    def _folder(self) -> Path:
        if self.folder is None:
            raise SourceError(f"data.folder names no folder with the bAbI tasks. {self._help()}")
        inner = [self.folder / self.variant, self.folder / "tasks_1-20_v1-2" / self.variant]
        for place in (*inner, *([self.folder] if self.folder.name == self.variant else [])):
            if place.is_dir():
                return place
        raise SourceError(f"data.folder={self.folder} has no folder {self.variant}. {self._help()}")

    def _help(self) -> str:
        return (
            f"Get {ARCHIVE} from {SITE}, unpack it anywhere, and name that place: data.folder=PLACE, where "
            f"PLACE/{self.variant}/qa1_single-supporting-fact_train.txt is (packed by gzip or not). The recipe "
            "`stories` needs no files"
        )

    def provenance(self) -> dict[str, str]:
        return {path.name: sha256_of(path) for pair in self.files().values() for path in pair.values()}


def read_file(path: Path, task: str) -> list[Asked]:
    """Read a file of bAbI: lines `N sentence` and `N question TAB answer TAB numbers of supporting lines`.

    Raises: DataError naming the line that is neither, is out of order, or names a line that is no sentence.
    """
    asked: list[Asked] = []
    sentences: list[str] = []
    places: dict[int, int] = {}  # of the sentences of this story, by line number
    story = before = 0
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path.name}, line {number}"
        own, _, text = line.partition(" ")
        if not own.isdecimal() or not text.strip():
            raise DataError(f"{where}: {line[:80]!r} does not begin with a number and a sentence")
        if int(own) == 1:
            sentences, places, story = [], {}, story + 1
        elif int(own) != before + 1:
            raise DataError(f"{where} has the number {own}, but {before + 1} or 1 was to come")
        before = int(own)
        if "\t" not in text:
            places[before] = len(sentences)
            sentences.append(text.strip())
            continue
        parts = [part.strip() for part in text.split("\t")]
        if len(parts) != 3 or not all(parts):
            raise DataError(f"{where}: a question has an answer and supporting lines behind it, split by tabs")
        support = []
        for named in parts[2].split():
            if not named.isdecimal() or int(named) not in places:
                raise DataError(f"{where}: the supporting line {named!r} is no sentence of this story")
            support.append(places[int(named)])
        asked.append(Asked(tuple(sentences), parts[0], parts[1], tuple(support), task, story))
    if not asked:
        raise DataError(f"{path} holds no question")
    return asked


def _lines(path: Path) -> list[str]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read().decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:  # a broken gzip file is an OSError or an EOFError
        raise DataError(f"{path} cannot be read: {error}") from error
