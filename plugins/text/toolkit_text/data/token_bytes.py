"""The bytes that byte-level tokens stand for, exactly: what is counted for bits per byte, and what writing gives."""

from __future__ import annotations

import codecs

from tokenizers import Tokenizer

from toolkit.errors import DataError


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of each token of a byte-level tokenizer; marks, such as the end of a text, have none.

    Raises: DataError for a tokenizer whose tokens are not of bytes.
    """
    alphabet = _alphabet()
    marks = {number for number, each in tokenizer.get_added_tokens_decoder().items() if each.special}
    found = []
    for number in range(tokenizer.get_vocab_size()):
        name = "" if number in marks else tokenizer.id_to_token(number) or ""
        if not set(name) <= alphabet.keys():
            raise DataError(f"token {number} of this tokenizer, {name!r}, is not made of bytes: byte-level bpe is")
        found.append(bytes(alphabet[each] for each in name))
    return found


def without_marks(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that takes all of a text for text, the names of its marks too, and cuts and fills nothing."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain


class Utf8:
    """Bytes as they come, given out as text as soon as characters are whole; what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, some: bytes) -> str:
        return self._decoder.decode(some)

    def rest(self) -> str:
        """Return what was held back, at the end."""
        return self._decoder.decode(b"", final=True)


def _alphabet() -> dict[str, int]:
    """Return the byte of each character that byte-level tokens are spelled with.

    Bytes that print in Latin-1 stand for themselves, the others for the characters from U+0100 on, in order.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
