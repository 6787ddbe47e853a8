"""What is tested: a registered mechanism, the options it is tested with, and what it declares."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from toolkit.attention import backends
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.feature_maps import FeatureAttention, FeatureReader
from toolkit.attention.mechanism import Mechanism
from toolkit.attention.pairwise import Pairwise
from toolkit.errors import ToolkitError
from toolkit.plugins import Toolkit, current_toolkit
from toolkit.registry import Entry
from toolkit.testing.case import Case
from toolkit.testing.patterns import ON_EDGES

COVERED = ("dense", "edges", "map")
_SLOW = ("flex",)  # outside CUDA it maps its pattern pair by pair, which takes some twenty times as long as the others


@dataclass(frozen=True)
class Subject:
    """A mechanism's class under a name, with the options to test it with: its `examples`, or none."""

    name: str
    target: type[Mechanism]
    examples: tuple[dict[str, Any], ...] = field(default=({},))

    @classmethod
    def of(cls, name: str, target: type[Mechanism]) -> Subject:
        """Return a class as a subject. Its attribute or class method `examples` lists the options to test it with."""
        examples = getattr(target, "examples", None)
        examples = examples() if callable(examples) else examples
        return cls(name, target, tuple(dict(each) for each in examples) if examples else ({},))

    def variants(self) -> list[Subject]:
        """Return this mechanism once an example: what it declares may depend on its options."""
        return [replace(self, examples=(each,)) for each in self.examples]

    @cached_property
    def declared(self) -> Capabilities:
        """What it declares, built with the first of its examples."""
        return self._built[0]

    @property
    def not_built(self) -> str:
        """Why it cannot be built with the first of its examples; an empty string if it can."""
        return self._built[1]

    @cached_property
    def _built(self) -> tuple[Capabilities, str, bool]:
        sizes = {"dim": 4} if issubclass(self.target, FeatureAttention) else {"heads": 2, "dim": 4}
        try:
            made = self.target(**sizes, **self.examples[0])
            return made.capabilities, "", bool(getattr(made, "positional", made.capabilities.positional))
        except Exception as error:
            what = f"{', '.join(f'{name}={size}' for name, size in sizes.items())} and {self.examples[0]}"
            why = f"it cannot be built with {what}: {type(error).__name__}: {error}. `examples` may list its options"
            return self.target.capabilities, why, bool(self.target.capabilities.positional)

    @property
    def on_maps(self) -> bool:
        """Whether it attends on feature maps: `toolkit.testing.maps` says what each check means there."""
        return issubclass(self.target, FeatureAttention | FeatureReader)

    @property
    def pairwise(self) -> bool:
        return issubclass(self.target, Pairwise)

    @property
    def positional(self) -> bool:
        """Whether places matter to it, as the mechanism itself says when it is built with its first example."""
        return self._built[2]

    def layouts(self) -> list[Any]:
        """Return the layouts that it declares and the kit knows."""
        return [layout for layout in COVERED if layout in self.declared.layouts]

    def backends(self) -> list[str]:
        """Return the backends to ask for; those that will not run a request refuse it."""
        return backends.names() if self.pairwise else ["auto"]

    def takes(self, option: str) -> bool:
        """Tell whether its constructor has an option."""
        return option in inspect.signature(self.target).parameters

    @property
    def needs_options(self) -> bool:
        """Tell whether it cannot be built with `heads` and `dim` alone."""
        parameters = inspect.signature(self.target).parameters.values()
        return any(each.default is each.empty and each.name not in ("heads", "dim") for each in parameters)

    def lengths(self) -> list[tuple[int, int]]:
        """Return numbers of queries and keys to try: equal ones, and fewer and more queries where it declares that."""
        return [(4, 4), (3, 5), (5, 3)] if self.declared.cross else [(4, 4)]

    def cases(self, *patterns: str, each_backend: bool = False, **settings: Any) -> Iterator[Case]:
        """Return cases over its layouts, examples and lengths, for the patterns that belong to a layout.

        each_backend: the same for every backend; slow ones get each pattern with one of the lengths, in turn.
        settings: further fields of `Case`.
        """
        for layout in self.layouts():
            for options in self.examples:
                for place, pattern in enumerate(patterns):
                    if (layout == "edges") != (pattern.partition(" ")[0] in ON_EDGES):
                        continue
                    if "causal" in pattern and not self.declared.causal:
                        continue
                    lengths = self.lengths()
                    for turn, (queries, keys) in enumerate(lengths):
                        case = Case(layout=layout, pattern=pattern, queries=queries, keys=keys, options=options)
                        for backend in self.backends() if each_backend else ["auto"]:
                            if backend not in _SLOW or turn == (place + 1) % len(lengths):
                                yield replace(case, backend=backend, **settings)


def subject(name: str, toolkit: Toolkit | None = None) -> Subject:
    """Return the mechanism that is registered under a name. Raises: UnknownNameError; PluginError if it is none."""
    entry = (toolkit or current_toolkit()).registry.get("attention", name)
    return Subject.of(name, entry.load())


def not_covered(entry: Entry) -> str:
    """Say why the kit cannot test a registered name; an empty string if it can."""
    try:
        target = entry.load()
    except ToolkitError as error:
        return str(error)
    if not (isinstance(target, type) and issubclass(target, Mechanism | FeatureAttention | FeatureReader)):
        return f"{entry.target} is no subclass of toolkit.attention.Mechanism, nor of attention on feature maps"
    if not (layouts := set(target.capabilities.layouts)) & set(COVERED):
        return f"its layout is {', '.join(sorted(layouts)) or 'none'}, and the kit knows {', '.join(COVERED)}"
    return ""


def chosen(names: list[str], toolkit: Toolkit | None = None) -> list[Entry]:
    """Return the entries that names stand for: a plugin's name for all its mechanisms, else a mechanism's.

    Raises: UnknownNameError for a name that is neither, or a plugin without mechanisms.
    """
    registry = (toolkit or current_toolkit()).registry
    found: dict[str, Entry] = {}
    for name in names:
        owned = [entry for entry in registry.all("attention") if entry.plugin == name]
        found |= {entry.full_name: entry for entry in owned or [registry.get("attention", name)]}
    return list(found.values())
