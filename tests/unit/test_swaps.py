"""An override that names another thing keeps the keys that fit it, and tells of those it leaves out."""

from __future__ import annotations

import warnings

import pytest

from toolkit.errors import RecipeError, ToolkitWarning
from toolkit.hookspecs import hookimpl
from toolkit.problems import problems
from toolkit.recipe import from_document
from toolkit.resolve import resolve

BASE = {
    "name": "it",
    "data": {"use": "karate"},
    "task": "node_classification",
    "model": {"use": "attention_network", "hidden": 4, "heads": 2, "value_dropout": 0.1},
    "attention": {"use": "gat", "dropout": 0.1, "negative_slope": 0.3},
    "optimizer": {"use": "adam", "lr": 0.01, "amsgrad": True},
    "schedule": {"use": "cosine", "warmup": 3, "floor": 0.1, "interval": "epoch"},
}


def made(*overrides):
    return from_document(BASE, "it.yaml").with_overrides(overrides)


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ToolkitWarning)
        yield


def test_keys_that_fit_stay_without_a_word(no_warning):
    found = resolve(made("attention=gatv2")).document["attention"]
    assert (found["use"], found["dropout"], found["negative_slope"]) == ("core:gatv2", 0.1, 0.3)


@pytest.mark.parametrize("override", ["attention=scaled_dot_product", "attention.use=scaled_dot_product"])
def test_keys_of_the_old_one_are_left_out_and_named(override):
    with pytest.warns(ToolkitWarning) as caught:
        resolved = resolve(made(override))
    assert str(caught[0].message) == (
        f"override {override!r}: left out {{negative_slope: 0.3}} of 'gat', which 'scaled_dot_product' does not take; "
        "kept {dropout: 0.1}"
    )
    assert "negative_slope" not in resolved.document["attention"]
    assert resolved.document["attention"]["dropout"] == 0.1
    assert resolved.recipe.document["attention"] == {"use": "scaled_dot_product", "dropout": 0.1}


def test_a_model_is_swapped_with_its_attention_taken_away():
    with pytest.warns(ToolkitWarning, match=r"left out \{heads: 2, value_dropout: 0.1\} .* kept \{hidden: 4\}"):
        resolved = resolve(made("attention=null", "model=gcn"))
    assert resolved.document["model"]["hidden"] == 4


def test_what_the_toolkit_gives_itself_is_no_key_of_the_new_one(digits_toolkit):
    """`features` is an option of one model and given by the task to another."""

    class Plugin:
        @hookimpl
        def register_models(self, register):
            register("own", "test_swaps:Own", summary="Takes what others are given")

    digits_toolkit.register(Plugin(), "mine")
    base = {**BASE, "model": {"use": "own", "features": 3, "classes": 2}}
    with pytest.warns(ToolkitWarning, match="left out {features: 3, classes: 2}"):
        resolve(from_document(base, "it.yaml").with_overrides(["attention=null", "model=gcn"]))


class Own:
    def __init__(self, *, features: int, classes: int) -> None: ...


def test_keys_of_ours_beside_a_schedule_stay():
    with pytest.warns(ToolkitWarning, match=r"left out \{floor: 0.1\} of 'cosine'"):
        found = resolve(made("schedule=inverse_sqrt")).document["schedule"]
    assert found == {"use": "core:inverse_sqrt", "warmup": 3, "interval": "epoch", "monitor": None}


@pytest.mark.parametrize(
    "overrides",
    [
        ["attention=scaled_dot_product", "attention.negative_slope=0.3"],
        ["attention.negative_slope=0.3", "attention=scaled_dot_product"],
        ["attention={use: scaled_dot_product, negative_slope: 0.3}"],
        ["attention=scaled_dot_product", "attention={use: scaled_dot_product, negative_slope: 0.3}"],
    ],
)
def test_a_key_that_an_override_gives_is_meant_for_the_new_one(overrides, no_warning):
    with pytest.raises(RecipeError, match="unknown key 'negative_slope' in attention"):
        resolve(made(*overrides))


def test_without_a_swap_an_unknown_key_is_a_mistake():
    base = {**BASE, "attention": {"use": "scaled_dot_product", "negative_slope": 0.3}}
    with pytest.raises(RecipeError, match="unknown key 'negative_slope' in attention"):
        resolve(from_document(base, "it.yaml"))


def test_a_swapped_recipe_resolves_again_and_so_does_its_baseline():
    """verify hands the documents of both sides to other processes, which know nothing of the overrides."""
    swapped = made("optimizer=sgd")
    with pytest.warns(ToolkitWarning, match="amsgrad"):
        resolved = resolve(swapped)
    changed = swapped.changed({"optimizer": {"lr": 0.5}, "attention": {"use": "gatv2"}}, "baseline")
    with pytest.warns(ToolkitWarning, match="amsgrad"):
        baseline = resolve(changed)
    for side, lr in ((resolved, 0.01), (baseline, 0.5)):
        again = resolve(from_document(side.recipe.document, "again"))
        assert again.document == side.document
        assert again.document["optimizer"]["use"] == "core:sgd"
        assert again.document["optimizer"]["lr"] == lr


def test_a_run_s_resolved_recipe_can_be_swapped_too():
    """It holds every default of the old mechanism, which the user never wrote."""
    with pytest.warns(ToolkitWarning, match="negative_slope"):
        document = resolve(
            from_document(resolve(made()).document, "run/recipe.yaml").with_overrides(["attention=scaled_dot_product"])
        ).document
    assert document["attention"]["use"] == "core:scaled_dot_product"


def test_checking_a_swap_finds_no_problem():
    with pytest.warns(ToolkitWarning):
        assert problems(made("attention=scaled_dot_product")) == []
