"""Every option a recipe can set on a part of the plugin: numbers have bounds, and a bad value is told by its key."""

import types
import typing

import pytest
from toolkit_graph.data.karate import KarateClub
from toolkit_graph.data.planetoid import Planetoid
from toolkit_graph.data.tu import TUDataset

from toolkit.assemble import build_data, build_for_training
from toolkit.binding import parameters
from toolkit.errors import CapabilityError, DataError, RecipeError
from toolkit.plugins import Toolkit, using
from toolkit.recipe import load
from toolkit.resolve import resolve

SECTIONS = {"data": "data", "tasks": "task", "models": "model"}
FROM_OTHERS = {"spec", "model", "features", "classes", "attention"}  # what the data, the task and the recipe hand over
FREE_TEXT = {"data.folder", "data.sha256", "data.name", "task.metrics"}


def options():
    """List (section, component, option, its type) of all that the plugin registers."""
    toolkit = Toolkit()
    toolkit.load_entry_points()
    with using(toolkit):
        return [
            (section, entry.name, key, parameter.annotation)
            for kind, section in SECTIONS.items()
            for entry in toolkit.registry.all(kind)
            if entry.plugin == "graph"
            for key, parameter in parameters(entry.load()).items()
            if key not in FROM_OTHERS or (section, key) == ("data", "features")
        ]


OPTIONS = options()
NAMES = [f"{section}.{key} of {component}" for section, component, key, _ in OPTIONS]


def parts(annotation):
    """Yield the plain types of an annotation, each with whether it is bounded."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield inside[0], True
    elif origin in (typing.Union, types.UnionType, list):
        for part in inside:
            yield from parts(part)
    else:
        yield origin or annotation, False


def test_all_parts_of_the_plugin_are_looked_at():
    assert {(section, component) for section, component, *_ in OPTIONS} == {
        *(("data", name) for name in ("karate", "planetoid", "tu")),
        *(("task", name) for name in ("node_classification", "graph_classification")),
        *(("model", name) for name in ("attention_network", "gcn")),
    }


@pytest.mark.parametrize(("section", "component", "key", "annotation"), OPTIONS, ids=NAMES)
def test_numbers_have_bounds_and_text_is_chosen_from_a_list(section, component, key, annotation):
    for kind, bounded in parts(annotation):
        assert bounded or kind not in (int, float), "a number without bounds"
        assert kind is not str or f"{section}.{key}" in FREE_TEXT, "text that is not chosen from a list"


@pytest.mark.parametrize(("section", "component", "key", "annotation"), OPTIONS, ids=NAMES)
def test_a_bad_value_is_told_by_section_and_key(toolkit, section, component, key, annotation):
    kinds = dict(parts(annotation))
    bad = "-7" if {int, float} & set(kinds) else "3" if bool not in kinds and typing.Literal not in kinds else "perhaps"
    bad = f"[{bad}]" if typing.get_origin(annotation) is list or key == "neighbors" else bad
    overrides = [f"{section}={{use: {component}, {key}: {bad}}}", *["attention=null"] * (component == "gcn")]
    recipe = load("gat_karate", toolkit, overrides)
    with pytest.raises(RecipeError, match=rf"\b{section}\.{key} wants .*, given "):
        resolve(recipe)


@pytest.mark.parametrize(
    ("make", "given", "key"),
    [
        (KarateClub, {"batch_size": 4}, "data.batch_size and data.neighbors"),
        (KarateClub, {"neighbors": [4]}, "data.batch_size and data.neighbors"),
        (KarateClub, {"batch_size": 0, "neighbors": [4]}, "data.batch_size is the nodes of a step, at least 1; 0"),
        (KarateClub, {"batch_size": 4, "neighbors": []}, "data.neighbors wants one number a layer"),
        (KarateClub, {"batch_size": 4, "neighbors": [0]}, "data.neighbors wants one number a layer"),
        (KarateClub, {"workers": 2}, "data.workers is for sampled neighbourhoods; 2 was given"),
        (KarateClub, {"sampler": "torch"}, "data.sampler is for sampled neighbourhoods; torch was given"),
        (Planetoid, {"name": "citeser"}, "data.name: no Planetoid set .* Did you mean 'citeseer'"),
        (TUDataset, {"name": "../x"}, "data.name: '../x' is not"),
        (TUDataset, {"name": ""}, "data.name: '' is not"),
        (TUDataset, {"name": "MUTAG", "fold": 10}, "data.fold is one of 0 to 9 or by_seed; 10"),
        (TUDataset, {"name": "MUTAG", "batch_size": 0}, "data.batch_size is the graphs of a step, at least 1; 0"),
        (TUDataset, {"name": "MUTAG", "split_seed": -1}, "data.split_seed is a whole number from 0 on; -1"),
    ],
)
def test_what_no_type_forbids_is_told_by_its_key(make, given, key):
    with pytest.raises(DataError, match=key):
        make(**given)


def test_attention_that_learns_from_a_loss_which_a_task_has_not_is_refused():
    toolkit = Toolkit()
    toolkit.load_entry_points()
    with using(toolkit):
        data = build_data(resolve(load("gat_karate", toolkit)))
        drawn = resolve(load("gat_karate", toolkit, ["attention=hard"]))
        with pytest.raises(CapabilityError, match=r"'hard' learns from a loss on what it draws .* straight_through"):
            build_for_training(drawn, data)
        relaxed = resolve(load("gat_karate", toolkit, ["attention=hard", "attention.estimator=straight_through"]))
        task = build_for_training(relaxed, data)
        (batch,) = data.train_dataloader()
        task.step(batch).loss.backward()
        assert all(weight.grad is not None for weight in task.parameters())
