"""Documents as one long row of tokens on the disk, and windows of it: what a language model reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from toolkit.batches import Batch
from toolkit.files import locked, writing
from toolkit.loading import EpochLoader, epoch_seed
from toolkit_text.data.documents import pieces
from toolkit_text.data.token_bytes import without_marks

END = "[END]"
"""The mark that stands before the first document and behind each."""


@dataclass(kw_only=True)
class WindowBatch(Batch):
    """Windows of a stream, and the token behind each of their tokens, the S that are scored.

    scored: which places of the windows those are; None for all. row: the number of each window, and `documents` the
    name of the document that the first of its scored tokens is in.
    Shapes: tokens (B, L), target (S,), scored (B, L) bool, row (B,).
    """

    tokens: Tensor
    row: Tensor
    scored: Tensor | None = None
    documents: tuple[str, ...] = ()


class Stream:
    """[END] document [END] document [END] ... as tokens in a file that is mapped, not read.

    start: where the tokens of each document begin, and the length of all. names: of the documents.
    Shapes: tokens (N,) unsigned of 16 or 32 bits, start (documents + 1,).
    """

    def __init__(self, tokens: np.ndarray, start: np.ndarray, names: list[str]) -> None:
        self.tokens, self.start, self.names = tokens, start, names

    def __len__(self) -> int:
        return len(self.tokens)

    def cut(self, places: Tensor) -> Tensor:
        """Return tokens at places. Shapes: any -> the same."""
        return torch.from_numpy(self.tokens[places.numpy()].astype(np.int64))

    def document_at(self, place: int) -> str:
        """Return the name of the document that a token belongs to; a mark belongs to the one before it."""
        return self.names[max(0, int(np.searchsorted(self.start, place, side="right")) - 1)] if self.names else ""


def read_stream(folder: Path, tokenizer: Tokenizer, documents: Iterable[tuple[str, str]]) -> Stream:
    """Return the stream of documents, (name, text) each, encoded once: a folder of the cache that has it is believed.

    The text of a mark inside a document is text.
    """
    wide = tokenizer.get_vocab_size() > 1 << 16
    kind = np.dtype("<u4" if wide else "<u2")
    index, data = folder / "documents.json", folder / "tokens.bin"
    with locked(folder / "stream"):
        if not index.exists() or data.stat().st_size != _length(index) * kind.itemsize:  # cut short from outside
            _write(folder, tokenizer, documents, kind)
    found = json.loads(index.read_text(encoding="utf-8"))
    return Stream(np.memmap(data, dtype=kind, mode="r"), np.array(found["start"], dtype=np.int64), found["names"])


def _length(index: Path) -> int:
    return int(json.loads(index.read_text(encoding="utf-8"))["start"][-1])


def _write(folder: Path, tokenizer: Tokenizer, documents: Iterable[tuple[str, str]], kind: np.dtype) -> None:
    plain = without_marks(tokenizer)
    end = np.array([plain.token_to_id(END)], dtype=kind).tobytes()
    names: list[str] = []
    start, length = [], 1
    with writing(folder / "tokens.bin") as file:
        file.write(end)
        for name, text in documents:
            names.append(name)
            start.append(length)
            for piece in pieces(text):
                tokens = np.array(plain.encode(piece, add_special_tokens=False).ids, dtype=kind)
                file.write(tokens.tobytes())
                length += len(tokens)
            file.write(end)
            length += 1
    with writing(folder / "documents.json") as file:  # last: it says that the tokens are whole
        file.write(json.dumps({"names": names, "start": [*start, length]}).encode())


class TrainingWindows(EpochLoader[WindowBatch]):
    """Windows side by side, shuffled; where the first begins is drawn anew each epoch, so that borders move.

    Each token but the fewer than two windows at the ends is a target once an epoch.
    """

    def __init__(self, stream: Stream, context: int, *, batch_size: int, share: tuple[int, int]) -> None:
        self.stream, self.context, self.offset = stream, context, 0
        count = (len(stream) - context) // context  # wherever the first begins
        super().__init__(
            torch.arange(count),
            self._batch,
            batch_size=batch_size,
            shuffle=True,
            share=share,
            counts=torch.full((count,), context),
        )

    def __iter__(self) -> Iterator[WindowBatch]:
        # drawn here: a process that makes batches ahead has another seed; no step has rank -1
        self.offset = epoch_seed(self.epoch, 0, -1) % self.context
        yield from super().__iter__()  # as it does, when the first is asked for: a resumed run sets the epoch late

    def _batch(self, items: Tensor, total: int, seed: int) -> WindowBatch:
        if not len(items):
            return nothing(total)
        start = items * self.context + self.offset
        found = self.stream.cut(start[:, None] + torch.arange(self.context + 1))
        return WindowBatch(
            tokens=found[:, :-1].contiguous(), target=found[:, 1:].flatten(), total=total, row=items.clone()
        )


class ScoringWindows(EpochLoader[WindowBatch]):
    """Windows that overlap, in which every token but the first of the stream is scored once.

    The first window scores all of its tokens, each later one the last `stride`, so that a token has at least
    context - stride tokens before it; the last window reaches back to be whole.
    """

    def __init__(
        self, stream: Stream, context: int, stride: int, *, batch_size: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.stream = stream
        targets = len(stream) - 1
        self.width = min(context, targets)
        more = max(0, targets - self.width)
        end = self.width + torch.arange(-(-more // stride) + 1) * stride
        self.end = end.clamp_max(targets)  # of the targets of each window
        counts = self.end.diff(prepend=torch.zeros(1, dtype=torch.long))
        self.scores = counts
        super().__init__(torch.arange(len(end)), self._batch, batch_size=batch_size, share=share, counts=counts)

    def _batch(self, items: Tensor, total: int, seed: int) -> WindowBatch:
        if not len(items):
            return nothing(total)
        end, counts = self.end[items], self.scores[items]
        found = self.stream.cut((end - self.width)[:, None] + torch.arange(self.width + 1))
        scored = torch.arange(self.width) >= (self.width - counts)[:, None]
        names = tuple(self.stream.document_at(place) for place in (end - counts + 1).tolist())
        return WindowBatch(
            tokens=found[:, :-1].contiguous(),
            target=found[:, 1:][scored],
            total=total,
            row=items.clone(),
            scored=None if bool(scored.all()) else scored,
            documents=names,
        )


def nothing(total: int) -> WindowBatch:
    """Return a batch without a target: one token that is scored by nobody, so that every weight has a gradient."""
    none = torch.zeros(0, dtype=torch.long)
    return WindowBatch(
        tokens=torch.zeros(1, 1, dtype=torch.long), target=none, total=total, row=none, scored=torch.zeros(1, 1).bool()
    )
