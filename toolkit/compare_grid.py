"""The variants of a recipe that overrides with several values span, each resolved, or with the reason why it cannot be.

grid = span("gat_cora", ["attention=gat,gatv2", "trainer.max_epochs=50"], toolkit)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit import recipe as recipes
from toolkit.errors import RecipeError, ToolkitError, ToolkitWarning
from toolkit.plugins import Toolkit
from toolkit.pool import devices_of
from toolkit.recipe import OVERRIDE, Recipe
from toolkit.resolve import Resolved, resolve
from toolkit.seed_runs import BESIDE_THE_POINT

CLOSING = {"[": "]", "{": "}"}
QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""")
"""A quoted text of YAML."""


@dataclass(frozen=True)
class Variant:
    """One value of each key that varies, as they were typed.

    resolved: the recipe with them; None if it cannot be resolved, for `reason`. notes: what swapping a mechanism left
    out of its section.
    """

    values: dict[str, str]
    resolved: Resolved | None
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return " ".join(f"{key}={text}" for key, text in self.values.items())

    @property
    def file(self) -> str:
        """A file name of its own, without an ending: the label as far as a file may be called that, and its sha256."""
        return f"{re.sub(r'[^A-Za-z0-9._=-]+', '_', self.label)[:60]}-{_sha256(self.values)[:6]}"


@dataclass(frozen=True)
class Grid:
    """All variants of one recipe. keys: what varies. overrides: what does not. seed: the first one."""

    recipe: Recipe
    overrides: list[str]
    keys: list[str]
    variants: list[Variant]
    seed: int

    @property
    def basis(self) -> dict[str, Any]:
        """What two commands share whose results may stand in one table."""
        document = {key: value for key, value in self.recipe.document.items() if key not in BESIDE_THE_POINT}
        overrides = [override for override in self.overrides if override.partition("=")[0].strip() != "seed"]
        return {"name": self.recipe.name, "document": document, "overrides": overrides, "keys": self.keys}

    @property
    def name(self) -> str:
        """The recipe's name and a hash that tells its comparisons apart."""
        return f"{self.recipe.name}-{_sha256(self.basis)[:8]}"


def span(name: str, overrides: Sequence[str], toolkit: Toolkit, *, smoke: bool = False) -> Grid:
    """Resolve a recipe with every combination of the values that overrides give.

    Raises: RecipeError if no override has several values, or one cannot be read; what a value does to the recipe is
    told by its variant.
    """
    recipe = recipes.load(name, toolkit, smoke=smoke)
    given = [_parted(override) for override in overrides]
    keys = [key for key, texts in given if len(texts) > 1]
    fixed = [f"{key}={texts[0]}" for key, texts in given if len(texts) == 1]
    if not keys:
        raise RecipeError(
            "nothing to compare: no override has several values. Write them with commas between, for example "
            "attention=gat,gatv2"
        )
    for key, texts in given:
        if key == "seed" and len(texts) > 1:
            raise RecipeError(
                f"{OVERRIDE}'seed={','.join(texts)}': every value is trained with every seed anyway; "
                f"--seeds {len(texts)} takes as many, from the recipe's own on, or from seed=N"
            )
        again = sorted({text for text in texts if texts.count(text) > 1})
        if again or keys.count(key) > 1:
            what = f"the value {again[0]!r} is" if again else "values are"
            raise RecipeError(f"{OVERRIDE}'{key}=...': {what} given twice for {key}; give each once")
    variants = [
        _variant(recipe, [(key, text) for (key, _), text in zip(given, chosen, strict=True)], keys)
        for chosen in itertools.product(*(texts for _, texts in given))
    ]
    seeds = [variant.resolved.seed for variant in variants if variant.resolved is not None]
    return Grid(recipe, fixed, keys, variants, seeds[0] if seeds else recipe.seed)


def split_values(text: str) -> list[str]:
    """Return the values that commas part; those inside [...], {...} and quotes belong to their value, as in YAML."""
    values, current = [], ""
    opened: list[str] = []
    position = 0
    while position < len(text):
        letter = text[position]
        begins = not current.strip() or (bool(opened) and current.rstrip()[-1] in ",:[{")
        quoted = QUOTED.match(text, position) if begins else None  # elsewhere a quote is a letter: it's
        if letter == "," and not opened:
            values.append(current.strip())
            current = ""
        else:
            if letter in CLOSING and (begins or opened):
                opened.append(CLOSING[letter])
            elif opened and letter == opened[-1]:
                opened.pop()
            current += quoted[0] if quoted else letter
        position += len(quoted[0]) if quoted else 1
    return [*values, current.strip()]


def _parted(override: str) -> tuple[str, list[str]]:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(
            f"{OVERRIDE}{override!r}: write it as section.key=value, or with several values, as in attention=gat,gatv2"
        )
    texts = split_values(text)
    if len(texts) > 1 and "" in texts:
        raise RecipeError(
            f"{OVERRIDE}{override!r}: a value is empty; write an empty text as '', and no comma at the end"
        )
    return key.strip(), texts if len(texts) > 1 else [text]


def _variant(recipe: Recipe, chosen: list[tuple[str, str]], keys: list[str]) -> Variant:
    values = {key: text for key, text in chosen if key in keys}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ToolkitWarning)
        try:
            resolved = resolve(recipe.with_overrides([f"{key}={text}" for key, text in chosen]))
            devices_of(resolved.trainer)
        except ToolkitError as error:
            return Variant(values, None, str(error))
    notes = [str(each.message) for each in caught if issubclass(each.category, ToolkitWarning)]
    return Variant(values, resolved, notes=tuple(notes))


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
