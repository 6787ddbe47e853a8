"""Texts to learn a language from: any files, split by file, as a stream of byte-level tokens."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from toolkit.binding import Fraction, NonNegative, Positive
from toolkit.data import Data, Spec
from toolkit.errors import DataError, ToolkitWarning
from toolkit.files import cache_root, locked, writing
from toolkit.loading import EpochLoader
from toolkit_text.data.documents import Decode, Document, Found, collect, decoder, matching, pieces, split_of
from toolkit_text.data.stream import END, ScoringWindows, Stream, TrainingWindows, WindowBatch, read_stream
from toolkit_text.data.tokens import PAD, train_tokenizer

SPLITS = ("train", "val", "test")
FORMAT = 1
"""Of what lies in the cache: another number reads nothing that was written before."""


class Corpus(Data):
    """Documents as a stream of tokens; a subclass writes `find` and `decode`.

    vocabulary: byte-level tokens, learned from the training documents. context: tokens that a model is given at a
    time. stride: how far the windows of validation and test move on, half the context by default; each token is scored
    once, with at least context - stride tokens before it. batch_size: windows of a step and process.
    val_share, test_share: shares of the documents, drawn by what they hold and split_seed.
    Encoded documents are kept in the cache, and mapped into memory.
    Raises: DataError for a split without documents, or less training text than one window.
    """

    def __init__(
        self,
        *,
        vocabulary: Positive = 4096,
        context: Positive = 256,
        stride: Positive | None = None,
        batch_size: Positive = 16,
        val_share: Fraction = 0.05,
        test_share: Fraction = 0.1,
        split_seed: NonNegative = 0,
    ) -> None:
        super().__init__()
        if val_share + test_share >= 1:
            raise DataError(
                f"data.val_share={val_share} and data.test_share={test_share} leave nothing for training: together "
                "they are below 1"
            )
        self.stride = max(1, context // 2) if stride is None else stride
        if self.stride > context:
            raise DataError(f"data.stride={stride} is more than data.context={context}: tokens between go unscored")
        self.vocabulary, self.context, self.batch_size = vocabulary, context, batch_size
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed
        self._documents: dict[str, list[Document]] | None = None
        self._digests: dict[str, str] = {}

    @abstractmethod
    def find(self) -> dict[str, Found]:
        """Return the documents of `train` and, where they are given apart, of `val` and `test`."""

    @abstractmethod
    def decode(self, content: bytes) -> str:
        """Return the text of a file."""

    def documents(self) -> dict[str, list[Document]]:
        """Return the documents of each split."""
        if self._documents is None:
            found = self.find()
            self._digests = {name: each.digest for name, each in found.items()}
            for each in found.values():
                _tell(each)
            shares = {
                name: share for name, share in (("val", self.val_share), ("test", self.test_share)) if name not in found
            }
            parts: dict[str, list[Document]] = {name: [] for name in SPLITS}
            for name, each in found.items():
                for document in each.documents:
                    to = split_of(document, shares, self.split_seed) if name == "train" else name
                    parts[to].append(document)
            _tell_of_repeats(parts)
            self._documents = parts
        return self._documents

    def _require(self, name: str) -> None:
        parts = self.documents()
        if not parts[name]:
            raise DataError(
                f"the split {name!r} has none of the {sum(map(len, parts.values()))} documents: files are never cut in "
                "two. Give more files, another data.split_seed or shares, or name the files of a split"
            )

    def load(self) -> Spec:
        documents = self.documents()
        if self.trained is None:
            for name in SPLITS:
                self._require(name)
            made = self._tokenizer(documents["train"])
            spec: dict[str, Any] = {
                "tokenizer": made.to_str(),
                "vocabulary": made.get_vocab_size(),
                "pad": made.token_to_id(PAD),
                "end": made.token_to_id(END),
                "max_length": self.context,
                "encoder": None,
                "learned": {"vocabulary": self.vocabulary},
                "documents": {name: len(each) for name, each in documents.items()},
            }
        else:
            self._follow(self.trained)
            spec = dict(self.trained)
            made = Tokenizer.from_str(spec["tokenizer"])
        self.streams = {name: self._stream(each, made) for name, each in documents.items() if each}
        if self.trained is None and len(self.streams["train"]) < 2 * self.context:
            raise DataError(
                f"the training documents have {len(self.streams['train'])} tokens, fewer than two windows of "
                f"data.context={self.context}; give more text or a smaller context"
            )
        return spec

    def _follow(self, trained: Spec) -> None:
        own = trained.get("learned", {}).get("vocabulary", self.vocabulary)
        if self.vocabulary != own:
            raise DataError(
                f"data.vocabulary={self.vocabulary}: this run was trained with {own}, and keeps its own tokenizer"
            )

    def _tokenizer(self, documents: list[Document]) -> Tokenizer:
        key = _digest("tokenizer", str(self.vocabulary), *(each.digest for each in documents))
        path = _cached(key) / "tokenizer.json"
        with locked(path):
            if path.exists():
                return Tokenizer.from_str(path.read_text(encoding="utf-8"))
            made = train_tokenizer(
                (piece for each in documents for piece in pieces(self._text(each))),
                kind="bpe",
                vocabulary=self.vocabulary,
                lowercase=False,
                marks=(END,),
                exact=True,
            )
            with writing(path) as file:
                file.write(made.to_str().encode())
        return made

    def _stream(self, documents: list[Document], tokenizer: Tokenizer) -> Stream:
        known = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        key = _digest("stream", known, *(f"{each.name}\n{each.digest}" for each in documents))

        def texts() -> Iterator[tuple[str, str]]:
            for each in documents:
                yield each.name, self._text(each)

        return read_stream(_cached(key), tokenizer, texts())

    def _text(self, document: Document) -> str:
        content = document.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != document.digest:
            raise DataError(f"{document.path} has changed while the corpus was read; begin again")
        return self.decode(content)

    def provenance(self) -> dict[str, str]:
        self.documents()
        return {f"documents of {name}": digest for name, digest in self._digests.items()}

    # Batches --------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> EpochLoader[WindowBatch]:
        self._require("train")
        return TrainingWindows(self.streams["train"], self.context, batch_size=self.batch_size, share=self.share())

    def val_dataloader(self) -> EpochLoader[WindowBatch]:
        return self._scoring("val")

    def test_dataloader(self) -> EpochLoader[WindowBatch]:
        return self._scoring("test")

    def predict_dataloader(self) -> EpochLoader[WindowBatch]:
        return self._scoring("test")

    def _scoring(self, split: str) -> EpochLoader[WindowBatch]:
        self._require(split)
        return ScoringWindows(
            self.streams[split], self.context, self.stride, batch_size=self.batch_size, share=self.share()
        )


class TextFolder(Corpus):
    """Files of text by name: folders, patterns such as `texts/**/*.txt`, single files, or a list of these.

    files: what is trained on and, where val or test names none, split by file. encoding: of the files. A file in
    another encoding, with NUL in it, without text, or equal to another is left out, and counted in a warning.
    """

    def __init__(
        self,
        *,
        files: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        encoding: str = "utf-8",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.files = {
            name: [given] if isinstance(given, str) else given
            for name, given in (("train", files), ("val", val), ("test", test))
            if given is not None
        }
        self._decode: Decode = decoder(encoding)

    def decode(self, content: bytes) -> str:
        return self._decode(content)

    def find(self) -> dict[str, Found]:
        return {name: collect(*matching(patterns), self._decode) for name, patterns in self.files.items()}


def _tell(found: Found) -> None:
    if found.left_out:
        counted = ", ".join(f"{count} {why}" for why, count in sorted(found.left_out.items()))
        total = len(found.documents) + sum(found.left_out.values())
        warnings.warn(ToolkitWarning(f"of {total} files some are left out: {counted}"), stacklevel=3)


def _tell_of_repeats(parts: dict[str, list[Document]]) -> None:
    known = {each.digest for each in parts["train"]}
    repeated = sum(each.digest in known for name in ("val", "test") for each in parts[name])
    if repeated:
        warnings.warn(
            ToolkitWarning(f"{repeated} documents of val and test are in train as well, byte by byte"), stacklevel=3
        )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join((str(FORMAT), *parts)).encode()).hexdigest()


def _cached(key: str) -> Path:
    return cache_root() / "text" / "corpus" / key[:32]
