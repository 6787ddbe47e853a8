from pathlib import Path

import pytest

from toolkit import recipe as recipes
from toolkit.errors import RecipeError, UnknownNameError
from toolkit.plugins import current_toolkit
from toolkit.recipe import from_document
from toolkit.resolve import resolve

BASE = {
    "name": "it",
    "data": {"use": "karate"},
    "task": "node_classification",
    "model": {"use": "attention_network", "hidden": 4, "heads": 2},
    "attention": {"use": "gat", "dropout": 0.1},
    "optimizer": {"use": "adam", "lr": 0.01},
}


def made(**changes):
    return from_document({**BASE, **changes}, "it.yaml")


def written(tmp_path, text):
    path = tmp_path / "it.yaml"
    path.write_text(text)
    return str(path)


TEXT = """name: it
data: {use: karate}
task: {use: node_classification}
model:
  use: attention_network
  hidden: 4
  heads: 2
attention: {use: gat}
optimizer: {use: adam, lr: 5e-3}
"""


def test_a_recipe_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipes.load("gat_cora", current_toolkit())
    assert found.name == "gat_cora"
    assert recipes.load("graph:gat_cora", current_toolkit()).document == found.document


def test_a_recipe_is_found_by_path(tmp_path):
    found = recipes.load(written(tmp_path, TEXT), current_toolkit())
    assert found.section("optimizer") == {"use": "adam", "lr": 5e-3}
    assert found.seed == 0


@pytest.mark.parametrize("name", ["gat_coda", "nowhere/gat_coda.yaml"])
def test_an_unknown_recipe_gets_the_nearest(name):
    with pytest.raises((UnknownNameError, RecipeError), match="Did you mean 'gat_cora'"):
        recipes.find(name, current_toolkit())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (TEXT + "optimiser: {use: adam}\n", r"it\.yaml:10: unknown section 'optimiser'.*'optimizer'"),
        (TEXT + "seed: one\n", r"it\.yaml:10: seed wants a whole number, given 'one'"),
        (TEXT + "seed: true\n", "seed wants a whole number"),
        (TEXT + "seed: -1\n", "seed wants a whole number from 0"),
        (TEXT + "trainer: fast\n", r"it\.yaml:10: trainer wants keys and values"),
        (TEXT + "callbacks: {use: timer}\n", "callbacks wants a list"),
        (TEXT + "callbacks: [1]\n", r"callbacks\.0 wants a name"),
        (TEXT + "smoke: {traner: {max_epochs: 1}}\n", r"it\.yaml:10: unknown section 'traner' in smoke.*'trainer'"),
        (TEXT.replace("{use: adam, lr: 5e-3}", "{lr: 5e-3}"), r"it\.yaml:9: optimizer wants a name"),
        (TEXT.replace("data: {use: karate}\n", ""), "no section 'data'.*`toolkit list data`"),
        (TEXT.replace("model:\n  use: attention_network\n  hidden: 4\n  heads: 2\n", ""), "no section 'model'"),
        ("- 1\n", "a recipe is a YAML mapping"),
        ("", "a recipe is a YAML mapping"),
    ],
)
def test_a_wrong_document_is_told_with_its_line(tmp_path, text, complaint):
    with pytest.raises(RecipeError, match=complaint):
        recipes.load(written(tmp_path, text), current_toolkit())


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optimizer.lr=1e-3", ("optimizer", "lr"), 1e-3),
        ("attention=gatv2", ("attention", "use"), "gatv2"),
        ("attention.use=gatv2", ("attention", "use"), "gatv2"),
        ("trainer.devices=[0, 1]", ("trainer", "devices"), [0, 1]),
        ("trainer.strategy=ddp", ("trainer", "strategy"), "ddp"),
        ("seed=7", ("seed",), 7),
        ("name=", ("name",), ""),
        ("stop={monitor: val/loss, patience: 3}", ("stop", "patience"), 3),
        ("expect.source=a=b", ("expect", "source"), "a=b"),
    ],
)
def test_overrides(override, path, value):
    found = made().with_overrides([override]).document
    for key in path:
        found = found[key]
    assert found == value


def test_an_override_keeps_the_other_options_of_a_section():
    assert made().with_overrides(["attention=gatv2"]).section("attention") == {"use": "gatv2", "dropout": 0.1}


