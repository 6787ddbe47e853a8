"""Patterns that ask another one: they forward what they do not change."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from toolkit.attention.pattern import Lengths, Pattern


@dataclass(frozen=True, eq=False)
class Wrapped(Pattern):
    """Base of dataclass patterns around `base`; tensors in their own fields move between devices with it."""

    base: Pattern

    def inner(self, shape: Lengths) -> Lengths:
        """Return the sizes that `base` is asked about."""
        return shape

    def beside(self, own: Pattern) -> Pattern:
        return self.base.beside(own)

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return self.base.per_sample

    @property
    def per_head(self) -> bool:  # type: ignore[override]
        return self.base.per_head

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        self.base.check(batch, heads, self.inner(shape))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        moved: dict[str, Any] = {"base": self.base.to(device, non_blocking)}
        for field in fields(self):
            if isinstance(own := getattr(self, field.name), Tensor):
                moved[field.name] = own.to(device, non_blocking=non_blocking)
        return replace(self, **moved)
