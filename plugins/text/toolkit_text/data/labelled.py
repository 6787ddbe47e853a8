"""Texts with a class each: splits, tokens, batches of similar length. What the data sets of classification share."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from toolkit.binding import Fraction, NonNegative, Positive
from toolkit.data import Data, Spec
from toolkit.errors import DataError, ToolkitWarning
from toolkit.loading import EpochLoader
from toolkit.yamlfile import shown
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.encoded import EncodedTexts
from toolkit_text.data.learned import Learned
from toolkit_text.data.on_disk import StoredTexts
from toolkit_text.data.splits import assign, draws, warn_of_repeats
from toolkit_text.data.texts import Parts, Texts, joined
from toolkit_text.data.tokens import TooLong, Windows, encode

SPLITS = ("train", "val", "test")


class LabelledTexts(Data):
    """Texts with one of some classes each; a subclass writes `sources`.

    tokenizer: `word` or `bpe`, learned from the training texts; the name of a pretrained encoder, whose own it is: one
    that the plugin knows (`minilm`), a folder, or a repository of the Hugging Face hub; or a `tokenizer.json` file of
    the `tokenizers` library. vocabulary, min_count, lowercase: of a tokenizer that is learned. max_length: tokens of a
    sequence; too_long: `truncate` cuts longer texts off, with a warning that counts them, `slide` reads them in
    overlapping parts, whose scores are averaged. train_windows: how many of these parts a step of training holds of a
    text at most, drawn anew each time; evaluation reads all.
    batch_size: texts of a step and process; texts of similar length share one. batch_tokens: places of a step and
    process at most, padded ones among them. workers: processes that make batches ahead.
    classes: what they are called, in this order; None takes the labels that training has.
    val_share, test_share: the shares of rows that are split off where `sources` gives no such split: by the text
    itself, so that equal texts lie in one, and by split_seed; a rare class is in train first, then in all of them.
    keep: `memory`, or `disk` for texts that do not fit in it: they are read part by part, and their tokens are mapped
    from the cache folder. learn_from: characters of text at most that a tokenizer is learned from then.
    Raises: DataError for splits without rows, one class only, or a label that training does not know.
    """

    encoding: str = "utf-8"
    """How files to be predicted are expected to be encoded."""

    def __init__(
        self,
        *,
        tokenizer: str = "word",
        vocabulary: Positive = 20_000,
        min_count: Positive = 2,
        lowercase: bool = True,
        max_length: Positive = 256,
        too_long: TooLong = "truncate",
        train_windows: Positive = 8,
        batch_size: Positive = 64,
        batch_tokens: Positive | None = None,
        workers: NonNegative = 0,
        classes: list[str] | None = None,
        val_share: Fraction = 0.1,
        test_share: Fraction = 0.1,
        split_seed: NonNegative = 0,
        keep: Literal["memory", "disk"] = "memory",
        learn_from: Positive = 50_000_000,
    ) -> None:
        super().__init__()
        if val_share + test_share >= 1:
            raise DataError(
                f"data.val_share={val_share} and data.test_share={test_share} leave nothing for training: together "
                "they are below 1"
            )
        if classes is not None and len({*classes}) < max(2, len(classes)):
            raise DataError(f"data.classes={shown(classes)}: name two classes or more, each of them once")
        self.learned = Learned(tokenizer, vocabulary, min_count, lowercase)
        self.max_length, self.too_long, self.train_windows = max_length, too_long, train_windows
        self.batch_size, self.batch_tokens, self.workers = batch_size, batch_tokens, workers
        self.classes, self.val_share, self.test_share, self.split_seed = classes, val_share, test_share, split_seed
        self.keep, self.learn_from = keep, learn_from

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The columns that hold the text, as files to be predicted are expected to have them."""

    @abstractmethod
    def sources(self) -> dict[str, Parts]:
        """Return what yields the rows of `train` and, where they are given, of `val` and `test`, part by part."""

    def origin(self) -> dict[str, Any]:
        """Return plain values that tell these rows from any others, for what is kept of them in the cache."""
        return {"files": self.provenance()}

    def prepare_data(self) -> None:
        if self.trained is None:
            self.learned.fetch()  # a trained run has its tokenizer and needs no more

    def load(self) -> Spec:
        if self.trained is None:
            return self._loaded()
        self.learned.check(self.trained)
        if self.classes is not None and self.classes != self.trained["classes"]:
            raise DataError(
                f"data.classes={shown(self.classes)}: this run was trained with {shown(self.trained['classes'])}"
            )
        if self.max_length > self.trained["max_length"]:
            raise DataError(
                f"data.max_length={self.max_length}: this run was trained on {self.trained['max_length']} tokens at "
                "most; too_long: slide reads all of a long text"
            )
        spec = dict(self.trained)
        self.splits: Mapping[str, EncodedTexts] = _Lazy({name: partial(self._split, name, spec) for name in SPLITS})
        return spec

    def _loaded(self) -> Spec:
        """Learn what there is to learn, and encode all splits."""
        if self.keep == "disk":
            stored = StoredTexts(self)
            spec: Spec = stored.spec()
            self.splits = {name: stored.split(name, spec) for name in SPLITS}
            return spec
        splits = self.read_splits()
        classes = self._classes(set(splits["train"].labels))
        for name in SPLITS:
            self.check(name, len(splits[name]), set(splits[name].labels), classes)
        spec = self.new_spec(classes, splits["train"].texts)
        warn_of_repeats({name: draws(texts.texts, self.split_seed) for name, texts in splits.items()})
        self.splits = {name: self._encoded(name, texts, spec) for name, texts in splits.items()}
        return spec

    def new_spec(self, classes: list[str], texts: list[str]) -> dict[str, Any]:
        """Return the spec of data to be trained on. texts: what a tokenizer is learned from."""
        return {
            "classes": classes,
            "columns": self.columns,
            "encoding": self.encoding,
            "max_length": self.max_length,
            "too_long": self.too_long,
            **self.learned.learn(texts, self.max_length),
        }

    def _split(self, name: str, spec: Spec) -> EncodedTexts:
        """Read one split for a trained run; its file alone, where it has one."""
        sources = self.sources()
        if "train" not in sources and name not in sources:
            raise DataError(f"there is no file for the split {name!r}: name one with data.{name}=FILE")
        if self.keep == "disk":
            return StoredTexts(self).split(name, spec)
        texts = joined(sources[name]()) if name in sources and name != "train" else self.read_splits()[name]
        self.check(name, len(texts), set(texts.labels), spec["classes"])
        return self._encoded(name, texts, spec)

    # Rows -----------------------------------------------------------------------------------------------------------

    def read(self) -> dict[str, Texts]:
        """Return all rows of `train` and, where they are given, of `val` and `test`."""
        return {name: joined(parts()) for name, parts in self.sources().items()}

    def read_splits(self) -> dict[str, Texts]:
        """Return the rows of all three splits; see `val_share` for those that are not given."""
        given = self.read()
        shares = self.shares(given)
        if not shares:
            return given
        texts = given["train"]
        codes: dict[str, int] = {}
        labels = np.array([codes.setdefault(label, len(codes)) for label in texts.labels])
        places = assign(draws(texts.texts, self.split_seed), labels, shares)
        return {**given, **{name: texts.part(chosen) for name, chosen in places.items()}}

    def shares(self, given: Mapping[str, Any]) -> dict[str, float]:
        """Return the share of each split that is not given."""
        shares = {"val": self.val_share, "test": self.test_share}
        return {name: share for name, share in shares.items() if name not in given}

    def _classes(self, labels: set[str]) -> list[str]:
        return list(self.classes) if self.classes is not None else sorted(labels, key=by_number)

    def check(self, name: str, rows: int, labels: set[str], classes: list[str]) -> None:
        """Raise DataError for a split that cannot be used."""
        if not rows:
            raise DataError(
                f"the split {name!r} has no rows: name a file for it, or give data.{name}_share more of the rows; "
                "classes that have less than three different texts are not shared out to all splits"
            )
        if len(classes) < 2:
            raise DataError(f"all {rows} training texts have the label {classes[0]!r}: there is no choice")
        if unknown := sorted(labels - set(classes)):
            raise DataError(
                f"{name} has labels that {'data.classes does' if self.classes else 'training did'} not: "
                f"{', '.join(map(repr, unknown[:5]))}; it had {', '.join(map(repr, classes[:20]))}. Leave these rows "
                "out, or train with them"
            )

    # Tokens ---------------------------------------------------------------------------------------------------------

    def encode(self, texts: list[str], spec: Spec) -> Windows:
        """Return the sequences of some texts."""
        return encode(spec["tokenizer"], texts, self.max_length, self.too_long)

    def windows_of(self, split: str) -> int | None:
        """Return how many sequences of a text a batch of a split holds at most."""
        return self.train_windows if split == "train" and self.too_long == "slide" else None

    def tell_of_cut(self, name: str, cut: int, count: int) -> None:
        """Warn of texts that are longer than their sequences."""
        if cut and self.too_long == "truncate":
            warnings.warn(
                ToolkitWarning(
                    f"{cut} of {count} texts of {name} are longer than data.max_length={self.max_length} "
                    "tokens and cut off; too_long: slide reads all of them"
                ),
                stacklevel=2,
            )

    def _encoded(self, name: str, texts: Texts, spec: Spec) -> EncodedTexts:
        found = self.encode(texts.texts, spec)
        self.tell_of_cut(name, found.cut, len(texts))
        place = {label: number for number, label in enumerate(spec["classes"])}
        target = torch.tensor([place[label] for label in texts.labels])
        return EncodedTexts.of(
            found.sequences, found.owner, texts.rows, target, spec["pad"], windows=self.windows_of(name)
        )

    # Batches --------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> EpochLoader[TextBatch]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> EpochLoader[TextBatch]:
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader[TextBatch]:
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader[TextBatch]:
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False) -> EpochLoader[TextBatch]:
        texts = self.splits[split]
        return EpochLoader(
            torch.arange(len(texts)),
            texts.batch,
            batch_size=self.batch_size,
            shuffle=shuffle,
            share=self.share(),
            lengths=texts.lengths,
            batch_tokens=self.batch_tokens,
            workers=self.workers,
        )


class _Lazy(dict[str, EncodedTexts]):
    """Splits that are read when they are asked for: to measure on one file, no other need be there."""

    def __init__(self, make: Mapping[str, Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> EncodedTexts:
        self[name] = self.make[name]()
        return self[name]


def by_number(label: str) -> tuple[int, float, str]:
    """Order labels that are numbers by their value, before others."""
    try:
        number = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)  # NaN is neither above nor below anything
