"""What a mechanism can do, as data that can be printed, compared and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from toolkit.errors import CapabilityError

Layout = Literal["dense", "edges", "map"]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a mechanism declares; anything it does not declare, it refuses.

    layouts: `dense` is q (B, H, L, D), `edges` is q (N, H, D) over the edges of a graph, `map` is feature maps
    (B, C, H, W), for which `toolkit.attention.feature_maps` says what is given and comes back.
    weights: `exact` weights reproduce the output, a `proxy` only describes it, `none` has nothing to show.
    sums: what the weights of a row that may look at something add up to: `one`, at most one (`below_one`), or `any`.
    None is what the normaliser of a pairwise mechanism says, and unknown for any other.
    exactness: `exact`, or `approximate` when the mechanism only estimates the function that its paper defines.
    approximates: the registered name of that function; an approximate mechanism says it, and `error`.
    error: the largest part that is missed of what attention adds to the plain mean of the values, |found - exact| /
    |mean - exact|, as measured over draws with L = 64, D = 16, standard normal v, and normal q, k of deviation 1/2. The
    mean itself scores 1, so who declares that much, or more, approximates nothing and is refused; zeros score 4.5.
    error_at: the option that buys accuracy, and the value of it with which `error` was measured, such as
    ("features", 4096); with a quarter of that more is missed. None: the default options.
    positional: whether the places of queries and keys matter beyond the pattern. Without it, permuting them permutes
    the output. None means: where `position_bias` is overridden.
    gradient: `exact`, or an `estimate` of it, as for discrete choices.
    state: what a call with `state` goes on from: the `keys` and values of the calls before (one token of q, k and v at
    a time, as in recurrent decoding), or the `queries` before (every call is given all keys, as in location-aware
    attention), or the `segments` before (memory that is read apart: parts of a sequence do not give what the whole
    would). `none`: it refuses a state.
    double_backward: on the named backends a second derivative is defined; the others raise.
    compiles, exports: layouts on which torch.compile and torch.export take it as one graph.
    cost: multiplications as a function of the length L (dense) or the number of edges E.
    """

    layouts: frozenset[Layout] = frozenset({"dense", "edges"})
    causal: bool = True
    cross: bool = True
    weights: Literal["exact", "proxy", "none"] = "exact"
    sums: Literal["one", "below_one", "any"] | None = None
    exactness: Literal["exact", "approximate"] = "exact"
    approximates: str = ""
    error: float | None = None
    error_at: tuple[str, int] | None = None
    positional: bool | None = None
    gradient: Literal["exact", "estimate"] = "exact"
    state: Literal["none", "keys", "queries", "segments"] = "none"
    batch_independent: bool = True
    double_backward: frozenset[str] = frozenset({"reference"})
    compiles: frozenset[Layout] = frozenset()
    exports: frozenset[Layout] = frozenset()
    devices: frozenset[str] = frozenset({"cpu", "cuda"})
    cost: str
    paper: str
    equation: str

    def __post_init__(self) -> None:
        if self.error is not None and not 0 <= self.error < 1:
            raise ValueError(
                f"an approximation declares an error from 0 to below 1, which the mean of the values scores, but "
                f"{self.error} was given; what is no closer is a function of its own, and `exact`"
            )


def require(declared: Capabilities, name: str, alternatives: Mapping[str, Capabilities], **wanted: Any) -> None:
    """Raise CapabilityError unless `declared` meets every wanted field, naming the alternatives that do.

    Set-valued fields are met when they contain what is wanted (`layouts="edges"`), the others when they are equal.
    Raises: CapabilityError; ValueError if a wanted field does not exist.
    """
    known = {field.name for field in fields(Capabilities)}
    if unknown := set(wanted) - known:
        raise ValueError(f"no capability is called {sorted(unknown)}; known: {sorted(known)}")

    def unmet(offered: Capabilities) -> list[str]:
        return [key for key, value in wanted.items() if not _meets(getattr(offered, key), value)]

    if missing := unmet(declared):
        wants = ", ".join(f"{key}={wanted[key]!r}" for key in missing)
        works = sorted(other for other, offered in alternatives.items() if not unmet(offered))
        hint = f"What can: {', '.join(works)}." if works else "No registered mechanism that was looked at can."
        raise CapabilityError(f"attention {name!r} does not support {wants}. {hint}")


def _meets(offered: Any, wanted: Any) -> bool:
    return wanted in offered if isinstance(offered, frozenset) else bool(offered == wanted)
