"""Attention as a picture: a matrix of weights with a label for every row and column."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from toolkit.errors import ShapeError, ToolkitWarning
from toolkit.files import writing

LONGEST = 60
"""Characters of a label that are shown; the rest of a longer one becomes an ellipsis."""

LARGEST = 200
"""Rows and columns that are drawn at most: more have no room for their labels."""

_CELL, _LETTER, _MARGIN = 0.3, 0.085, 1.0  # inches
_NUMBERED = 12  # columns of cells wide enough for a number


def draw(
    weights: Tensor | Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    *,
    title: str = "",
    row_title: str = "",
    column_title: str = "",
    numbers: bool | None = None,
) -> Path:
    """Draw weights from 0 (white) to the largest of them (blue) as a PNG, and return its path.

    Where some are negative, as weights without softmax may be, those are red.

    Labels are shown as they are: `$` and `\\` mean nothing special, line ends and other control characters become
    symbols, and those of more than 60 characters end in an ellipsis. A warning counts characters that no font has.
    row_title, column_title: what rows and columns are. numbers: write each weight into its cell; None does so for few
    columns.
    Shapes: weights (rows, columns), finite.
    Raises: ShapeError for labels that do not fit, no rows or columns, more than 200 of either, or weights that are
    not finite.
    """
    values = np.asarray(weights.detach().float().cpu() if isinstance(weights, Tensor) else weights, dtype=float)
    _check(values, rows, columns)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    row_labels, column_labels = [shown(label) for label in rows], [shown(label) for label in columns]
    numbers = len(columns) <= _NUMBERED if numbers is None else numbers
    cell = _CELL * 2 if numbers else _CELL
    upright = max(map(len, column_labels)) * _LETTER > cell  # such labels are written from bottom to top
    width = _MARGIN + max(map(len, row_labels)) * _LETTER + cell * len(columns)
    height = _MARGIN + (max(map(len, column_labels)) * _LETTER if upright else 0) + _CELL * len(rows)
    figure = Figure(figsize=(max(width, _LETTER * len(title) + _MARGIN), height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    top, signed = float(np.abs(values).max()) or 1.0, values.min() < 0
    colours, low = ("RdBu", -top) if signed else ("Blues", 0.0)
    image = panel.imshow(values, cmap=colours, vmin=low, vmax=top, aspect="auto", interpolation="nearest")
    panel.set_xticks(range(len(columns)), column_labels, rotation=90 if upright else 0, fontsize=8)
    panel.set_yticks(range(len(rows)), row_labels, fontsize=8)
    panel.xaxis.tick_top()
    panel.xaxis.set_label_position("top")
    panel.tick_params(length=0)
    texts = [*panel.get_xticklabels(), *panel.get_yticklabels()]
    texts += [panel.set_xlabel(column_title, fontsize=8), panel.set_ylabel(row_title, fontsize=8)]
    if title:
        texts.append(panel.set_title(shown(title, 4 * LONGEST), fontsize=9))
    for row, column in np.ndindex(*values.shape) if numbers else ():
        value = values[row, column]
        panel.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="w" if abs(value) > 0.6 * top else "0.2",
        )
    for text in texts:
        text.set_parse_math(False)
    figure.colorbar(image, ax=panel, fraction=0.04, pad=0.02).ax.tick_params(labelsize=7)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with writing(path) as file:
            figure.savefig(file, format="png")
    _pass_on(told, path)
    return path


def shown(label: str, longest: int = LONGEST) -> str:
    """Return a label for one line: control characters as their symbols, an ellipsis where it is cut."""
    visible = "".join(_symbol(character) for character in label.encode("utf-8", "replace").decode("utf-8"))
    return visible if len(visible) <= longest else visible[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _symbol(character: str) -> str:
    controls = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}
    if ord(character) in (*range(0x20), *range(0x7F, 0xA0)):
        return controls.get(character, "\N{REPLACEMENT CHARACTER}")
    return character


def _check(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    if values.shape != (len(rows), len(columns)):
        raise ShapeError(f"weights are {values.shape}, but there are {len(rows)} row and {len(columns)} column labels")
    if not values.size:
        raise ShapeError("there is nothing to draw: give one row and one column at least")
    if max(values.shape) > LARGEST:
        raise ShapeError(
            f"weights are {values.shape}; at most {LARGEST} rows and columns are drawn: choose some of them"
        )
    if not np.isfinite(values).all():
        raise ShapeError("weights to be drawn are finite")


def _pass_on(told: Sequence[warnings.WarningMessage], path: Path) -> None:
    """Count the characters that the fonts of this machine lack, and hand other warnings on."""
    missing = set()
    for warning in told:
        found = re.match(r"Glyph (\d+) ", str(warning.message))
        if found:
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        some = "".join(sorted(missing)[:10])
        warnings.warn(
            ToolkitWarning(
                f"{path.name}: {len(missing)} characters are in no font that matplotlib uses, such as {some}; "
                "name one that has them in matplotlib's font.family"
            ),
            stacklevel=3,
        )
