"""Mistakes a user can mend.

Each is shown as one screen of text and exit code 2, without a traceback (`--debug` shows it). A message says what went
wrong, where, what was given, and what would work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class ToolkitError(Exception):
    """Base of every error that is the user's to mend; anything else that escapes is our bug."""


class RecipeError(ToolkitError):
    """A recipe, or an override of one, that cannot be understood."""


class RecipeMistakesError(RecipeError):
    """Several mistakes of one recipe, told at once."""

    def __init__(self, errors: Sequence[RecipeError]) -> None:
        super().__init__(f"{len(errors)} mistakes:\n" + "\n".join(f"- {error}" for error in errors))
        self.errors = tuple(errors)


class UnknownNameError(ToolkitError):
    """A name that nothing registered, or that two plugins claim."""


class PluginError(ToolkitError):
    """A plugin that could not be loaded or breaks the rules of its hooks."""


class MissingExtraError(ToolkitError):
    """A package that an optional part needs is not installed."""


class ShapeError(ToolkitError, ValueError):
    """Tensors whose shapes do not fit together."""


class CapabilityError(ToolkitError):
    """A request that a mechanism or backend declares it cannot meet."""


class SourceError(ToolkitError):
    """Data or weights that could not be fetched, or are not what they should be."""


class DataError(ToolkitError):
    """Data that was fetched but cannot be read as what it claims to be."""


class CheckpointError(ToolkitError):
    """A checkpoint that is truncated, foreign, or carries more than plain data."""


class RunError(ToolkitError):
    """A run directory in the wrong state, or a run that cannot go on."""


class ToolkitWarning(UserWarning):
    """Something that was done, and that a user may not have meant; the command line shows it as one line."""


def together(errors: Sequence[RecipeError]) -> RecipeError:
    """Return one error that tells all of them."""
    return errors[0] if len(errors) == 1 else RecipeMistakesError(errors)


def nearest(given: str, known: Iterable[str]) -> str:
    """Return the clause that ends an unknown-name message: the nearest known name, and all of them when few."""
    names = sorted(known)
    close = get_close_matches(given, names, n=1, cutoff=0.5)
    clause = f" Did you mean {close[0]!r}?" if close else ""
    if not names:
        return clause + " None are known here."
    if len(names) <= 24:
        return f"{clause} Known: {', '.join(names)}."
    return f"{clause} {len(names)} are known."