def test_an_override_can_take_a_section_away_and_reach_into_lists():
    changed = made(callbacks=["gradient_norm", {"use": "timer"}]).with_overrides(
        ["attention=null", "callbacks.0.every_steps=2"]
    )
    assert changed.section("attention") is None
    assert changed.section("callbacks") == [{"use": "gradient_norm", "every_steps": 2}, {"use": "timer"}]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimiser.lr=1", "unknown section 'optimiser'.*'optimizer'"),
        ("lr", "write it as section.key=value"),
        ("optimizer..lr=1", "write it as section.key=value"),
        ("optimizer.lr.x=1", "which has no keys"),
        ("callbacks.5.use=timer", "no place in a list"),
        ("optimizer.lr=[1", "not valid YAML"),
        ("data=null", "no section 'data'"),
        ("data.use=3", r"override 'data\.use=3': data wants a name, .* given \{use: 3\}"),
        ("trainer=fast", "override 'trainer=fast': trainer wants keys and values, given 'fast'"),
    ],
)
def test_a_wrong_override_is_told_by_itself(override, complaint):
    with pytest.raises(RecipeError, match=complaint):
        made(callbacks=["timer"]).with_overrides([override])


def test_the_original_is_left_alone():
    base = made()
    base.with_overrides(["optimizer.lr=9", "attention=null"])
    base.changed({"model": {"hidden": 99}}, "here")
    assert base.document["optimizer"]["lr"] == 0.01
    assert base.document["model"]["hidden"] == 4


def test_an_overlay_merges_keys_but_replaces_what_is_named_anew():
    changed = made().changed(
        {"model": {"hidden": 9}, "optimizer": {"use": "sgd", "lr": 1.0}, "attention": None}, "here"
    )
    assert changed.section("model") == {"use": "attention_network", "hidden": 9, "heads": 2}
    assert changed.section("optimizer") == {"use": "sgd", "lr": 1.0}
    assert changed.section("attention") is None


def test_smoke_is_applied_before_overrides(tmp_path):
    path = written(tmp_path, TEXT + "trainer: {max_epochs: 50}\nsmoke: {trainer: {max_epochs: 2}}\n")
    assert recipes.load(path, current_toolkit(), smoke=True).section("trainer") == {"max_epochs": 2}
    assert recipes.load(path, current_toolkit(), ["trainer.max_epochs=3"], smoke=True).section("trainer") == {
        "max_epochs": 3
    }
    with pytest.raises(RecipeError, match="needs a section `smoke`"):
        recipes.load(written(tmp_path, TEXT), current_toolkit(), smoke=True)


# Resolving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.hiden=8", r"override 'model\.hiden=8': unknown key 'hiden' in model. Did you mean 'hidden'"),
        ("model.hidden=wide", "model.hidden wants a whole number >= 1, given 'wide'"),
        ("model.hidden=0", "model.hidden wants a whole number >= 1, given 0$"),
        ("attention.use=gta", r"attention\.use: unknown name 'gta' among attention. Did you mean 'gat'"),
        ("attention.heads=3", "unknown key 'heads' in attention"),
        ("attention=null", "needs a section 'attention'"),
        ("model.use=gcn", "unknown key 'heads'|has no attention to choose"),
        ("trainer.max_epoch=3", "unknown key 'max_epoch' in trainer. Did you mean 'max_epochs'"),
        ("trainer.max_epochs=many", "trainer.max_epochs wants"),
        ("trainer.logger=csv", "own section `loggers`"),
        ("stop.patience=0", "stop.patience wants a whole number >= 1, given 0$"),
        ("stop={count_ties: true, min_delta: 0.1}", "contradict"),
        ("expect={metric: test/accuracy}", "give one of at_least and at_most"),
        ("schedule={use: cosine, interval: week}", "schedule.interval wants 'step' or 'epoch'"),
        ("task.metrics=[3]", "task.metrics wants"),
        ("data.batch_sise=3", "'batch_size'"),
        ("optimizer.lr=fast", "optimizer.lr wants a number"),
    ],
)
def test_a_section_is_held_to_what_it_names(override, complaint):
    with pytest.raises((RecipeError, UnknownNameError), match=complaint):
        resolve(made().with_overrides([override]))


def test_a_resolved_recipe_has_full_names_and_every_default_and_resolves_to_itself():
    first = resolve(made(stop={"patience": 5})).document
    assert first["attention"]["use"] == "core:gat"
    assert first["optimizer"]["betas"] == [0.9, 0.999]
    assert first["model"]["dropout"] == 0.6
    assert first["stop"]["monitor"] == "val/loss"
    assert resolve(from_document(first, "again")).document == first


def test_every_recipe_we_ship_is_registered_and_resolves():
    folder = Path(__file__).parents[2] / "recipes"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    assert len(names) >= 7
    registered = sorted(entry.name for entry in current_toolkit().registry.all("recipes"))
    assert [name for name in names if name not in registered] == []
    for name in names:
        found = recipes.load(name, current_toolkit())
        assert found.name == name
        resolved = resolve(found)
        assert resolved.expect is not None
        assert found.section("smoke")
        if "attention" in found.document:
            resolve(found.changed(found.section("baseline"), "baseline"))
        header = (folder / f"{name}.yaml").read_text().split("name:")[0]
        assert f"toolkit train {name}" in header
