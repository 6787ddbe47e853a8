"""Real sentences that praise or blame, for files of a few kinds."""

from __future__ import annotations

import json
from pathlib import Path

PRAISE = ("lovely", "soft and warm", "a perfect fit", "beautiful", "I adore it")
BLAME = ("awful", "thin and scratchy", "it fell apart", "ugly", "I sent it back")
THINGS = ("dress", "shirt", "coat", "sweater", "pair of jeans", "scarf")


def reviews(count: int = 120) -> list[tuple[str, str]]:
    """Return sentences with what they say: praise or blame."""
    found = []
    for number in range(count):
        words, label = ((PRAISE, "good"), (BLAME, "bad"))[number % 2]
        thing = THINGS[number % len(THINGS)]
        more = " and".join([f" a {THINGS[(number + k) % len(THINGS)]}" for k in range(number % 7)])
        found.append((f"This {thing}, no. {number}: {words[number // 2 % len(words)]}!{more}", label))
    return found


def as_json_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
