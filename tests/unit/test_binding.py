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
    few: Annotated[list[str], Field(min_length=1)] = ["one"],  # noqa: B006 (nothing is called)
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
        ({"rate": "high"}, "f:3: model.rate wants a number >= 0 and < 1, given 'high' (text)"),
        ({"rate": True}, "f:3: model.rate wants a number >= 0 and < 1, given true"),
        ({"rate": 1.5}, "f:3: model.rate wants a number >= 0 and < 1, given 1.5"),
        ({"size": 0}, "f:3: model.size wants a whole number >= 1, given 0"),
        ({"size": 2.5}, "f:3: model.size wants a whole number >= 1, given 2.5"),
        ({"size": "2"}, "f:3: model.size wants a whole number >= 1, given '2' (text)"),
        ({"kind": "median"}, "f:3: model.kind wants one of 'mean', 'max', given 'median' (text). Did you mean 'mean'?"),
        ({"many": [1, "a"]}, "f:3: model.many wants a list of whole numbers or null, given [1, 'a']"),
        ({"many": {"a": None}}, "f:3: model.many wants a list of whole numbers or null, given {a: null}"),
        ({"pair": [1]}, "f:3: model.pair wants a list of 2 numbers, given [1]"),
        (
            {"few": []},
            "f:3: model.few wants a list of text, given []: list should have at least 1 item after validation, not 0",
        ),
        ({"flag": "yes"}, "f:3: model.flag wants true or false, given 'yes' (text)"),
        ({"flag": 1}, "f:3: model.flag wants true or false, given 1"),
        ({"name": 3}, "f:3: model.name wants text or null, given 3"),
    ],
)
def test_wrong_values_are_told_where_and_what_and_nothing_twice(given, complaint):
    with pytest.raises(RecipeError) as caught:
        bound(given, place=lambda key: "f:3")
    assert str(caught.value) == complaint


def test_an_unknown_key_gets_the_nearest():
    with pytest.raises(RecipeError, match=r"f:3: unknown key 'sise' in model\. Did you mean 'size'"):
        bound({"sise": 2}, place=lambda key: "f:3")


def test_a_long_value_is_not_repeated_whole():
    with pytest.raises(RecipeError, match=r"given \['aaaa.* characters\)$") as caught:
        bound({"many": ["a" * 1000, "b" * 1000]})
    assert len(str(caught.value)) < 250


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
        "few": ["one"],
        "anything": None,
    }


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int, Field(ge=1)], "a whole number >= 1"),
        (Probability | None, "a number >= 0 and < 1 or null"),
        (int | None, "a whole number or null"),
        (float | torch.Tensor, "a number"),
        (int | float | None, "a whole number, a number or null"),
        (Literal[64, 32] | Literal["64"] | None, "one of 64, 32, '64' or null"),
        (list[Literal["a", "b"]], "a list of any of 'a', 'b'"),
        (tuple[int, ...], "a list of whole numbers"),
        (list[Positive], "a list of whole numbers >= 1"),
    ],
)
def test_types_in_words(annotation, words):
    assert describe(annotation) == words


def test_plain_values():
    assert is_plain({"a": [1, (2.0, None)], "b": "x"})
    assert not is_plain({1: 2})
    assert not is_plain(torch.zeros(1))
