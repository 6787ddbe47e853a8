"""From texts to numbers and back: tokenizers of the `tokenizers` library, trained here or brought along.

A tokenizer travels as text (its JSON) in the data's spec, and so in every checkpoint.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from toolkit.data import Spec
from toolkit.errors import DataError
from toolkit_text.data.texts import whole

PAD, UNKNOWN = "[PAD]", "[UNK]"
BEGIN, END = "[BOS]", "[EOS]"
"""Marks of texts that are written: what stands before the first token, and what is written behind the last."""

BYTES = 256
Kind = Literal["word", "bpe", "characters"]
TooLong = Literal["truncate", "slide"]
_SOME = 10_000  # texts encoded at a time: encodings keep far more than the numbers


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: Kind,
    vocabulary: int,
    min_count: int = 2,
    lowercase: bool = True,
    marks: Sequence[str] = (),
    exact: bool = False,
) -> Tokenizer:
    """Learn a vocabulary from texts: whole `word`s and marks, byte-level `bpe`, which knows no unknown character, or
    single `characters`, blanks among them.

    vocabulary: tokens at most. min_count: how often a word or character, or a pair to be merged, is seen at least.
    marks: tokens with a meaning of their own beside padding, such as the end of a text; they follow it in order.
    exact: of bpe: leave texts as they are, so that decoding gives every byte back; otherwise they are composed (NFC).
    Raises: DataError where that leaves no words, or not all bytes.
    Source of bpe: Sennrich et al. 2016, arXiv:1508.07909, on bytes as in GPT-2.
    """
    if kind == "bpe" and vocabulary < BYTES + 1 + len(marks):
        known = " and ".join((PAD, *marks))
        raise DataError(f"data.vocabulary={vocabulary}: bpe begins with {BYTES} bytes and {known}; give it more")
    if exact and (kind != "bpe" or lowercase):
        raise ValueError("exact=True keeps every byte, which words, characters and lowercase=True do not")
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+(?:['\x{2019}]\w+)*|[^\w\s]"), "removed", invert=True)
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=vocabulary, min_frequency=min_count, special_tokens=[PAD, UNKNOWN, *marks], show_progress=False
        )
    elif kind == "characters":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocabulary, min_frequency=min_count, special_tokens=[PAD, UNKNOWN, *marks], show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        if not exact:
            steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
            tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=min_count,
            special_tokens=[PAD, *marks],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(texts, trainer)
    if kind != "bpe" and tokenizer.get_vocab_size() <= len((PAD, UNKNOWN, *marks)):
        unit = "word" if kind == "word" else "character"
        raise DataError(
            f"data.min_count={min_count} and data.vocabulary={vocabulary} leave no {unit} but {PAD} and {UNKNOWN}: "
            "every text would be the same"
        )
    return tokenizer


@dataclass(frozen=True)
class TokenSpec:
    """What a model needs to know of a tokenizer, as the data's spec holds it.

    vocabulary: how many tokens there are. pad: the one that fills up. max_length: tokens of a sequence at most.
    encoder: name and configuration of the pretrained encoder that it belongs to, if it belongs to one.
    tokenizer: its JSON, for models that look at the tokens themselves; may be left out.
    """

    vocabulary: int
    pad: int
    max_length: int
    encoder: Mapping[str, Any] | None = None
    tokenizer: str = ""

    @classmethod
    def of(cls, spec: Spec) -> TokenSpec:
        return cls(spec["vocabulary"], spec["pad"], spec["max_length"], spec["encoder"], spec["tokenizer"])


class Windows(NamedTuple):
    """Token sequences of texts, of bounded length. owner: whose each is; cut: how many texts were too long."""

    sequences: list[array[int]]
    owner: list[int]
    cut: int


def encode(tokenizer: str, texts: Sequence[str], max_length: int, too_long: TooLong) -> Windows:
    """Turn texts into tokens with the marks that the tokenizer sets around them.

    tokenizer: its JSON. max_length: tokens of a sequence, marks among them. too_long: `truncate` leaves out what is
    behind, `slide` makes several sequences of a text, each beginning with the last quarter of the one before.
    Raises: DataError for a text without tokens, and where the marks leave no room for any.
    """
    made = Tokenizer.from_str(tokenizer)
    made.no_padding()
    marks = made.num_special_tokens_to_add(False)
    if max_length <= marks:
        raise DataError(
            f"data.max_length={max_length} leaves no room for text: the tokenizer sets {marks} marks around it"
        )
    made.enable_truncation(max_length, stride=max_length // 4 if too_long == "slide" else 0)
    found = Windows([], [], 0)
    cut = 0
    for first in range(0, len(texts), _SOME):
        some = [whole(text) for text in texts[first : first + _SOME]]
        for place, each in enumerate(made.encode_batch(some), start=first):
            if not each.ids:
                raise DataError(f"text {place} has no token in it: {texts[place][:80]!r}")
            cut += bool(each.overflowing)
            for window in (each, *each.overflowing) if too_long == "slide" else (each,):
                found.sequences.append(array("i", window.ids))  # a list would take ten times the memory
                found.owner.append(place)
    return found._replace(cut=cut)


class Sequences:
    """Token sequences of many texts in one flat array.

    Shapes: flat (all tokens,) int32, start (texts + 1,).
    """

    def __init__(self, encoded: Iterable[Sequence[int]]) -> None:
        parts = [np.asarray(each, dtype=np.int32) for each in encoded]
        self.flat = torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, dtype=np.int32))
        sizes = np.array([len(each) for each in parts], dtype=np.int64)
        self.start = torch.from_numpy(np.concatenate(([0], np.cumsum(sizes))))

    @classmethod
    def of(cls, flat: Tensor, start: Tensor) -> Sequences:
        """Make them from the array itself, which may be mapped from a disk."""
        made = cls(())
        made.flat, made.start = flat, start
        return made

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text. Shapes: (texts,)."""
        return self.start.diff()

    def padded(self, chosen: Tensor, pad: int) -> tuple[Tensor, Tensor]:
        """Return some of the sequences side by side. Shapes: chosen (B,) -> tokens (B, L), lengths (B,)."""
        lengths = self.start[chosen + 1] - self.start[chosen]
        steps = torch.arange(int(lengths.max()) if len(chosen) else 0)
        there = steps < lengths[:, None]
        places = (self.start[chosen, None] + steps).where(there, torch.tensor(0))
        return self.flat[places].long().where(there, torch.tensor(pad)), lengths
