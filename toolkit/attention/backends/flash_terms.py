"""A pattern in the terms that flash-attn's kernels know: one window, and either padding or packed segments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.attention.call import Call
from toolkit.attention.pattern import AllOf, Full, Lengths, Padding, Pattern, Segments, Window, describe


@dataclass(frozen=True)
class FlashTerms:
    """window: sides as `window` takes them. Shapes: padding (B,) lengths, segments (B, L) ids in runs."""

    window: tuple[int | None, int | None]
    padding: Tensor | None = None
    segments: Tensor | None = None

    @property
    def causal(self) -> bool:
        return self.window[1] == 0

    @property
    def sides(self) -> tuple[int, int]:
        """The window as flash-attn takes it: -1 is without limit, both ends count, aligned bottom-right."""
        left, right = (-1 if side is None else side for side in self.window)
        return left, right


def read(call: Call, *, sloped: bool) -> FlashTerms | str:
    """Return the terms of a dense call's pattern, or why it has none. sloped: whether ALiBi's bias is added."""
    shape, device = Lengths(call.queries, call.k.shape[2]), call.q.device
    left: int | None = None
    right: int | None = None
    lengths: Tensor | None = None
    ids: Tensor | None = None
    for part in _parts(call.pattern):
        if isinstance(part, Full):
            continue
        if isinstance(part, Window):
            left, right = _nearer(left, part.left), _nearer(right, part.right)
        elif isinstance(part, Padding) and lengths is None:
            lengths = part.lengths.to(device)
        elif isinstance(part, Segments) and part.ids is part.key_ids and ids is None:
            ids = part.ids.to(device)
        else:
            return f"its kernels know one window, padding and segments of one sequence, not {describe(call.pattern)}"
        part.check(call.q.shape[0], call.q.shape[1], shape)
    if ids is not None and lengths is not None:
        return "its kernels know padding or segments, not both at once"
    if ids is not None and not _in_runs(ids):
        return "some segment comes back after another one, and its kernels want the tokens of each in a row"
    if lengths is not None:
        causal = (left, right) == (None, 0) and shape.queries == shape.keys
        if (left, right) != (None, None) and not causal:
            return "beside padding it has full patterns, and causal ones of as many queries as keys"
        if sloped:
            return "it counts ALiBi's distances from the last key that is no padding"
    return FlashTerms((left, right), lengths, ids)


def _parts(pattern: Pattern | None) -> list[Pattern]:
    if isinstance(pattern, AllOf):
        return [each for part in pattern.parts for each in _parts(part)]
    return [] if pattern is None else [pattern]


def _nearer(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _in_runs(ids: Tensor) -> bool:
    """Tell whether equal ids of a sample follow one another. Shapes: ids (B, L)."""
    runs, different = ((x[:, 1:] != x[:, :-1]).sum(1) for x in (ids, ids.sort(1).values))
    return bool(torch.equal(runs, different))
