"""The table of all recipes in the docs, written from what `toolkit verify --record` stored.

Run: python -m toolkit.results      in a checkout, to write docs/results.md again
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit import recipe as recipes
from toolkit import yamlfile
from toolkit.errors import RunError
from toolkit.files import writing
from toolkit.plugins import Toolkit, current_toolkit
from toolkit.strictjson import strict_json

HEADER = """# Results

Every recipe that comes with this package, what it claims, and what `toolkit verify NAME --record` found. The test split
is looked at once a run, at the epoch that validation chose. Spread is the sample standard deviation over seeds; the
difference is ours minus the baseline's, with Welch's 95 % confidence interval. Minutes are the time from the first run
to the last, all sides and seeds, on the machine named below the table. Rows that fail stay.

<!-- Written by `toolkit verify --record` and `python -m toolkit.results`: do not edit. -->
"""

COLUMNS = (
    "Recipe",
    "Source",
    "Published",
    "Claim",
    "Ours",
    "Seeds",
    "Baseline",
    "Difference",
    "Minutes",
    "Verdict",
    "Made",
)


def checkout() -> Path:
    """Return the checkout around the working directory: the nearest folder with a pyproject.toml. Raises: RunError."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file():
            return folder
    raise RunError(f"--record writes into a checkout, but no folder around {Path.cwd()} has a pyproject.toml")


def record(name: str, report: Mapping[str, Any], root: Path) -> Path:
    """Store a report in a checkout, write its table of results again, and return the report's file."""
    path = root / "docs" / "results" / f"{name}.json"
    with writing(path) as file:
        file.write((strict_json(report) + "\n").encode())
    write(root, current_toolkit())
    return path


def write(root: Path, toolkit: Toolkit) -> Path:
    """Write the table of results of a checkout again and return its file."""
    path = root / "docs" / "results.md"
    with writing(path) as file:
        file.write(page(root, toolkit).encode())
    return path


def page(root: Path, toolkit: Toolkit) -> str:
    """Return docs/results.md for the recipes that the distribution of this checkout registers."""
    made: list[str] = []
    rows = [_row(name, document, _stored(root, name), made) for name, document in _claims(root, toolkit)]
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"{index}. {text}" for index, text in enumerate(made, 1)]
    return "\n".join([HEADER, *lines, "", *notes]).rstrip() + "\n"


def _claims(root: Path, toolkit: Toolkit) -> list[tuple[str, dict[str, Any]]]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {}).get("name", "")
    found = []
    for entry in toolkit.registry.all("recipes"):
        status = toolkit.statuses.get(entry.plugin)
        if status is not None and status.distribution == project:
            document, _ = yamlfile.load_file(recipes.find(entry.full_name, toolkit))
            found.append((entry.name, document))
    return found


def _stored(root: Path, name: str) -> dict[str, Any] | None:
    path = root / "docs" / "results" / f"{name}.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from error
    return found


def _row(name: str, document: Mapping[str, Any], stored: Mapping[str, Any] | None, made: list[str]) -> list[str]:
    expect = document.get("expect") or {}
    source, published = str(expect.get("source", "")), str(expect.get("published", ""))
    if stored is None:
        claim = "claims nothing" if not expect else f"{expect.get('metric')} {_bound(expect)}"
        cells = [f"`{name}`", source, published, claim, "never verified", "", "", "", "", "", ""]
        return [_cell(cell) for cell in cells]
    gap = stored["difference"]
    difference = "" if gap is None else f"{_signed(gap['mean'])} {_interval(gap)}".strip()
    cells = [f"`{name}`", source, published, f"{stored['metric']} {stored['bound']}"]
    ours = stored["recipe"]["summary"]
    cells += [_mean(ours), str(ours["count"])]
    cells += [_mean(stored["baseline"]["summary"]) if stored["baseline"] else "", difference]
    cells += [f"{stored['wall_seconds'] / 60:.1f}", stored["verdict"], _made(stored["made"], stored["workers"], made)]
    return [_cell(cell) for cell in cells]


def _bound(expect: Mapping[str, Any]) -> str:
    return f">= {expect['at_least']:g}" if "at_least" in expect else f"<= {expect.get('at_most', float('nan')):g}"


def _mean(summary: Mapping[str, Any]) -> str:
    if summary["mean"] is None:
        return "not a number"
    spread = "" if summary["std"] is None else f" +/- {summary['std']:.4f}"
    return f"{summary['mean']:.4f}{spread} ({summary['min']:.4f} to {summary['max']:.4f})"


def _signed(value: float | None) -> str:
    return "not a number" if value is None else f"{value:+.4f}"


def _interval(gap: Mapping[str, Any]) -> str:
    return "" if gap["low"] is None else f"[{gap['low']:+.4f}, {gap['high']:+.4f}]"


def _made(facts: Mapping[str, Any], workers: int, made: list[str]) -> str:
    """Return date and the number of the note that names machine and versions, which rows share."""
    hardware = facts["hardware"]
    cards = ", ".join(hardware.get("accelerators", [])) or "no accelerator"
    machine = f"{hardware['processor']}, {hardware['cores']} cores, {hardware.get('memory_gib', '?')} GiB, {cards}"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    note = f"{machine}; {versions}"
    if note not in made:
        made.append(note)
    return f"{facts['date'][:10]} ({made.index(note) + 1})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(write(checkout(), current_toolkit()))
