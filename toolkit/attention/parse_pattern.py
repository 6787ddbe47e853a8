"""Patterns written as text: `causal() & window(256, 0) | global_tokens([0])`. Nothing is executed."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import torch

from toolkit import attention
from toolkit.attention.pattern import Pattern
from toolkit.errors import RecipeError, nearest

CONSTRUCTORS = (
    "blocks",
    "causal",
    "dilated",
    "fixed",
    "full",
    "global_tokens",
    "padding",
    "random_blocks",
    "segments",
    "strided",
    "window",
)


def parse_pattern(text: str) -> Pattern:
    """Read a pattern: names of constructors with plain numbers and lists, joined by `&`, `|` and parentheses.

    `causal` is `causal()`; lists given to padding and segments become tensors. Raises: RecipeError that marks the part
    that cannot be read.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise RecipeError(
            f"pattern {text!r} cannot be read at {(error.text or '')[(error.offset or 1) - 1 :]!r}"
        ) from None
    return _read(tree, text)


def _read(node: ast.expr, text: str) -> Pattern:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        left, right = _read(node.left, text), _read(node.right, text)
        return left & right if isinstance(node.op, ast.BitAnd) else left | right
    if isinstance(node, ast.Name):
        return _made(node.id, [], {}, text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        options = {str(keyword.arg): _value(keyword.value, text) for keyword in node.keywords}
        return _made(node.func.id, [_value(value, text) for value in node.args], options, text)
    raise RecipeError(
        f"pattern {text!r}: {ast.unparse(node)!r} is no pattern. Write constructors such as causal() or "
        "window(256, 0), joined by & and |"
    )


def _made(name: str, values: list[Any], options: dict[str, Any], text: str) -> Pattern:
    if name not in CONSTRUCTORS:
        raise RecipeError(f"pattern {text!r}: no pattern is called {name!r}.{nearest(name, CONSTRUCTORS)}")
    make = getattr(attention, name)
    try:
        if name in ("padding", "segments"):
            values = [torch.tensor(value) for value in values]
            options = {key: torch.tensor(value) for key, value in options.items()}
        made: Pattern = make(*values, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"pattern {text!r}: {name}{inspect.signature(make)}: {error}") from error
    return made


def _value(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (TypeError, ValueError):
        raise RecipeError(f"pattern {text!r}: {ast.unparse(node)!r} is no number, list or None") from None
