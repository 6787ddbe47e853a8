"""`list`, `plugins`, `show`, `schema`, `doctor`: what is there, in tables and in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from toolkit import companions, yamlfile
from toolkit import recipe as recipes
from toolkit.cli.list import SHOWN_KINDS
from toolkit.companions import Companion
from toolkit.errors import ToolkitError
from toolkit.plugins import PluginStatus


def test_list_without_kind_counts_all_kinds(toolkit, digits_toolkit):
    found = toolkit("list", "--json").json
    assert list(found) == list(SHOWN_KINDS)
    assert [row["full_name"] for row in found["tasks"]] == [e.full_name for e in digits_toolkit.registry.all("tasks")]
    table = toolkit("list").out
    assert all(kind in table for kind in SHOWN_KINDS)


@pytest.mark.parametrize("kind", SHOWN_KINDS)
def test_list_of_a_kind_is_the_same_in_table_and_json(toolkit, kind):
    rows = toolkit("list", kind, "--json").json[kind]
    assert rows
    table = toolkit("list", kind).out
    assert all(row["name"] in table for row in rows)


def test_list_unknown_kind_gets_the_nearest(toolkit):
    done = toolkit("list", "recipe")
    assert done.code == 2
    assert "Did you mean 'recipes'?" in done.err


def test_list_capabilities(toolkit):
    (row,) = [
        row
        for row in toolkit("list", "attention", "--capabilities", "--json").json["attention"]
        if row["name"] == "gat"
    ]
    assert row["layouts"] == ["dense", "edges"]
    assert toolkit("list", "tasks", "--capabilities").code == 2


def test_piped_rows_stay_on_their_line_and_narrow_terminals_lose_nothing(toolkit, monkeypatch):
    wide = toolkit("list", "recipes").out
    assert any("digits" in line and "Digits by self-attention over rows" in line for line in wide.splitlines())
    monkeypatch.setenv("COLUMNS", "80")
    narrow = toolkit("list").out
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow


def test_name_that_two_plugins_claim_is_listed_in_full(toolkit, digits_toolkit):
    from toolkit.hookspecs import hookimpl

    class Plugin:
        @hookimpl
        def register_models(self, register):
            register("reader", "toolkit_digits.model:RowReader", summary="The same name")

    digits_toolkit.register(Plugin(), "rival")
    names = [row["name"] for row in toolkit("list", "models", "--json").json["models"]]
    assert {"digits:reader", "rival:reader"} <= set(names)
    assert "claimed by 2 plugins" in toolkit("show", "reader").err


def test_plugins_reports_the_broken_one_and_lists_the_others(toolkit, digits_toolkit):
    digits_toolkit.statuses["bad"] = PluginStatus(
        "bad", "bad.plugin", "bad-dist", "0.1", error="no [module] x", trace="T"
    )
    done = toolkit("plugins")
    assert done.code == 0
    assert "no [module] x" in done.out
    assert "toolkit-digits 0.3.0" in done.out
    found = {each["name"]: each for each in toolkit("plugins", "--json").json["plugins"]}
    assert found["bad"]["state"].startswith("error")
    assert found["digits"]["brings"]["recipes"] == ["digits"]
    assert toolkit("list").code == 0


def test_show_recipe_is_resolved_and_overridden(toolkit):
    found = toolkit("show", "digits", "model.hidden=64", "--json").json
    assert found["recipe"]["model"]["use"] == "digits:reader"
    assert found["recipe"]["model"]["hidden"] == 64
    assert found["recipe"]["trainer"]["precision"] == "32-true"
    text = toolkit("show", "digits", "model.hidden=64").out
    assert yamlfile.parse(text, "shown")[0] == found["recipe"]


def test_show_mechanism(toolkit):
    found = toolkit("show", "gat", "--json").json
    assert found["capabilities"]["equation"]
    assert "1710.10903" in found["source"]
    assert {"name": "negative_slope", "type": "a number", "required": False, "default": 0.2} in found["options"]
    assert not {"heads", "dim"} & {option["name"] for option in found["options"]}
    assert found["capabilities"]["equation"] in toolkit("show", "gat").out


def test_show_model_without_what_the_task_gives(toolkit):
    found = toolkit("show", "digits:reader", "--json").json
    assert [option["name"] for option in found["options"]] == ["hidden", "heads", "dropout"]
    assert found["options"][0]["type"] == "a whole number >= 1"


def test_show_unknown_name_gets_the_nearest(toolkit):
    done = toolkit("show", "digit")
    assert done.code == 2
    assert "Did you mean 'digits'?" in done.err


def test_show_refuses_overrides_of_what_is_no_recipe(toolkit):
    assert toolkit("show", "adam", "lr=1").code == 2


@pytest.fixture
def schema(toolkit):
    found = toolkit("schema").json
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def _loadable(toolkit):
    documents = {}
    for entry in toolkit.registry.all("recipes"):
        try:
            documents[entry.full_name] = yamlfile.load_file(recipes.find(entry.full_name, toolkit))[0]
        except ToolkitError:  # a recipe whose file is not written is another test's business
            continue
    return documents


def test_schema_accepts_all_recipes_raw_and_resolved(schema, toolkit, digits_toolkit):
    documents = _loadable(digits_toolkit)
    assert "digits:digits" in documents
    for name, document in documents.items():
        assert [error.message for error in schema.iter_errors(document)] == [], name
    resolved = toolkit("show", "digits", "--json").json["recipe"]
    assert [error.message for error in schema.iter_errors(resolved)] == []


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("optimzer", {"use": "adam"}),
        ("optimizer", {"use": "adam", "lr": "abc"}),
        ("optimizer", {"use": "adm"}),
        ("trainer", {"max_epoch": 3}),
        ("model", {"use": "reader", "hidden": 0}),
        ("model", {"use": "reader", "features": 8}),
        ("stop", {"patience": -1}),
        ("smoke", {"trainr": {}}),
        ("loggers", [{"use": "nothing"}]),
    ],
)
def test_schema_refuses(schema, digits_toolkit, section, value):
    document = _loadable(digits_toolkit)["digits:digits"]
    assert schema.is_valid(document)
    assert not schema.is_valid({**document, section: value})


def test_schema_writes_a_file(toolkit):
    assert toolkit("schema", "--out", "recipe.schema.json").code == 0
    assert json.loads(Path("recipe.schema.json").read_text())["title"] == "attention-toolkit recipe"


def test_doctor_names_what_does_not_fit_torch_and_the_line_that_mends_it(toolkit, monkeypatch):
    found = [
        Companion("torch", "2.14", ""),
        Companion("torchvision", "0.1", "RuntimeError: no operator torchvision::nms"),
    ]
    monkeypatch.setattr(companions, "probe", lambda: found)
    done = toolkit("doctor")
    assert done.code == 1
    assert "torch loads, torchvision does not load" in done.out
    (problem,) = [line for line in done.out.splitlines() if line.startswith("PROBLEM torchvision")]
    assert "torchvision::nms. Mend it with: pip install" in problem
    (torch, vision) = toolkit("doctor", "--json").json["built_for_torch"]
    assert (torch["error"], torch["mend"]) == ("", "")
    assert "pip install" in vision["mend"]


def test_doctor_examines_a_machine_whose_torch_does_not_load(toolkit, monkeypatch):
    monkeypatch.setattr(companions, "probe", lambda: [Companion("torch", "2.14", "ImportError: libtorch.so")])
    done = toolkit("doctor")
    assert done.code == 1
    assert "unknown without torch: ImportError: libtorch.so" in done.out
    assert "Mend it with: pip install --force-reinstall torch" in done.out


def test_doctor(toolkit, digits_toolkit, monkeypatch, tmp_path):
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file").write_bytes(b"12345")
    done = toolkit("doctor", "--network", "--json")
    found = done.json
    assert done.code == (1 if found["problems"] else 0)
    assert found["cache"]["used_bytes"] == 5
    assert found["environment"]["TOOLKIT_OFFLINE"] == "1"
    assert all("TOOLKIT_OFFLINE" in state for state in found["network"].values())
    assert found["built_for_torch"][0]["name"] == "torch"
    assert {"graph", "text"} <= {extra["name"] for extra in found["extras"]}
    for extra in found["extras"]:
        assert ("pip install" in extra["mend"]) == extra["state"].startswith("missing")
    digits_toolkit.statuses["bad"] = PluginStatus("bad", "bad.plugin", error="broken")
    broken = toolkit("doctor")
    assert broken.code == 1
    assert "PROBLEM the plugin 'bad' failed to load: broken" in broken.out
