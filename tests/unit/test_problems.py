"""Every mistake of a recipe is told, each once, and none that only follows from another."""

from __future__ import annotations

import pytest

from toolkit import recipe as recipes
from toolkit.errors import RecipeError
from toolkit.plugins import current_toolkit
from toolkit.problems import problems

SOUND = """name: it
data: {use: karate}
task: {use: node_classification}
model: {use: attention_network, hidden: 4, heads: 2}
attention: {use: gat}
optimizer: {use: adam}
trainer: {max_epochs: 3}
"""


@pytest.fixture
def told(tmp_path):
    """Write a recipe and return what is told of it, without the folder it lies in."""

    def tell(text, *overrides):
        (tmp_path / "it.yaml").write_text(text)
        recipe = recipes.load(str(tmp_path / "it.yaml"), current_toolkit(), overrides, mistakes=[])
        return [str(problem).replace(f"{tmp_path}/", "") for problem in problems(recipe)]

    return tell


def test_a_sound_recipe_has_none(told):
    assert told(SOUND) == []


def test_mistakes_of_the_document_do_not_hide_those_of_its_sections(told):
    found = told(
        SOUND.replace("heads: 2", "heds: 2")
        + "colour: red\nshape: round\nseed: one\nloggers: csv\ncallbacks: [7, {use: timr}]\ncompile: fast\n"
        + "smoke: {traner: {}, modl: {}}\nstop: {patience: 0}\n"
    )
    begins = [
        "it.yaml:8: unknown section 'colour'",
        "it.yaml:9: unknown section 'shape'",
        "it.yaml:10: seed wants a whole number, given 'one'",
        "it.yaml:12: callbacks.0 wants a name, or keys with `use: NAME` among them, given 7",
        "it.yaml:11: loggers wants a list, given 'csv'",
        "it.yaml:13: compile wants keys and values, given 'fast'",
        "it.yaml:14: unknown section 'traner' in smoke. Did you mean 'trainer'?",
        "it.yaml:14: unknown section 'modl' in smoke. Did you mean 'model'?",
        "it.yaml:4: unknown key 'heds' in model. Did you mean 'heads'?",
        "it.yaml:15: stop.patience wants a whole number >= 1, given 0",
        "it.yaml:12: callbacks.1.use: unknown name 'timr'",
    ]
    assert [line[: len(begin)] for line, begin in zip(found, begins, strict=True)] == begins


def test_all_keys_of_a_section_are_told(told):
    found = told(SOUND.replace("{max_epochs: 3}", "{max_epoch: 3, devices: 1.5, logger: csv}"))
    assert sorted(line.partition(",")[0].partition(" Did")[0] for line in found) == [
        "it.yaml:7: trainer.devices wants a list of whole numbers",
        "it.yaml:7: trainer.logger: list them in the recipe's own section `loggers`",
        "it.yaml:7: unknown key 'max_epoch' in trainer.",
    ]


def test_task_model_and_attention_are_told_apart(told):
    found = told(SOUND, "task.metrics=3", "model.hidden=no", "attention.use=gta", "model.dropout=2")
    assert [line.split()[1].strip("':").partition("=")[0] for line in found] == [
        "task.metrics",
        "model.hidden",
        "model.dropout",
        "attention.use",
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaints"),
    [
        ("optimizer:", "optimiser:", ["unknown section 'optimiser'"]),
        ("attention:", "atention:", ["unknown section 'atention'"]),
        ("model:", "modle:", ["unknown section 'modle'"]),
        ("{use: node_classification}", "{use: node_clasification}", ["unknown name 'node_clasification'"]),
        ("{use: karate}", "{use: planetoid, nam: cora}", ["unknown key 'nam' in data. Did you mean 'name'"]),
        ("use: attention_network, hidden: 4, heads: 2", "use: gcn", ["has no attention to choose"]),
        ("{use: attention_network, hidden: 4, heads: 2}", "[gcn]", ["model wants a name"]),
        ("data: {use: karate}\ntask", "tsk", ["unknown section 'tsk'", "no section 'data'"]),
    ],
)
def test_what_follows_from_a_mistake_is_not_told(told, old, new, complaints):
    assert SOUND.count(old) == 1
    found = told(SOUND.replace(old, new))
    assert len(found) == len(complaints), found
    assert all(complaint in line for complaint, line in zip(complaints, found, strict=True))


def test_wrong_overrides_are_told_together_and_once(told):
    found = told(SOUND, "optimiser.lr=1", "optimizer.lr=[1", "lr", "trainer.max_epochs=4", "data.use=karat")
    assert [line.partition(":")[0] for line in found] == [
        "override 'optimiser.lr=1'",
        "override 'optimizer.lr=[1'",
        "override 'lr'",
        "override 'data.use=karat'",
    ]


def test_loading_to_train_raises_all_mistakes_of_the_document(tmp_path):
    (tmp_path / "it.yaml").write_text(SOUND + "colour: red\nshape: round\n")
    with pytest.raises(RecipeError, match=r"2 mistakes:\n- .*'colour'.*\n- .*'shape'"):
        recipes.load(str(tmp_path / "it.yaml"), current_toolkit())
