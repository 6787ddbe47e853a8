import struct
import warnings

import numpy as np
import pytest
import torch

from toolkit.errors import ShapeError, ToolkitWarning
from toolkit.heatmap import draw, shown


def size(path):
    """Return width and height of a PNG, from its header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def test_a_picture_has_room_for_each_row_and_column(tmp_path):
    small = draw(torch.rand(2, 2), list("ab"), list("cd"), tmp_path / "small.png")
    large = draw(torch.rand(20, 30), ["a"] * 20, ["b"] * 30, tmp_path / "large.png")
    assert all(one < other for one, other in zip(size(small), size(large), strict=True))


def test_dark_is_much_weight(tmp_path):
    first = pixels(draw([[1.0, 0.0]], ["a"], ["b", "c"], tmp_path / "first.png", numbers=False))
    second = pixels(draw([[0.0, 1.0]], ["a"], ["b", "c"], tmp_path / "second.png", numbers=False))
    differ = np.nonzero(np.abs(first - second).sum((0, 2)))[0]
    middle = (differ[0] + differ[-1]) // 2
    assert first[:, differ[0] : middle].mean() < first[:, middle : differ[-1]].mean()
    assert second[:, differ[0] : middle].mean() > second[:, middle : differ[-1]].mean()


def test_negative_weights_are_red_and_others_blue(tmp_path):
    found = pixels(draw([[-1.0], [1.0]], ["a", "b"], ["c"], tmp_path / "signed.png", numbers=False))
    red, _, blue = np.moveaxis(found, -1, 0)
    high, low = found.shape[0] // 2, found.shape[0]
    cell = slice(found.shape[1] // 3, found.shape[1] // 2)
    assert (red - blue)[:high, cell].max() > 0.2
    assert (blue - red)[high:low, cell].max() > 0.2
    assert (red - blue)[high + 10 : low, cell].max() < 0.1


@pytest.mark.parametrize("label", ["$x^2$", "$", "\\frac{", "50 % of $1 and $", "a_b^{", "Größe, 1 → 2", "two\nlines"])
def test_a_label_is_shown_as_it_is(label, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert size(draw([[1.0]], [label], [label], tmp_path / "one.png", title=label))[0] > 50


def test_labels_that_look_alike_to_mathematics_are_drawn_differently(tmp_path):
    plain = pixels(draw([[1.0]], ["$a$b"], ["c"], tmp_path / "plain.png"))
    other = pixels(draw([[1.0]], ["$ab$"], ["c"], tmp_path / "other.png"))
    assert plain.shape == other.shape
    assert (plain != other).any()


def test_control_characters_and_length(tmp_path):
    assert shown("a\tb\n\x7fc") == "a⇥b↵\N{REPLACEMENT CHARACTER}c"
    assert shown("x" * 60) == "x" * 60
    assert shown("x" * 61) == "x" * 59 + "…"


def test_characters_without_a_font_are_counted(tmp_path):
    nobody = "\U000f0000\U000f0001"  # private use: no font draws them
    with pytest.warns(ToolkitWarning, match=r"one.png: 2 characters are in no font"):
        draw([[1.0]], [nobody], [nobody], tmp_path / "one.png")


@pytest.mark.parametrize(
    ("weights", "rows", "columns", "what"),
    [
        ([[1.0]], ["a", "b"], ["c"], r"\(1, 1\), but there are 2 row and 1 column"),
        (torch.zeros(0, 3), [], ["a", "b", "c"], "nothing to draw"),
        (torch.zeros(201, 1), ["a"] * 201, ["b"], "at most 200"),
        ([[float("nan")]], ["a"], ["b"], "finite"),
    ],
)
def test_what_cannot_be_drawn_is_told(weights, rows, columns, what, tmp_path):
    with pytest.raises(ShapeError, match=what):
        draw(weights, rows, columns, tmp_path / "one.png")
    assert not (tmp_path / "one.png").exists()


def test_weights_of_zero_are_a_picture_too(tmp_path):
    assert size(draw(torch.zeros(2, 2), list("ab"), list("cd"), tmp_path / "zero.png"))[0] > 50
