"""Patterns written as text mean what the same code means, and nothing else is read."""

import pytest
import torch

from toolkit.attention import causal, global_tokens, padding, window
from toolkit.attention.parse_pattern import CONSTRUCTORS, parse_pattern
from toolkit.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("causal", causal()),
        ("causal()", causal()),
        (" window(3, None) & causal() ", window(3, None) & causal()),
        ("window(left=1, right=1) | global_tokens([0, 4])", window(1, 1) | global_tokens([0, 4])),
        (
            "(causal | global_tokens([1])) & padding([5, 7])",
            (causal() | global_tokens([1])) & padding(torch.tensor([5, 7])),
        ),
    ],
)
def test_text_means_what_code_means(text, pattern):
    assert torch.equal(parse_pattern(text).mask(6, 8, batch=2), pattern.mask(6, 8, batch=2))


def test_every_constructor_is_there():
    from toolkit import attention

    assert all(callable(getattr(attention, name)) for name in CONSTRUCTORS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("causl()", "no pattern is called 'causl'. Did you mean 'causal'"),
        ("causal(", "cannot be read"),
        ("", "cannot be read"),
        ("causal() + window(1, 0)", "is no pattern"),
        ("__import__('os').getcwd()", "is no pattern"),
        ("window(print(1), 0)", "'print\\(1\\)' is no number, list or None"),
        ("window(1)", "window\\(left"),
        ("window(-1, 0)", "cannot be negative"),
        ("padding(3)", "padding wants integers in 1 dimensions"),
        ("padding([[1], [2, 3]])", "padding"),
        ("window({[]: 1}, 0)", "is no number"),
        ("build('gat')", "no pattern is called 'build'"),
    ],
)
def test_what_cannot_be_read_is_told(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_pattern(text)
