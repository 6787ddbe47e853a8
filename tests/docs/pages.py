"""Reading the documentation as what it holds: fenced blocks, commands and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins on, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One `toolkit ...` line. words: after `toolkit`. launcher: what stands before it, such as torchrun."""

    place: str
    words: list[str]
    launcher: list[str]

    def __str__(self) -> str:
        return f"{self.place} toolkit {' '.join(self.words)}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    opened: tuple[int, str] | None = None
    text: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"^```\s*(\S*)$", line)
        if fence and opened is None:
            opened, text = (number, fence[1]), []
        elif fence and opened is not None:
            found.append(Block(page, opened[0], opened[1], "\n".join(text) + "\n"))
            opened = None
        elif opened is not None:
            text.append(line)
    assert opened is None, f"{page}: the block of line {opened} has no end"
    return [block for block in found if language in (None, block.language)]


def commands(block: Block) -> list[Command]:
    """Return the `toolkit` commands of a shell block, the ones after `&&` and a launcher included."""
    found = []
    for offset, line in enumerate(block.text.splitlines(), 1):
        words = shlex.split(line, comments=True)
        for part in _split(words, "&&"):
            if "toolkit" in part:
                at = part.index("toolkit")
                found.append(Command(f"{block.page.name}:{block.line + offset}", part[at + 1 :], part[:at]))
    return found


def _split(words: list[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def links(page: Path) -> list[str]:
    """Return the targets of links and pictures of a page that stand outside fenced blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)
