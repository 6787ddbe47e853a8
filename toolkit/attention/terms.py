"""What a pattern says, in the few terms that a mechanism without a score for each pair can answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toolkit.attention.call import Call
from toolkit.attention.mechanism import Mechanism
from toolkit.attention.pattern import AllOf, Dense, Full, Lengths, Padding, Pattern, Segments, Window, describe
from toolkit.errors import CapabilityError


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A pattern as the conjunction of three terms.

    causal: no query looks ahead. Shapes: keys (B or 1, H or 1, Lk) bool, the keys that may be looked at, None for all;
    segments (B, L) integers, where both ends of a pair carry the same, None for one segment.
    """

    causal: bool = False
    keys: Tensor | None = None
    segments: Tensor | None = None


def read(call: Call, mechanism: Mechanism, *, segments: bool = False) -> Terms:
    """Read the pattern of a dense call. Raises: CapabilityError for what cannot be said in terms, ShapeError."""
    terms = Terms()
    shape = Lengths(call.queries, call.k.shape[2])
    for part in _parts(call.pattern):
        found = _term(part, call)
        if (
            found is None
            or (found.causal and not mechanism.capabilities.causal)
            or (found.segments is not None and (not segments or terms.segments is not None))
        ):
            able = ["full()", "padding(lengths)", "a dense mask that is the same for all queries"]
            able += ["causal()"] * mechanism.capabilities.causal + ["segments(ids) of one sequence"] * segments
            raise CapabilityError(
                f"{mechanism.name} was given the pattern {describe(call.pattern)}, but it never forms the score of a "
                f"pair, so it answers {', '.join(able)}, and these joined by &; scaled_dot_product answers any pattern"
            )
        part.check(call.q.shape[0], call.q.shape[1], shape)
        keys = found.keys if terms.keys is None or found.keys is None else terms.keys & found.keys
        terms = replace(
            terms,
            causal=terms.causal or found.causal,
            keys=terms.keys if keys is None else keys,
            segments=terms.segments if found.segments is None else found.segments,
        )
    return terms


def refuse(mechanism: Mechanism, *requests: tuple[bool, str, str]) -> None:
    """Raise CapabilityError for the first request that was made: (whether it was, what it is, why it cannot be)."""
    for made, what, reason in requests:
        if made:
            raise CapabilityError(f"{mechanism.name} was given {what}, but {reason}")


def _parts(pattern: Pattern | None) -> list[Pattern]:
    if isinstance(pattern, AllOf):
        return [each for part in pattern.parts for each in _parts(part)]
    return [] if pattern is None else [pattern]


def _term(part: Pattern, call: Call) -> Terms | None:
    device = call.q.device
    if isinstance(part, Full) or part == Window(None, None):
        return Terms()
    if part == Window(None, 0):
        return Terms(causal=True)
    if isinstance(part, Padding):
        position = torch.arange(call.k.shape[2], device=device)
        return Terms(keys=(position < part.lengths.to(device)[:, None])[:, None])
    if isinstance(part, Dense) and part.table.shape[2] == 1:
        return Terms(keys=part.table[:, :, 0].to(device))
    if isinstance(part, Segments) and part.ids is part.key_ids:
        return Terms(segments=part.ids.to(device))
    return None
