"""Labelled texts that do not fit in memory: read part by part, kept as tokens in the cache, mapped from there."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data import Spec
from toolkit.errors import ToolkitWarning
from toolkit.files import cache_root, locked, writing
from toolkit_text.data.encoded import EncodedTexts
from toolkit_text.data.mapped import MappedTexts, MappedWriter, facts
from toolkit_text.data.splits import warn_of_repeats
from toolkit_text.data.survey import Survey

if TYPE_CHECKING:
    from toolkit_text.data.labelled import LabelledTexts

VERSION = 2
"""Of what lies in the cache: another one is made anew."""


class StoredTexts:
    """The splits of a data module in the cache. Of several processes one makes them, the others wait.

    They are read twice: once for the labels, the splits and the tokenizer, with a few bytes of each text kept, and once
    to be encoded. A second run with the same rows and options does neither; it only makes sure that they are the same.
    """

    def __init__(self, data: LabelledTexts) -> None:
        self.data = data
        self._surveys: dict[str, Survey] = {}
        self.origin = {
            "version": VERSION,
            "read_by": f"{type(data).__module__}.{type(data).__qualname__}",  # what labels are called is its business
            **data.origin(),
            "shares": [data.val_share, data.test_share, data.split_seed],
            "encode": [data.max_length, data.too_long],
        }

    def spec(self) -> dict[str, Any]:
        """Return the spec of data to be trained on. Raises: DataError."""
        data = self.data
        learned = [vars(data.learned), data.learn_from, data.classes, data.columns, data.encoding]
        path = self._folder({"learned": learned}) / "spec.json"
        with locked(path):
            if path.is_file():
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return found
            sources = data.sources()
            survey = self._surveyed("train", data.learn_from)
            places = survey.assign(data.shares(sources))
            train = places["train"]
            seen = set(np.unique(survey.codes[train]).tolist())
            classes = data._classes({label for label, code in survey.labels.items() if code in seen})
            data.check("train", len(train), set(survey.labels), classes)
            drawn = {name: survey.drawn[chosen] for name, chosen in places.items()}
            for name in sources.keys() - {"train"}:
                given = self._surveyed(name)
                data.check(name, len(given), set(given.labels), classes)
                drawn[name] = given.drawn
            warn_of_repeats(drawn)
            spec = data.new_spec(classes, survey.sample(train))
            survey.forget_texts()
            with writing(path) as file:
                file.write(json.dumps(spec).encode())
            return spec

    def split(self, name: str, spec: Spec) -> EncodedTexts:
        """Return a split, encoded if it is not yet. Raises: DataError."""
        sources = self.data.sources()
        together = ["train", *self.data.shares(sources)]  # what one file is shared out to is encoded in one pass
        names = [name] if name in sources and name != "train" else together
        folders = {each: self._split_folder(each, spec) for each in names}
        with locked(folders[names[0]].parent / f"{names[0]}.all"):
            if any(facts(folder) is None for folder in folders.values()):
                self._encode(names, folders, spec)
        found = facts(folders[name])
        assert found is not None
        count = found["counts"]["rows"]
        self.data.check(name, count, set(), spec["classes"])
        self.data.tell_of_cut(name, found["cut"], count)
        return MappedTexts(folders[name], spec["pad"], self.data.windows_of(name))

    def _encode(self, names: list[str], folders: Mapping[str, Path], spec: Spec) -> None:
        data = self.data
        source = data.sources()[names[0]]
        split = np.zeros(0, dtype=np.int8)
        if len(names) > 1:
            survey = self._surveyed("train")
            split = np.zeros(len(survey), dtype=np.int8)
            for number, places in enumerate(survey.assign(data.shares(data.sources())).values()):
                split[places] = number
        code = {label: number for number, label in enumerate(spec["classes"])}
        with ExitStack() as stack:
            if names[0] in self._surveys:  # the first pass told of the rows that are left out
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", ToolkitWarning)
            writers = [stack.enter_context(MappedWriter(folders[name])) for name in names]
            done = 0
            for part in source():
                if not len(part):  # nothing in it was worth keeping
                    continue
                data.check(names[0], len(part), set(part.labels), spec["classes"])
                own = split[done : done + len(part)] if len(names) > 1 else np.zeros(len(part), dtype=np.int8)
                done += len(part)
                for number, writer in enumerate(writers):
                    texts = part.part(np.flatnonzero(own == number))
                    if len(texts):
                        found = data.encode(texts.texts, spec)
                        writer.add(found, texts.rows, [code[label] for label in texts.labels])

    def _surveyed(self, name: str, characters: int = 0) -> Survey:
        if name not in self._surveys:
            survey = Survey(self.data.split_seed, characters)
            for part in self.data.sources()[name]():
                survey.add(part)
            self._surveys[name] = survey
        return self._surveys[name]

    def _split_folder(self, name: str, spec: Spec) -> Path:
        keys = ("tokenizer", "classes")
        return self._folder({key: spec[key] for key in keys}) / name

    def _folder(self, more: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps({**self.origin, **more}, sort_keys=True, default=str).encode())
        return cache_root() / "text" / "encoded" / digest.hexdigest()[:32]
