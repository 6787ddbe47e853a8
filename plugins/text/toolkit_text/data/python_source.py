"""The source of Python's own standard library: a corpus that every machine has."""

from __future__ import annotations

import io
import platform
import re
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

from toolkit.errors import DataError
from toolkit_text.data.corpus import Corpus
from toolkit_text.data.documents import Found, collect

TESTS = {"test", "tests", "idle_test"}
"""Folders of tests: more than half of all files, much of it tables of expected values."""
BUILD = ("_sysconfigdata", "config-")
"""What names files that say how this Python was built, paths of the machine among it."""
BESIDE = {"site-packages", "dist-packages"}
_GENERATED = re.compile(rb"generated (by|from|automatically)|auto-?generated|automatically generated", re.IGNORECASE)
_HEADING = 300  # bytes in which a file says what it is


class PythonSource(Corpus):
    """The modules of the running Python's standard library, split by file.

    Left out are folders of tests, installed packages, how this Python was built, and files that say in their first 300
    bytes that a program wrote them (code pages, topics of the help). The library differs from one version of Python to
    the next, so the numbers of a run belong to its version: the checkpoint names it, with a sha256 of all that was
    read.
    """

    def decode(self, content: bytes) -> str:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)

    def find(self) -> dict[str, Found]:
        root = Path(sysconfig.get_path("stdlib"))
        files = [path for path in sorted(root.rglob("*.py")) if path.is_file()]
        inside = [path for path in files if not BESIDE & set(path.relative_to(root).parts)]
        built = [path for path in inside if path.relative_to(root).parts[0].startswith(BUILD)]
        kept = [path for path in inside if path not in built and not TESTS & set(path.relative_to(root).parts[:-1])]
        found = collect(root, kept, self.decode, _written_by_a_program)
        if not found.documents:
            raise DataError(
                f"Python's standard library has no source at {root}: this Python comes without it, or packed; take "
                "text:corpus with files of your own"
            )
        tests = len(inside) - len(built) - len(kept)
        self.left_out = found.left_out + Counter({"of tests": tests, "of this machine's build": len(built)})
        return {"train": Found(found.documents, Counter())}

    def provenance(self) -> dict[str, str]:
        self.documents()
        name = f"standard library of {platform.python_implementation()} {platform.python_version()}"
        return {name: self._digests["train"]}


def _written_by_a_program(content: bytes) -> str:
    return "written by a program" if _GENERATED.search(content[:_HEADING]) else ""
