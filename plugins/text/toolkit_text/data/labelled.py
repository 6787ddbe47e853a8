"""Texts with a class each: splits, tokens, batches of similar length. What the data sets of classification share."""

from __future__ import annotations

import hashlib
import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.binding import Fraction, NonNegative, Positive
from toolkit.data import Data, Spec
from toolkit.errors import DataError, ToolkitWarning
from toolkit.loading import EpochLoader
from toolkit.yamlfile import shown
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.table import Texts
from toolkit_text.data.tokens import PAD, Sequences, TooLong, encode, train_tokenizer
from toolkit_text.pretrained import encoder_named

SPLITS = ("train", "val", "test")


class LabelledTexts(Data):
    """Texts with one of some classes each; a subclass writes `read`.

    tokenizer: `word` or `bpe`, learned from the training texts, or the name of a pretrained encoder, whose own it is:
    one that the plugin knows (`minilm`), a folder, or a repository of the Hugging Face hub. vocabulary, min_count,
    lowercase: of a tokenizer that is learned. max_length: tokens of a sequence; too_long: `truncate` cuts longer texts
    off, with a warning that counts them, `slide` reads them in overlapping parts, whose scores are averaged.
    batch_size: texts of a step and process; texts of similar length share one.
    val_share, test_share: the shares of rows that are split off where `read` gives no such split: by the text itself,
    so that equal texts lie in one split, and by split_seed.
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
        batch_size: Positive = 64,
        val_share: Fraction = 0.1,
        test_share: Fraction = 0.1,
        split_seed: NonNegative = 0,
    ) -> None:
        super().__init__()
        if val_share + test_share >= 1:
            raise DataError(
                f"data.val_share={val_share} and data.test_share={test_share} leave nothing for training: together "
                "they are below 1"
            )
        self.tokenizer, self.vocabulary, self.min_count, self.lowercase = tokenizer, vocabulary, min_count, lowercase
        self.max_length, self.too_long, self.batch_size = max_length, too_long, batch_size
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The columns that hold the text, as files to be predicted are expected to have them."""

    @abstractmethod
    def read(self) -> dict[str, Texts]:
        """Return the rows of `train` and, where they are given, of `val` and `test`."""

    def prepare_data(self) -> None:
        if self.trained is None and (encoder := encoder_named(self.tokenizer)) is not None:
            encoder.fetch()  # a trained run has its tokenizer and needs no more

    def load(self) -> Spec:
        splits = self.read_splits()
        if self.trained is None:
            classes = sorted(set(splits["train"].labels), key=_by_number)
            self._check(splits, classes)
            spec: dict[str, Any] = {
                "classes": classes,
                "columns": self.columns,
                "encoding": self.encoding,
                "max_length": self.max_length,
                "too_long": self.too_long,
                **self._tokenizer(splits["train"]),
            }
            _warn_of_repeats(splits)
        else:
            self._follow(self.trained)
            spec = dict(self.trained)
            self._check(splits, spec["classes"])
        self.splits = {name: self._encoded(name, texts, spec) for name, texts in splits.items()}
        return spec

    def _tokenizer(self, texts: Texts) -> Spec:
        encoder = encoder_named(self.tokenizer)
        config: Spec | None = None
        pad: int | None
        if encoder is not None:
            made, pad, positions = encoder.tokenizer()
            if self.max_length > positions:
                raise DataError(
                    f"data.max_length={self.max_length}, but {self.tokenizer} was trained on {positions} "
                    "positions; take fewer, and too_long: slide to read all of a long text"
                )
            config = encoder.config()
        else:
            made = train_tokenizer(
                texts.texts,
                kind="word" if self.tokenizer == "word" else "bpe",
                vocabulary=self.vocabulary,
                min_count=self.min_count,
                lowercase=self.lowercase,
            )
            pad = made.token_to_id(PAD)
        return {
            "tokenizer": made.to_str(),
            "vocabulary": made.get_vocab_size(),
            "pad": pad,
            "encoder": None if config is None else {"name": self.tokenizer, "config": config},
            "learned": self._learned,
        }

    @property
    def _learned(self) -> dict[str, Any]:
        """The options that a run's tokenizer follows from."""
        return {name: getattr(self, name) for name in ("tokenizer", "vocabulary", "min_count", "lowercase")}

    def _follow(self, trained: Spec) -> None:
        """Refuse options that a trained run cannot follow. Raises: DataError."""
        for name, value in trained.get("learned", {}).items():
            if (other := self._learned[name]) != value:
                raise DataError(
                    f"data.{name}={shown(other)}: this run was trained with {shown(value)}, and keeps its own tokenizer"
                )
        if self.max_length > trained["max_length"]:
            raise DataError(
                f"data.max_length={self.max_length}: this run was trained on {trained['max_length']} tokens at most; "
                "too_long: slide reads all of a long text"
            )

    def _encoded(self, name: str, texts: Texts, spec: Spec) -> EncodedTexts:
        found = encode(spec["tokenizer"], texts.texts, self.max_length, self.too_long)
        if found.cut and self.too_long == "truncate":
            warnings.warn(
                ToolkitWarning(
                    f"{found.cut} of {len(texts)} texts of {name} are longer than data.max_length={self.max_length} "
                    "tokens and cut off; too_long: slide reads all of them"
                ),
                stacklevel=2,
            )
        place = {label: number for number, label in enumerate(spec["classes"])}
        target = torch.tensor([place[label] for label in texts.labels])
        return EncodedTexts(found.sequences, found.owner, texts.rows, target, spec["pad"])

    def read_splits(self) -> dict[str, Texts]:
        """Return the rows of all three splits; see `val_share` for those that `read` does not give."""
        given = self.read()
        shares = {"val": self.val_share, "test": self.test_share}
        missing = {name: share for name, share in shares.items() if name not in given}
        if not missing:
            return given
        texts = given["train"]
        drawn = np.array([_draw(text, self.split_seed) for text in texts.texts])
        parts: dict[str, Texts] = {}
        low = 0.0
        for name, share in missing.items():
            parts[name] = texts.part(np.flatnonzero((drawn >= low) & (drawn < low + share)))
            low += share
        return {**given, "train": texts.part(np.flatnonzero(drawn >= low)), **parts}

    def _check(self, splits: dict[str, Texts], classes: list[str]) -> None:
        for name in SPLITS:
            if not len(splits[name]):
                raise DataError(
                    f"the split {name!r} has no rows: name a file for it, or give data.{name}_share more of the "
                    f"{sum(map(len, splits.values()))} rows"
                )
        if len(classes) < 2:
            raise DataError(
                f"all {len(splits['train'])} training texts have the label {classes[0]!r}: there is no choice"
            )
        for name in SPLITS:
            if unknown := sorted(set(splits[name].labels) - set(classes)):
                raise DataError(
                    f"{name} has labels that training did not: {', '.join(map(repr, unknown[:5]))}; it had "
                    f"{', '.join(map(repr, classes[:20]))}"
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
        )


