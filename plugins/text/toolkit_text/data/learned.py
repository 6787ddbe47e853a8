"""The tokenizer of a data module: learned from its texts, or brought along."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from toolkit.data import Spec
from toolkit.errors import DataError
from toolkit.yamlfile import shown
from toolkit_text.data.tokens import PAD, train_tokenizer
from toolkit_text.pretrained import HubEncoder, encoder_named


@dataclass(frozen=True)
class Learned:
    """Which tokenizer there is to be. See `LabelledTexts` for its fields."""

    tokenizer: str
    vocabulary: int
    min_count: int
    lowercase: bool

    @property
    def _file(self) -> Path | None:
        path = Path(self.tokenizer).expanduser()
        return path if path.suffix == ".json" else None

    @property
    def _encoder(self) -> HubEncoder | None:
        return None if self._file is not None else encoder_named(self.tokenizer)

    def fetch(self) -> None:
        """Have the files of a pretrained encoder on this machine. Raises: DataError."""
        if (encoder := self._encoder) is not None:
            encoder.fetch()

    def learn(self, texts: list[str], max_length: int) -> dict[str, Any]:
        """Return the part of a spec that speaks of tokens. Raises: DataError."""
        encoder, file = self._encoder, self._file
        config: Spec | None = None
        pad: int | None
        if encoder is not None:
            made, pad, positions = encoder.tokenizer()
            if max_length > positions:
                raise DataError(
                    f"data.max_length={max_length}, but {self.tokenizer} was trained on {positions} "
                    "positions; take fewer, and too_long: slide to read all of a long text"
                )
            config = encoder.config()
        elif file is not None:
            made, pad = _read(file)
        else:
            made = train_tokenizer(
                texts,
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
            "learned": asdict(self),
        }

    def check(self, trained: Spec) -> None:
        """Refuse options that a trained run cannot follow. Raises: DataError."""
        own = asdict(self)
        for name, value in trained.get("learned", {}).items():
            if own[name] != value:
                raise DataError(
                    f"data.{name}={shown(own[name])}: this run was trained with {shown(value)}, and keeps its own "
                    "tokenizer"
                )


def _read(path: Path) -> tuple[Tokenizer, int]:
    """Read a tokenizer of the `tokenizers` library and its padding token."""
    if not path.is_file():
        raise DataError(f"data.tokenizer: there is no file {path}")
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more particular
        raise DataError(f"data.tokenizer: {path} is no tokenizer of the library tokenizers: {error}") from error
    for name in (PAD, "<pad>", (made.padding or {}).get("pad_token", PAD)):
        if (pad := made.token_to_id(name)) is not None:
            return made, pad
    raise DataError(f"data.tokenizer: {path} has no token {PAD} or <pad>, which a batch of texts needs")
