"""`pytest --toolkit-plugin NAME`: one item a mechanism and check, in a process and folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from toolkit.testing.kit import CHECKS


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with our plugin alone, installed or not."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-p", "toolkit.testing.pytest_plugin", "--rootdir", str(folder), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "skewed.py").write_text(
        "from toolkit.attention.scaled_dot_product import ScaledDotProduct\n"
        "class Skewed(ScaledDotProduct):\n"
        "    name = 'skewed'\n"
        "    def score(self, q, k):\n"
        "        return 2 * super().score(q, k)\n"
    )
    (folder / "conftest.py").write_text(
        "from toolkit.hookspecs import hookimpl\n"
        "from toolkit.plugins import current_toolkit\n"
        "class Plugin:\n"
        "    @hookimpl\n"
        "    def register_attention(self, register):\n"
        "        register('skewed', 'skewed:Skewed', summary='Dense and edges differ')\n"
        "        register('none', 'builtins:print', summary='No mechanism')\n"
        "current_toolkit().register(Plugin(), 'mine')\n"
    )
    return folder


def test_every_check_of_every_mechanism_is_an_item(folder):
    done = run(folder, "--toolkit-plugin", "mine", "--collect-only", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    for check in CHECKS:
        assert f"mine:skewed::{check}" in done.stdout
    assert "mine:none::covered" in done.stdout


def test_failures_and_skips_say_why(folder):
    done = run(folder, "--toolkit-plugin", "mine", "-k", "edges_dense or (state and not state_dict) or covered", "-rs")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mine:skewed breaks edges_dense: weights of edges are not those of the same pairs as a mask" in done.stdout
    assert "run it again: import torch" in done.stdout
    assert "it declares no state" in done.stdout
    assert "the kit does not cover it: builtins:print" in done.stdout
    assert "1 failed, 2 skipped" in done.stdout


def test_one_mechanism_and_an_unknown_name(folder):
    done = run(folder, "--toolkit-plugin", "gat", "-k", "weights")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    unknown = run(folder, "--toolkit-plugin", "gatt")
    assert unknown.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Did you mean 'gat'?" in unknown.stderr


def test_without_the_option_nothing_of_ours_is_imported(folder):
    (folder / "test_light.py").write_text("import sys\ndef test_light():\n    assert 'torch' not in sys.modules\n")
    done = run(folder, "test_light.py")
    assert done.returncode == 0, done.stdout


def test_entry_point_is_the_plugin():
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\ntoolkit = "toolkit.testing.pytest_plugin"' in declared
    installed = [point.value for point in entry_points(group="pytest11") if point.name == "toolkit"]
    assert installed in ([], ["toolkit.testing.pytest_plugin"])
