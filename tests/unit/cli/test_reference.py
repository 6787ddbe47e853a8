"""docs/cli.md is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from toolkit.cli.main import COMMANDS
from toolkit.cli.reference import page

DOCS = Path(__file__).parents[3] / "docs"


def test_cli_page_is_current():
    found = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert found == page(), "write it again: python -m toolkit.cli.reference"


def test_page_has_every_command_and_no_plugin_of_this_machine(digits_toolkit):
    from toolkit.hookspecs import hookimpl

    class Plugin:
        @hookimpl
        def register_commands(self, register):
            register("local", "click:echo", summary="Only here")

    digits_toolkit.register(Plugin(), "local")
    text = page()
    assert all(f"## toolkit {name}\n" in text for name in COMMANDS)
    assert "local" not in text
