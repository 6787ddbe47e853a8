"""Sections that an override made name another thing, and what becomes of the keys that belonged to the old one."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from toolkit.errors import ToolkitWarning
from toolkit.yamlfile import shown


@dataclass(frozen=True)
class Swap:
    """An override such as `attention=gatv2`, which keeps the keys of the section that the new thing takes as well.

    place: the override. old: what the section named before. inherited: the keys that the recipe itself had given to the
    old thing. A key that another override gives is meant for the new one, and is an error if that does not take it.
    """

    place: str
    old: str
    inherited: frozenset[str]

    def changed(self, change: Any, now: str) -> Swap | None:
        """Return what is left of the swap after a change of its section, which names `now`."""
        if not isinstance(change, dict) or change.get("use", now) != now:
            return None
        return replace(self, inherited=self.inherited - set(change))

    def fit(self, given: Mapping[str, Any], name: str, takes: Collection[str]) -> dict[str, Any]:
        """Return the keys of the section that the new thing is given, and warn of those that it does not take."""
        kept = {key: value for key, value in given.items() if key not in self.inherited or key in takes}
        left = {key: value for key, value in given.items() if key not in kept}
        if left:
            also = f"; kept {shown(kept)}" if kept else ""
            told = f"{self.place}: left out {shown(left)} of {self.old!r}, which {name!r} does not take{also}"
            warnings.warn(ToolkitWarning(told), stacklevel=3)
        return kept
