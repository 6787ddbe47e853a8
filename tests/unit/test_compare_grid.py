"""What is compared: several values of a key, their product, and commas that belong to a value."""

from __future__ import annotations

import pytest

from toolkit.compare_grid import span, split_values
from toolkit.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("gat,gatv2", ["gat", "gatv2"]),
        ("1e-3, 5e-3", ["1e-3", "5e-3"]),
        ("[a, b],[c]", ["[a, b]", "[c]"]),
        ("[a, b]", ["[a, b]"]),
        ("{use: gat, dropout: 0.1},gatv2", ["{use: gat, dropout: 0.1}", "gatv2"]),
        ("[{a: [1, 2]}, 3],4", ["[{a: [1, 2]}, 3]", "4"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("'it''s, x',y", ["'it''s, x'", "y"]),
        ('["]", 1],2', ['["]", 1]', "2"]),
        ("it's,his", ["it's", "his"]),
        ("x[0],y", ["x[0]", "y"]),
        ("", [""]),
    ],
)
def test_commas_part_values_except_inside_one(text, values):
    assert split_values(text) == values


def test_product_of_two_keys_with_plain_overrides_between(digits_toolkit):
    grid = span(
        "digits", ["model.hidden=8,16", "trainer.max_epochs=3", "optimizer.lr=1e-3,5e-3", "seed=4"], digits_toolkit
    )
    assert [each.label for each in grid.variants] == [
        "model.hidden=8 optimizer.lr=1e-3",
        "model.hidden=8 optimizer.lr=5e-3",
        "model.hidden=16 optimizer.lr=1e-3",
        "model.hidden=16 optimizer.lr=5e-3",
    ]
    document = grid.variants[2].resolved.document
    assert (document["model"]["hidden"], document["optimizer"]["lr"], document["trainer"]["max_epochs"]) == (
        16,
        1e-3,
        3,
    )
    assert (grid.keys, grid.overrides, grid.seed) == (
        ["model.hidden", "optimizer.lr"],
        ["trainer.max_epochs=3", "seed=4"],
        4,
    )


def test_lists_and_sections_are_values(digits_toolkit):
    grid = span(
        "gat_karate",
        ["task.metrics=[accuracy],[accuracy, macro_f1]", "optimizer={use: adam, lr: 1e-2},{use: sgd, lr: 0.1}"],
        digits_toolkit,
    )
    found = [
        (each.resolved.document["task"]["metrics"], each.resolved.optimization.optimizer.name) for each in grid.variants
    ]
    assert found == [
        (["accuracy"], "core:adam"),
        (["accuracy"], "core:sgd"),
        (["accuracy", "macro_f1"], "core:adam"),
        (["accuracy", "macro_f1"], "core:sgd"),
    ]
    assert len({each.file for each in grid.variants}) == 4


def test_what_a_swap_leaves_out_is_noted(digits_toolkit):
    with_heads, without = span(
        "gat_karate", ["attention=null", "model=graph:attention_network,gcn"], digits_toolkit
    ).variants
    assert "needs a section 'attention'" in with_heads.reason
    assert without.reason == ""
    assert any("left out {heads: 4}" in note for note in without.notes)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["attention=gat"], "nothing to compare"),
        (["attention"], "as in attention=gat,gatv2"),
        (["attention=gat,"], "a value is empty"),
        (["attention=gat,gat"], "'gat' is given twice"),
        (["model.hidden=8,16", "model.hidden=4,2"], "given twice for model.hidden"),
        (["seed=0,1", "model.hidden=8,16"], "--seeds 2"),
    ],
)
def test_mistakes_are_told_at_once(digits_toolkit, overrides, words):
    with pytest.raises(RecipeError, match=words):
        span("digits", overrides, digits_toolkit)


def test_name_tells_comparisons_apart_and_not_their_values_or_seeds(digits_toolkit):
    def name(*overrides):
        return span("digits", overrides, digits_toolkit).name

    base = name("model.hidden=8,16")
    assert name("model.hidden=8,16,32") == base
    assert name("model.hidden=8,16", "seed=3") == base
    assert name("model.hidden=8,16", "trainer.max_epochs=3") != base
    assert name("model.heads=2,4") != base
