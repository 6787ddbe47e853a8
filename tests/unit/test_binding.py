from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field

from toolkit.binding import NonNegative, Positive, Probability, bind, defaults, describe, is_plain
from toolkit.errors import RecipeError


def takes(
    *,
    size: Positive,
    rate: Probability = 0.1,
    kind: Literal["mean", "max"] = "mean",
    many: list[int] | None = None,
    pair: tuple[float, float] = (0.9, 0.999),
    flag: bool = False,
    name: str | None = None,
    anything: Any = None,
) -> None: ...


def bound(given, **more):
    return bind(takes, {"size": 1, **given}, where="model", **more)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"rate": 0}, 0.0),
        ({"rate": 5e-1}, 0.5),
        ({"pair": [0.5, 1]}, (0.5, 1.0)),
        ({"many": [1, 2]}, [1, 2]),
        ({"many": None}, None),
        ({"kind": "max"}, "max"),
        ({"anything": {"a": 1}}, {"a": 1}),
    ],
)
def test_values_take_the_declared_type(given, value):
    (key,) = given
    found = bound(given)[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rate": "high"}, r"f:3: model\.rate wants a number, given 'high' \(text\)"),
        ({"rate": True}, "wants a number, given True"),
        ({"rate": 1.5}, "less than 1"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"size": 2.5}, "wants a whole number, given 2.5"),
        ({"size": "2"}, "wants a whole number, given '2'"),
        ({"kind": "median"}, "one of 'mean', 'max'"),
        ({"many": [1, "a"]}, "a list of a whole number or null"),
        ({"flag": "yes"}, "true or false"),
        ({"flag": 1}, "true or false"),
        ({"name": 3}, "text or null"),
        ({"sise": 2}, "unknown key 'sise' in model. Did you mean 'size'"),
    ],
)
def test_wrong_values_are_told_where_and_what(given, complaint):
    with pytest.raises(RecipeError, match=complaint):
        bound(given, place=lambda key: "f:3")


def test_a_required_key_is_asked_for():
    with pytest.raises(RecipeError, match="needs the key 'size'"):
        bind(takes, {}, where="model")


def test_what_the_house_provides_a_recipe_may_not():
    with pytest.raises(RecipeError, match="unknown key 'size'"):
        bind(takes, {"size": 1}, where="model", provided=("size",))
    assert bind(takes, {}, where="model", provided=("size",)) == {}


def test_reserved_keys_say_where_to_write_them():
    with pytest.raises(RecipeError, match=r"model\.name: list it elsewhere"):
        bound({"name": "x"}, reserved={"name": "list it elsewhere"})


def test_open_signatures_take_more_keys_but_not_the_provided_ones():
    def open_ended(*, size: int = 1, **more: Any) -> None: ...

    assert bind(open_ended, {"size": 2, "project": "p"}, where="loggers") == {"size": 2, "project": "p"}
    with pytest.raises(RecipeError, match="unknown key 'save_dir'"):
        bind(open_ended, {"save_dir": "/"}, where="loggers", provided=("save_dir",))


def test_torch_optimizers_bind():
    found = bind(torch.optim.Adam, {"lr": 1, "betas": [0.8, 0.9]}, where="optimizer", provided=("params",))
    assert found == {"lr": 1.0, "betas": (0.8, 0.9)}
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], **found)


def test_dataclasses_bind():
    @dataclass
    class Settings:
        patience: NonNegative = 3

    assert bind(Settings, {"patience": 0}, where="stop") == {"patience": 0}


def test_defaults_are_shown_as_a_recipe_would_write_them():
    assert defaults(takes) == {
        "rate": 0.1,
        "kind": "mean",
        "many": None,
        "pair": [0.9, 0.999],
        "flag": False,
        "name": None,
        "anything": None,
    }


def test_types_in_words():
    assert describe(Annotated[int, Field(ge=1)]) == "a whole number"
    assert describe(int | None) == "a whole number or null"
    assert describe(float | torch.Tensor) == "a number"


def test_plain_values():
    assert is_plain({"a": [1, (2.0, None)], "b": "x"})
    assert not is_plain({1: 2})
    assert not is_plain(torch.zeros(1))
