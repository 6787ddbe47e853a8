"""Pairs of texts, one to be read and one to be written: tokens, batches of similar length. What translation shares."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from toolkit.binding import Fraction, NonNegative, Positive
from toolkit.data import Data, Spec
from toolkit.errors import DataError, ToolkitWarning
from toolkit.loading import EpochLoader
from toolkit.yamlfile import shown
from toolkit_text.data.pair_batch import NOTHING, PairBatch
from toolkit_text.data.splits import assign, draws, warn_of_repeats
from toolkit_text.data.texts import whole
from toolkit_text.data.tokens import BEGIN, END, PAD, Kind, Sequences, train_tokenizer

SPLITS = ("train", "val", "test")
Side = Literal["source", "target"]
SIDES: tuple[Side, Side] = ("source", "target")


@dataclass
class Pairs:
    """Texts and their translations. rows: the number of each pair in the file it came from, from 0."""

    source: list[str]
    target: list[str]
    rows: list[int]

    def part(self, places: Sequence[int] | np.ndarray) -> Pairs:
        """Return some of the pairs."""
        chosen = [int(place) for place in places]
        source, target = [self.source[place] for place in chosen], [self.target[place] for place in chosen]
        return Pairs(source, target, [self.rows[place] for place in chosen])

    def __len__(self) -> int:
        return len(self.rows)


def paired(source: Sequence[str], target: Sequence[str], name: str) -> Pairs:
    """Pair the lines of two files. Lines with an empty side are left out, counted in a warning.

    name: what they are called in messages. Raises: DataError for other numbers of lines, or nothing but empty ones.
    """
    if len(source) != len(target):
        raise DataError(
            f"{name}: the sources have {len(source)} lines and the targets {len(target)}: line by line, each is to be "
            "the translation of the other"
        )
    both = [(whole(one.strip()), whole(other.strip())) for one, other in zip(source, target, strict=True)]
    kept = [row for row, pair in enumerate(both) if all(pair)]
    if not kept:
        raise DataError(f"{name}: there is no pair with two texts among {len(both)} lines")
    if len(kept) < len(both):
        left_out = f"{len(both) - len(kept)} of {len(both)} pairs have an empty side and are left out"
        warnings.warn(ToolkitWarning(f"{name}: {left_out}"), stacklevel=2)
    return Pairs([both[row][0] for row in kept], [both[row][1] for row in kept], kept)


class ParallelTexts(Data):
    """Pairs of texts; a subclass writes `read`.

    tokenizer: `bpe` on bytes, `word` or `characters`, learned from the training texts: one for both sides if `joint`,
    else one for each. vocabulary, min_count, lowercase: of each tokenizer that is learned. max_length: tokens of a
    text, its mark among them; longer pairs are left out of training and cut off in validation and test, and counted.
    batch_tokens: tokens of a step and process at most, padding among them, the longer side counting; batch_size: pairs
    of it at most. Pairs of similar length share one.
    val_share, test_share: the shares of pairs that are split off where `read` gives no such split: by the source text
    itself, so that equal ones lie in one split, and by split_seed.
    Raises: DataError for splits without pairs.
    """

    encoding: str = "utf-8"
    """How files to be translated are expected to be encoded."""

    def __init__(
        self,
        *,
        tokenizer: Kind = "bpe",
        joint: bool = True,
        vocabulary: Positive = 8000,
        min_count: Positive = 2,
        lowercase: bool = False,
        max_length: Positive = 128,
        batch_tokens: Positive = 4096,
        batch_size: Positive = 1024,
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
        if max_length < 2:
            raise DataError(f"data.max_length={max_length} leaves no room for text beside the mark of its end")
        self.tokenizer, self.joint, self.vocabulary = tokenizer, joint, vocabulary
        self.min_count, self.lowercase, self.max_length = min_count, lowercase, max_length
        self.batch_tokens, self.batch_size = batch_tokens, batch_size
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed

    @property
    def columns(self) -> list[str]:
        """The columns that hold the source, as files to be translated are expected to have them; none for lines."""
        return []

    @abstractmethod
    def read(self) -> dict[str, Pairs]:
        """Return the pairs of `train` and, where they are given, of `val` and `test`."""

    def load(self) -> Spec:
        splits = self.read_splits()
        for name in SPLITS:
            if not len(splits[name]):
                raise DataError(
                    f"the split {name!r} has no pairs: name files for it, or give data.{name}_share more of the "
                    f"{sum(map(len, splits.values()))} pairs"
                )
        if self.trained is None:
            warn_of_repeats({name: draws(pairs.source, self.split_seed) for name, pairs in splits.items()})
            spec: dict[str, Any] = {
                "columns": self.columns,
                "encoding": self.encoding,
                "max_length": self.max_length,
                **self._tokenizers(splits["train"]),
            }
        else:
            self._follow(self.trained)
            spec = dict(self.trained)
        self.splits = {name: self._encoded(name, pairs, spec) for name, pairs in splits.items()}
        return spec

    def _tokenizers(self, pairs: Pairs) -> Spec:
        def learned(texts: list[str]) -> Tokenizer:
            return train_tokenizer(
                texts,
                kind=self.tokenizer,
                vocabulary=self.vocabulary,
                min_count=self.min_count,
                lowercase=self.lowercase,
                marks=(BEGIN, END),
            )

        source = learned(pairs.source + pairs.target if self.joint else pairs.source)
        target = source if self.joint else learned(pairs.target)
        return {
            "tokenizer": source.to_str(),
            "target_tokenizer": None if self.joint else target.to_str(),
            "vocabulary": source.get_vocab_size(),
            "target_vocabulary": target.get_vocab_size(),
            # the same numbers on both sides: they come first
            **{name: target.token_to_id(mark) for name, mark in (("pad", PAD), ("begin", BEGIN), ("end", END))},
            "learned": self._learned,
        }

    @property
    def _learned(self) -> dict[str, Any]:
        """The options that a run's tokenizers follow from."""
        return {name: getattr(self, name) for name in ("tokenizer", "joint", "vocabulary", "min_count", "lowercase")}

    def _follow(self, trained: Spec) -> None:
        """Refuse options that a trained run cannot follow. Raises: DataError."""
        for name, value in trained["learned"].items():
            if (other := self._learned[name]) != value:
                raise DataError(
                    f"data.{name}={shown(other)}: this run was trained with {shown(value)}, and keeps its own tokenizer"
                )
        if self.max_length > trained["max_length"]:
            raise DataError(
                f"data.max_length={self.max_length}: this run was trained on {trained['max_length']} tokens at most"
            )

    def _encoded(self, name: str, pairs: Pairs, spec: Spec) -> EncodedPairs:
        source = tokens_of(spec["tokenizer"], pairs.source)
        target = tokens_of(spec["target_tokenizer"] or spec["tokenizer"], pairs.target)
        room = self.max_length - 1
        long = [max(len(one), len(other)) > room for one, other in zip(source, target, strict=True)]
        if any(long):
            fate = "left out" if name == "train" else "cut off (what is measured is the whole reference)"
            told = f"{sum(long)} of {len(pairs)} pairs of {name} are longer than data.max_length={self.max_length}"
            warnings.warn(ToolkitWarning(f"{told} tokens and {fate}"), stacklevel=2)
        if name == "train" and any(long):
            kept = [place for place, over in enumerate(long) if not over]
            if not kept:
                raise DataError(f"all {len(pairs)} training pairs are longer than data.max_length={self.max_length}")
            source, target, pairs = [source[each] for each in kept], [target[each] for each in kept], pairs.part(kept)
        return EncodedPairs([each[:room] for each in source], [each[:room] for each in target], pairs, spec)

    def read_splits(self) -> dict[str, Pairs]:
        """Return the pairs of all three splits; see `val_share` for those that `read` does not give."""
        given = self.read()
        shares = {"val": self.val_share, "test": self.test_share}
        missing = {name: share for name, share in shares.items() if name not in given}
        if not missing:
            return given
        pairs = given["train"]
        parts = assign(draws(pairs.source, self.split_seed), np.zeros(len(pairs)), missing)
        return {**given, **{name: pairs.part(places) for name, places in parts.items()}}

    # Batches --------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> EpochLoader[PairBatch]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> EpochLoader[PairBatch]:
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader[PairBatch]:
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader[PairBatch]:
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False) -> EpochLoader[PairBatch]:
        pairs = self.splits[split]
        return EpochLoader(
            torch.arange(len(pairs)),
            pairs.batch,
            batch_size=self.batch_size,
            shuffle=shuffle,
            share=self.share(),
            lengths=pairs.lengths,
            batch_tokens=self.batch_tokens,
            counts=pairs.lengths[:, 0],
        )


