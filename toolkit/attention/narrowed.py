"""Scaled dot-product attention that sees only what a pattern of its own allows too."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

from toolkit.attention.call import Call
from toolkit.attention.pattern import Pattern
from toolkit.attention.scaled_dot_product import ScaledDotProduct


class Narrowed(ScaledDotProduct):
    """Base of mechanisms whose own pattern is joined by & to the caller's, which says what is causal or padded."""

    @abstractmethod
    def own_pattern(self, call: Call) -> Pattern:
        """Return who may look at whom; positions are aligned bottom-right, and since the start, as in any pattern."""

    def prepare(self, call: Call) -> Call:
        call = super().prepare(call)
        own, given = self.own_pattern(call), call.pattern
        return replace(call, pattern=own if given is None else given.beside(own) & given)
