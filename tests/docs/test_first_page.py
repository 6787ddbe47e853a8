"""The first page is two commands and a plugin that works, and so is the plugin of the guide."""

from __future__ import annotations

import os
import re
import sys
import tomllib

import torch
from pages import README, ROOT, SHELL, blocks, links

from toolkit.attention import Mechanism, causal
from toolkit.cli.main import main
from toolkit.plugins import current_toolkit
from toolkit.recipe import find, load
from toolkit.resolve import resolve


def test_the_first_page_is_two_commands():
    first, second = [block.text.splitlines() for block in blocks(README) if block.language in SHELL][:2]
    assert first == ['pip install -e ".[all]" && toolkit train recipes/gat_cora.yaml']
    assert second == ['pip install -e ".[dev]" && pytest']
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {"all", "dev"} <= set(extras)


def test_ci_runs_the_test_line_of_the_readme():
    text = README.read_text(encoding="utf-8")
    assert text.count('".[dev]"') == 1, ".ci/run looks for the one line that installs .[dev]"
    assert ".[dev]" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_pictures_are_small_pngs():
    pictures = [link for link in links(README) if link.endswith(".png")]
    assert len(pictures) == 2
    for picture in pictures:
        content = (ROOT / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 150_000


def test_the_plugin_of_the_readme_is_a_plugin(toolkit, tmp_path, monkeypatch):
    """Its two snippets, written to the files they are said to be, are a working plugin of at most twenty lines each."""
    monkeypatch.syspath_prepend(str(tmp_path))
    text = README.read_text(encoding="utf-8")
    files = {}
    for block in blocks(README, "python"):
        before = text.splitlines()[: block.line - 1]
        named = re.findall(r"`(distance_attention/\w+\.py)`", " ".join(before[-4:]))
        if named:
            files[named[-1]] = block.text
    assert set(files) == {"distance_attention/mechanism.py", "distance_attention/plugin.py"}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert sum(bool(line.strip()) for content in files.values() for line in content.splitlines()) <= 24
    for name in [name for name in sys.modules if name.startswith("distance_attention")]:
        monkeypatch.delitem(sys.modules, name)
    (door,) = [tomllib.loads(block.text) for block in blocks(README, "toml")]
    ((name, module),) = door["project"]["entry-points"]["toolkit"].items()

    __import__(module)
    assert "distance_attention.mechanism" not in sys.modules  # hooks hand over addresses only
    toolkit.register(sys.modules[module], name)
    attend = toolkit.registry.get("attention", "distance").load()(heads=2, dim=4, sharpness=3.0)
    assert isinstance(attend, Mechanism)
    q, k, v = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    squared = torch.cdist(q, k).square()
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = (-3.0 * squared).masked_fill(~allowed, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, causal()).values, expected)

    monkeypatch.chdir(tmp_path)
    for listing in (["list", "attention"], ["show", "distance"]):
        assert main(listing) == 0
    trained = ["train", "gat_karate", "attention=distance", "attention.sharpness=5", "trainer.max_epochs=2", "--quiet"]
    assert main(trained) == 0
    assert main(["evaluate", "runs/gat_karate-1"]) == 0


def test_the_plugin_of_the_guide_is_a_plugin(toolkit, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    hooks, schedules = [block.text for block in blocks(ROOT / "docs" / "plugins.md", "python")][:2]
    package = tmp_path / "my_plugin"
    package.mkdir()
    (package / "plugin.py").write_text(hooks, encoding="utf-8")
    (package / "schedules.py").write_text(schedules, encoding="utf-8")
    (block,) = blocks(ROOT / "docs" / "plugins.md", "toml")
    ((name, module),) = tomllib.loads(block.text)["project"]["entry-points"]["toolkit"].items()
    __import__(module)
    toolkit.register(sys.modules[module], name)
    resolved = resolve(load("gat_karate", toolkit, ["schedule={use: halving, every: 50}"]))
    assert resolved.document["schedule"] == {"use": "mine:halving", "every": 50, "interval": "step", "monitor": None}
    assert find("gat_karate", current_toolkit()).is_file()
