"""The documentation is what the code does: commands parse and run, snippets run, names and links exist."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from pages import PAGES, ROOT, Block, Command, blocks, commands, links

from toolkit import hookspecs, yamlfile
from toolkit.attention import Mechanism, causal
from toolkit.cli import reference, reference_hooks
from toolkit.cli.main import group, main
from toolkit.plugins import Toolkit, current_toolkit, using
from toolkit.recipe import find, from_document, load
from toolkit.resolve import problems, resolve

SHELL = ("sh", "bash")
OFFLINE_RECIPES = ("gat_karate", "mine.yaml")
FORBIDDEN = re.compile(
    r"index-url|://\S*/simple\b|(?<![\w.~])/(?:root|home|[a-z]ork)/|badge|shields\.io", re.IGNORECASE
)

README = ROOT / "README.md"
SHELL_BLOCKS = [block for page in PAGES for block in blocks(page) if block.language in SHELL]
ALL_COMMANDS = [command for block in SHELL_BLOCKS for command in commands(block)]
YAML = [block for page in PAGES for block in blocks(page, "yaml")]
SESSIONS = [page for page in PAGES if any(block.language in (*SHELL, "python") for block in blocks(page))]


@pytest.fixture(autouse=True)
def toolkit() -> Iterator[Toolkit]:
    fresh = Toolkit()
    fresh.load_entry_points(disabled=frozenset({"cosine", "digits"}))  # whoever followed the README has it installed
    with using(fresh):
        yield fresh


def test_there_is_something_to_test():
    assert len(ALL_COMMANDS) > 30
    assert len(YAML) > 5
    assert {page.name for page in SESSIONS} >= {"README.md", "walk.md", "recipes.md", "plugins.md"}


# Generated pages ----------------------------------------------------------------------------------------------------


def test_generated_pages_are_current():
    again = "write it again: python -m toolkit.cli.reference"
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference.page(), again
    plugins = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert plugins == reference_hooks.renewed(plugins), again


def test_every_hook_is_in_the_docs_with_its_exact_signature():
    names = reference_hooks.hook_names()
    assert set(names) == set(hookspecs.REGISTER_HOOKS) | {"after_resolve", "after_run"}
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    source = Path(str(hookspecs.__file__)).read_text(encoding="utf-8")
    for name in names:
        declared = re.search(rf"^(def {name}\(.*\) -> None):$", source, flags=re.MULTILINE)
        assert declared, name
        assert f"### `{name}`\n\n```text\n{declared[1]}\n```\n\n{getattr(hookspecs, name).__doc__}" in page


def test_writing_again_changes_nothing(tmp_path):
    for name in ("cli.md", "plugins.md"):
        (tmp_path / name).write_bytes((ROOT / "docs" / name).read_bytes())
    for path in reference.write(tmp_path):
        assert path.read_bytes() == (ROOT / "docs" / path.name).read_bytes()


# Commands -----------------------------------------------------------------------------------------------------------


def parsed(command: Command) -> tuple[click.Command, dict[str, Any]]:
    """Give a command to click's own parser. Raises: click.UsageError for an option or argument that does not exist."""
    context = click.Context(group, info_name="toolkit")
    _, found, rest = group.resolve_command(context, list(command.words))
    assert found is not None
    return found, found.make_context(found.name, rest, parent=context).params


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=str)
def test_every_command_parses_and_its_recipe_resolves(command, toolkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, given = parsed(command)
    if found.name == "train":
        words = list(given["words"])
    elif "recipe" in given:
        words = [given["recipe"], *given.get("overrides", ())]
    else:
        return
    if not words or words[0] is None or "=" in words[0]:  # a resumed run brings its own recipe
        assert given.get("resume") or given.get("every")
        return
    name, *overrides = words
    if name == "mine.yaml":  # the copy that the line before makes
        name = "gat_karate"
    elif (ROOT / name).suffix == ".yaml":
        name = str(ROOT / name)
    recipe = load(name, toolkit, overrides)
    assert not problems(recipe)
    assert resolve(recipe).name == recipe.name


def is_cheap(command: Command) -> bool:
    """Tell whether a command takes seconds and needs no network: everything but training on fetched data."""
    if command.launcher or command.words[0] not in ("train", "verify", "check"):
        return not command.launcher and "--network" not in command.words
    if command.words[0] == "check" and "--batch" not in command.words:
        return True
    return (
        "--smoke" in command.words
        or "--resume" in command.words
        or any(word in OFFLINE_RECIPES for word in command.words)
    )


def run(command: Command) -> None:
    """Run a command in this process, with a shorter training where it trains."""
    words = list(command.words)
    short = words[0] in ("train", "verify") and not any(word.startswith("trainer.max_epochs") for word in words)
    if short and "--resume" not in words and "--smoke" not in words:
        words.append("trainer.max_epochs=3")
    if "--resume" in words:
        break_off(words)
    code = main(words)
    # A verdict on three epochs decides nothing or fails: exit code 1 is an answer too.
    assert code in ((0, 1) if words[0] == "verify" else (0,)), f"{command} ended with exit code {code}"


def break_off(words: list[str]) -> None:
    """Make the run that a resuming command means an unfinished one."""
    from toolkit.run_directory import open_existing

    named = words[words.index("--resume") + 1 :]
    open_existing(named[0] if named else "runs/gat_karate-1").note(status="interrupted")


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """What a reader types, in an empty folder: cheap commands and every Python snippet, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
    if page.name == "recipes.md":
        assert main(["train", "gat_karate", "trainer.max_epochs=2", "--quiet"]) == 0  # the run its --resume speaks of
    ran = 0
    for block in blocks(page):
        if block.language in SHELL:
            for command in filter(is_cheap, commands(block)):
                if any("strategy=ddp" in word for word in command.words):
                    continue  # tests/plugins/graph/test_two_processes.py runs two processes
                monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
                run(command)
                ran += 1
        elif block.language == "python":
            execute(block)
            ran += 1
    assert ran


def execute(block: Block) -> dict[str, Any]:
    """Run a snippet as a module of its own."""
    names: dict[str, Any] = {"__name__": f"snippet_{block.line}"}
    exec(compile(block.text, block.place, "exec"), names)
    return names


# Recipes in the docs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_every_yaml_block_is_a_recipe_or_fits_into_one(block, toolkit):
    document, lines = yamlfile.parse(block.text, block.place)
    if "name" in document:
        recipe = from_document(document, block.place, lines)
    else:
        recipe = load("gat_karate", toolkit).changed(document, block.place)
    assert not problems(recipe)
    resolved = resolve(recipe)
    if document.get("baseline"):
        assert not problems(recipe.changed(document["baseline"], block.place))
    for section, value in document.items():
        for key, given in value.items() if isinstance(value, dict) else ():
            if section not in ("smoke", "baseline") and key != "use":
                assert resolved.document[section][key] == given


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_recipe_a_page_names_exists(page, toolkit):
    known = {entry.name for entry in toolkit.registry.all("recipes")}
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\b(?:gat|gatv2|gcn|graph_transformer)_[a-z0-9]+\b", text)) <= known
    for path in re.findall(r"\brecipes/[\w./]+\.yaml\b", text):
        assert (ROOT / path).is_file()


def test_every_recipe_is_named_on_the_page_of_recipes(toolkit):
    ours = [entry.name for entry in toolkit.registry.all("recipes") if entry.target.startswith("toolkit_recipes:")]
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert len(ours) >= 7
    assert [name for name in ours if f"`{name}`" not in page] == []


# Prose --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_no_word_is_out_of_place(page):
    for link in links(page):
        assert not link.startswith(("http:", "https:")), f"{page.name} links to {link}: only pages of ours"
        assert (page.parent / link.partition("#")[0]).exists(), f"{page.name} links to {link}, which is not there"
    found = FORBIDDEN.search(page.read_text(encoding="utf-8"))
    assert found is None, f"{page.name} says {found and found[0]!r}"


def test_decisions_are_numbered_without_gaps():
    numbers = sorted(path.name[:4] for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert path.read_text(encoding="utf-8").startswith(f"# {path.name[:4]}: ")


# The first page -----------------------------------------------------------------------------------------------------


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


def test_the_picture_is_a_small_png():
    pictures = [link for link in links(README) if link.endswith(".png")]
    assert len(pictures) == 1
    content = (ROOT / pictures[0]).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 150_000


def test_the_plugin_of_the_readme_is_a_plugin(toolkit, tmp_path, monkeypatch):
    """Its two snippets, written to the files they are said to be, are a working plugin of at most twenty lines each."""
    monkeypatch.syspath_prepend(str(tmp_path))
    text = README.read_text(encoding="utf-8")
    files = {}
    for block in blocks(README, "python"):
        before = text.splitlines()[: block.line - 1]
        named = re.findall(r"`(cosine_attention/\w+\.py)`", " ".join(before[-4:]))
        if named:
            files[named[-1]] = block.text
    assert set(files) == {"cosine_attention/mechanism.py", "cosine_attention/plugin.py"}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert sum(bool(line.strip()) for content in files.values() for line in content.splitlines()) <= 24
    for name in [name for name in sys.modules if name.startswith("cosine_attention")]:
        monkeypatch.delitem(sys.modules, name)
    (door,) = [tomllib.loads(block.text) for block in blocks(README, "toml")]
    ((name, module),) = door["project"]["entry-points"]["toolkit"].items()

    __import__(module)
    assert "cosine_attention.mechanism" not in sys.modules  # hooks hand over addresses only
    toolkit.register(sys.modules[module], name)
    attend = toolkit.registry.get("attention", "cosine").load()(heads=2, dim=4, sharpness=3.0)
    assert isinstance(attend, Mechanism)
    q, k, v = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = (3.0 * cosine).masked_fill(~allowed, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, causal()).values, expected)

    monkeypatch.chdir(tmp_path)
    for listing in (["list", "attention"], ["show", "cosine"]):
        assert main(listing) == 0
    trained = ["train", "gat_karate", "attention=cosine", "attention.sharpness=5", "trainer.max_epochs=2", "--quiet"]
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
