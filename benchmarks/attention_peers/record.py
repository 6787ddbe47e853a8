"""What the docs say of other packages: measurements kept as JSON, and the part of docs/attention.md made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attention_peers.pairs import KINDS

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "attention_peers.json"
PAGE = ROOT / "docs" / "attention.md"
PICTURE = ROOT / "docs" / "images" / "attention_peers.png"
BEGIN = "<!-- other packages: written by `python benchmarks/attention.py --record`, do not edit between these marks -->"
END = "<!-- end of other packages -->"


def stored(path: Path = STORE) -> dict[str, Any]:
    """Return what was recorded, by section; nothing if nothing was."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def store(sections: dict[str, Any], path: Path = STORE) -> dict[str, Any]:
    """Keep sections that were measured, in place of those of the same names. Returns all that is kept."""
    kept = stored(path) | sections
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept


def renewed(page: str, kept: dict[str, Any]) -> str:
    """Return docs/attention.md with its part on other packages written anew. Raises: ValueError without marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no marks for other packages; it needs the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{part(kept)}\n{END}{after}"


def part(kept: dict[str, Any]) -> str:
    """Return speed, memory, growth and conformance, as far as they were measured, with where they come from."""
    texts = {
        "peers": lambda: _speed(kept["peers"]["rows"]),
        "peer-lengths": lambda: f"![Time and memory of forward and backward against length](images/{PICTURE.name})\n",
        "conformance": lambda: _conformance(kept["conformance"]["columns"]),
    }
    by_making: dict[str, list[str]] = {}
    for name in texts:
        if name in kept:
            by_making.setdefault(_made(kept[name]), []).append(texts[name]())
    return "\n".join("\n".join([*found, f"{making}\n"]) for making, found in by_making.items())


def _speed(rows: list[dict[str, Any]]) -> str:
    by_place: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        name, length, what = row["what"].rsplit(", ", 2)
        by_place.setdefault((name, int(length.removeprefix("L = "))), {})[what] = row["figures"]
    lines = [
        "| Beside | L | Forward | Forward + backward | MiB, ours and theirs | Equal | Not equal |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name, length), found in by_place.items():
        ratios = [
            f"{found[what]['ratio']:.2f} ({found[what]['low']:.2f} to {found[what]['high']:.2f})"
            for what in ("forward", "forward + backward")
        ]
        memory = f"{found['memory']['ours_mib']:.0f}, {found['memory']['peer_mib']:.0f}"
        kind = KINDS[name]
        lines.append(f"| {name} | {length} | {' | '.join(ratios)} | {memory} | {kind.same} | {_differs(name, found)} |")
    head = "Times of theirs over ours, the median of paired runs with its quartiles; above 1 ours is faster."
    return f"{head}\n\n" + "\n".join(lines) + "\n"


def _differs(name: str, found: dict[str, dict[str, Any]]) -> str:
    text = KINDS[name].differs
    if "difference" not in found:
        return text
    figures = found["difference"]
    text += f"; outputs differ by {figures['relative_difference']:.2g}"
    if "ours_missed" in figures:
        missed = f"{figures['ours_missed']:.2g} ours, {figures['peer_missed']:.2g} theirs"
        text += f"; missed of what softmax attention adds to the mean of values: {missed}"
    return text


def _conformance(columns: list[dict[str, Any]]) -> str:
    lines = [
        "| Mechanism | What is claimed | Holds | Breaks | In double precision only |",
        "| --- | --- | --- | --- | --- |",
    ]
    for column in columns:
        patterns = {each["check"]: each["pattern"] for each in column["broken"]}
        broken = [
            ", ".join(f"`{check}` ({patterns[check]})" for check, found in column["marks"].items() if found == mark)
            for mark in ("NO", "double")
        ]
        name = column["name"] if column["peer"] else f"our `{column['name']}`"
        held = sum(mark == "ok" for mark in column["marks"].values())
        lines.append(f"| {name} | {column['claims']} | {held} | {' | '.join(broken)} |")
    head = f"""\
The {len(columns[0]["marks"])} checks of `toolkit conform`, on thin adapters around modules of the other packages. What
a package does not claim is not asked of it. The contract is ours, and stricter than what packages promise. In brackets
stands the pattern of the smallest example that breaks; [the record](results/attention_peers.json) has the examples."""
    return f"{head}\n\n" + "\n".join(lines) + "\n"


def _made(section: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in section["packages"].items())
    machine = ", ".join(f"{key} {value}" for key, value in section["machine"].items() if value is not None)
    return f"{packages}; {machine}; {section['made'][:10]}, by `{section['command']}`."