class EncodedTexts:
    """The tokens of some texts, and batches of any of them.

    owner: the place of the text that each sequence is of, in order. rows: the number of each text in its source.
    target: its class, or none known. Shapes: target (texts,).
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], owner: list[int], rows: list[int], target: Tensor | None, pad: int
    ) -> None:
        self.sequences, self.pad = Sequences(sequences), pad
        counts = torch.bincount(torch.tensor(owner, dtype=torch.long), minlength=len(rows))
        self.first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])  # the first sequence of each text
        self.rows = torch.tensor(rows, dtype=torch.long)
        self.target = torch.zeros(len(rows), dtype=torch.long) if target is None else target
        self.lengths = torch.zeros(len(rows), dtype=torch.long).index_add(
            0, torch.tensor(owner, dtype=torch.long), self.sequences.lengths
        )

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, items: Tensor, total: int | None = None, seed: int = 0) -> TextBatch:
        """Return the batch of some texts by their places."""
        if not len(items):  # a share of nothing: one sequence that is nobody's, so that every weight has a gradient
            nobody = torch.full((1, 1), self.pad)
            none = torch.zeros(0, dtype=torch.long)
            return TextBatch(
                target=none, total=total, tokens=nobody, lengths=torch.ones(1).long(), owner=none, row=none
            )
        counts = self.first[items + 1] - self.first[items]
        owner = torch.arange(len(items)).repeat_interleave(counts)
        within = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts)[owner]
        tokens, lengths = self.sequences.padded(self.first[items][owner] + within, self.pad)
        return TextBatch(
            target=self.target[items], total=total, tokens=tokens, lengths=lengths, owner=owner, row=self.rows[items]
        )


def _warn_of_repeats(splits: dict[str, Texts]) -> None:
    """Tell of texts that are measured on and trained on: two files may hold the same."""
    known = set(splits["train"].texts)
    for name in ("val", "test"):
        if repeated := sum(text in known for text in splits[name].texts):
            warnings.warn(
                ToolkitWarning(
                    f"{repeated} of {len(splits[name])} texts of {name} are in train too: known by heart, perhaps"
                ),
                stacklevel=2,
            )


def _draw(text: str, seed: int) -> float:
    """Return a number from 0 to 1 that a text always draws with a seed."""
    digest = hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _by_number(label: str) -> tuple[int, float, str]:
    """Order labels that are numbers by their value, before others."""
    try:
        number = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)  # NaN is neither above nor below anything
