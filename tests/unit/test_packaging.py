"""What is installed is what is here: an editable install would hide a package that a wheel leaves out."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packages(base: Path, name: str) -> set[str]:
    """Return the dotted names of a package and of those inside it."""
    inside = {file.parent.relative_to(base / name) for file in (base / name).rglob("*.py")}
    return {".".join([name, *each.parts]) for each in inside}


def test_a_wheel_has_every_package():
    plugins = [(folder.parent, folder.name) for folder in (ROOT / "plugins").glob("*/toolkit_*")]
    assert plugins
    here = set().union(*(packages(base, name) for base, name in [(ROOT, "toolkit"), *plugins]))
    assert set(SETUPTOOLS["packages"]) == here | {"toolkit_recipes"}
    for base, name in plugins:
        assert ROOT / SETUPTOOLS["package-dir"][name] == base / name


def test_a_wheel_has_every_file_that_is_no_module():
    data = SETUPTOOLS["package-data"]
    folders = {"toolkit": ROOT / "toolkit"} | {
        name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()
    }
    for name, folder in folders.items():
        matched = {file for pattern in data.get(name, ()) for file in folder.glob(pattern)}
        others = {f for f in folder.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")}
        assert others <= matched, f"{name} leaves out {sorted(others - matched)}"