class EncodedPairs:
    """The tokens of some pairs, without marks, and batches of any of them.

    lengths: tokens that are written and read, with the end's mark. Shapes: lengths (pairs, 2).
    """

    def __init__(
        self, source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], pairs: Pairs, spec: Spec
    ) -> None:
        begin, end = spec["begin"], spec["end"]
        self.pad = spec["pad"]
        self.source = Sequences([[*each, end] for each in source])
        self.target = Sequences([[begin, *each, end] for each in target])
        self.rows, self.reference = torch.tensor(pairs.rows, dtype=torch.long), pairs.target
        self.lengths = torch.stack([self.target.lengths - 1, self.source.lengths], 1)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, items: Tensor, total: int | None = None, seed: int = 0) -> PairBatch:
        """Return the batch of some pairs by their places."""
        if not len(items):  # a share of nothing: a sequence that is nobody's, so that every weight has a gradient
            nobody = torch.full((1, 1), self.pad)
            return PairBatch(
                target=torch.zeros(0, 1, dtype=torch.long),
                total=total,
                source=nobody,
                source_lengths=torch.ones(1, dtype=torch.long),
                previous=nobody,
                row=items,
            )
        source, source_lengths = self.source.padded(items, self.pad)
        target, lengths = self.target.padded(items, self.pad)
        there = torch.arange(target.shape[1]) < lengths[:, None]
        return PairBatch(
            target=target.where(there, torch.tensor(NOTHING))[:, 1:],
            total=total,
            source=source,
            source_lengths=source_lengths,
            previous=target[:, :-1],
            row=self.rows[items],
            reference=[self.reference[place] for place in items.tolist()],
        )


def tokens_of(tokenizer: str, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts, without marks. Raises: DataError for a text without any."""
    made = Tokenizer.from_str(tokenizer)
    made.no_padding()
    made.no_truncation()
    found = [list(each.ids) for each in made.encode_batch([whole(text) for text in texts], add_special_tokens=False)]
    for place, each in enumerate(found):
        if not each:
            raise DataError(f"text {place} has no token in it: {texts[place][:80]!r}")
    return found
