"""Small sets of questions about stories, in the format of bAbI and as batches."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import torch
from toolkit_text.data.story import Asked, EncodedQuestions
from toolkit_text.data.story_batch import StoryBatch

ROOMS = ("attic", "cellar", "porch", "pantry")
NAMES = ("Ugo", "Vera", "Wim")


def one_fact(story: int) -> list[str]:
    """Return the lines of a story in which three people go to rooms, and one of them is asked for twice."""
    lines = []
    for step in range(4):
        lines.append(f"{NAMES[(story + step) % 3]} went to the {ROOMS[(story * 3 + step * step) % 4]}.")
    last, first = NAMES[(story + 3) % 3], NAMES[(story + 2) % 3]
    lines.append(f"Where is {last}? \t{ROOMS[(story * 3 + 9) % 4]}\t4")
    lines.append(f"Where is {first}?\t{ROOMS[(story * 3 + 4) % 4]}\t3")
    return [f"{number} {line}" for number, line in enumerate(lines, start=1)]


def paths(story: int) -> list[str]:
    """Return the lines of a story whose answer has two words."""
    here, there, end = (ROOMS[(story + step) % 4] for step in range(3))
    ways = ("n", "s", "e", "w")
    one, other = ways[story % 4], ways[story // 4 % 4]
    return [
        f"1 The {there} is {one} of the {here}.",
        f"2 The {end} is {other} of the {there}.",
        f"3 How do you go from the {here} to the {end}?\t{one},{other}\t1 2",
    ]


KINDS = {1: ("single-supporting-fact", one_fact), 19: ("path-finding", paths)}


def babi_folder(folder: Path, *, train: int = 40, test: int = 16, packed: bool = False) -> Path:
    """Write two tasks as bAbI's archive has them, and return the folder."""
    inner = folder / "en-10k"
    inner.mkdir(parents=True)
    for number, (name, told) in KINDS.items():
        for part, stories in (("train", range(train)), ("test", range(train, train + test))):
            text = "".join(line + "\n" for story in stories for line in told(story))
            path = inner / f"qa{number}_{name}_{part}.txt"
            if packed:
                Path(f"{path}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                path.write_text(text, encoding="utf-8")
    return folder


SEEN = tuple(f"Vera saw {each}." for each in ("Ugo", "Wim", "Ugo", "home", "box", "Wim", "Ugo"))
KNOWN = "box home is left red saw slept the took ugo vera went where who wim"

ASKED = [
    Asked(("Ugo went home.", "Vera took the red box.", "Ugo left."), "Where is Ugo?", "home", (0, 2), "qa1", 0),
    Asked(("Wim slept.",), "Who slept?", "wim", (0,), "qa1", 1),
    Asked(SEEN, "Who saw?", "n,s", (), "qa2", 2),
]

SPEC: dict[str, Any] = {
    "classes": ["home", "n,s", "wim"],
    "words": sorted(
        [
            "ugo",
            "went",
            "home",
            "vera",
            "took",
            "the",
            "red",
            "box",
            "left",
            "wim",
            "slept",
            "where",
            "is",
            "who",
            "saw",
        ]
    ),
    "tasks": ["qa1", "qa2"],
    "memory": 6,
    "width": 5,
}


def encoded(**spec: Any) -> EncodedQuestions:
    """Return three questions about stories of 3, 1 and 7 sentences, of which 6 are read."""
    return EncodedQuestions(ASKED, SPEC | spec)


def batch(items: list[int] | None = None, **options: Any) -> StoryBatch:
    """Return a batch of some of these questions, all by default."""
    return encoded().batch(torch.tensor([0, 1, 2] if items is None else items, dtype=torch.long), **options)
