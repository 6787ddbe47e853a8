"""Pages say what the code does: generated ones are current, recipes resolve, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks, links

from toolkit import hookspecs, yamlfile
from toolkit.cli import reference, reference_attention, reference_hooks
from toolkit.problems import problems
from toolkit.recipe import from_document, load
from toolkit.resolve import resolve

FORBIDDEN = re.compile(
    r"--(?:extra-)?index\b|(?<![\w.~:/<])/(?!dev/|tmp/|proc/)\w+/\w|badge|shields\.io", re.IGNORECASE
)
YAML = [block for page in PAGES for block in blocks(page, "yaml")]


# Generated pages ----------------------------------------------------------------------------------------------------


def test_generated_pages_are_current():
    again = "write it again: python -m toolkit.cli.reference"
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference.page(), again
    attention = (ROOT / "docs" / "attention.md").read_text(encoding="utf-8")
    assert attention == reference_attention.renewed(attention), again
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
    for name in ("cli.md", "plugins.md", "attention.md"):
        (tmp_path / name).write_bytes((ROOT / "docs" / name).read_bytes())
    for path in reference.write(tmp_path):
        assert path.read_bytes() == (ROOT / "docs" / path.name).read_bytes()


# Recipes in the docs ------------------------------------------------------------------------------------------------


def test_there_is_something_to_test():
    assert len(YAML) > 5


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
