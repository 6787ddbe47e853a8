"""Documents of a corpus: files of text by name, what is left out of them, and which split each is in."""

from __future__ import annotations

import codecs
import glob
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import DataError

Decode = Callable[[bytes], str]
"""Turns the bytes of a file into text, or raises UnicodeDecodeError, SyntaxError or LookupError."""

PIECE = 1 << 20
"""Characters of a document that are encoded at a time."""


@dataclass(frozen=True)
class Document:
    """A file of text. name: its path below the corpus. digest: sha256 of its bytes; size: how many there are."""

    name: str
    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class Found:
    """The documents of a corpus, by name, and how many files were left out for each reason."""

    documents: list[Document]
    left_out: Counter[str]

    @property
    def digest(self) -> str:
        """Return one sha256 of all documents, their names and their order."""
        whole = hashlib.sha256()
        for each in self.documents:
            whole.update(f"{each.name}\n{each.digest}\n".encode())
        return whole.hexdigest()


def matching(patterns: Sequence[str]) -> tuple[Path, list[Path]]:
    """Return the folder that files have in common and the files, sorted: of folders, patterns and single files.

    `**` in a pattern is any number of folders; a folder stands for all files below it, but for hidden ones.
    Raises: DataError for a pattern that matches nothing.
    """
    found: set[Path] = set()
    for pattern in patterns:
        place = Path(pattern).expanduser().absolute()
        if place.is_dir():
            paths = place.rglob("*")
            some = [each for each in paths if not any(part.startswith(".") for part in each.relative_to(place).parts)]
        else:
            some = [place] if place.exists() else [Path(each) for each in glob.glob(str(place), recursive=True)]
        files = [each for each in some if each.is_file()]
        if not files:
            raise DataError(f"data.files: nothing matches {pattern!r}, looked for at {place}")
        found.update(files)
    files = sorted(found)
    root = files[0].parent
    while not all(each.is_relative_to(root) for each in files):
        root = root.parent
    return root, files


def collect(root: Path, files: Iterable[Path], decode: Decode, refuse: Callable[[bytes], str] | None = None) -> Found:
    """Read files, and keep those that are documents; a file that was kept already, byte by byte, is no other one.

    refuse: a further reason to leave a file out, or "".
    """
    left_out: Counter[str] = Counter()
    documents: list[Document] = []
    seen: set[str] = set()
    for path in files:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        why = _unreadable(content, decode) or (refuse(content) if refuse is not None else "")
        if not why and digest in seen:
            why = "the same as another"
        if why:
            left_out[why] += 1
            continue
        seen.add(digest)
        documents.append(Document(path.relative_to(root).as_posix(), path, digest, len(content)))
    return Found(sorted(documents, key=lambda each: each.name), left_out)


def _unreadable(content: bytes, decode: Decode) -> str:
    if not content.strip():
        return "empty"
    try:
        text = decode(content)
    except (UnicodeDecodeError, SyntaxError, LookupError):
        return "in another encoding"
    return "binary" if "\0" in text else ""


def decoder(encoding: str) -> Decode:
    """Return what decodes files of an encoding, strictly; a byte order mark of UTF-8 is no text.

    Raises: DataError for an encoding that Python does not know.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise DataError(f"data.encoding={encoding!r} is no encoding that Python knows; utf-8 and latin-1 are") from None
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    return lambda content: content.decode(name)


def split_of(document: Document, shares: dict[str, float], seed: int) -> str:
    """Return the split of a document: by what it holds, so that equal ones lie together wherever they are."""
    drawn = hashlib.blake2b(f"{seed} {document.digest}".encode(), digest_size=8).digest()
    place = int.from_bytes(drawn, "big") / 2**64
    low = 0.0
    for name, share in shares.items():
        low += share
        if place < low:
            return name
    return "train"


def pieces(text: str) -> Iterable[str]:
    """Cut a long document behind ends of lines: a tokenizer holds far more than the text while it is at work."""
    start = 0
    while len(text) - start > PIECE:
        end = text.rfind("\n", start, start + PIECE) + 1
        end = end if end > start else start + PIECE
        yield text[start:end]
        start = end
    yield text[start:]
