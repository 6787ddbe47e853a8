"""Luong's global and local attention. Luong et al. 2015, arXiv:1508.04025, sec. 3.1 and 3.2."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toolkit.attention.call import Call, checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.dot import LUONG
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.pairwise import Pairwise, head_dot, head_linear
from toolkit.attention.pattern import Lengths, full
from toolkit.attention.wrapped import Wrapped
from toolkit.binding import Positive
from toolkit.errors import CapabilityError


class Luong(Pairwise):
    """Global attention, or local attention around one aligned position p_t for each query.

    score: `dot` q . k, `general` q . W k, `concat` v . tanh(W [q; k]).
    local: `none` looks at all keys, on sequences and edges. `monotonic` looks at the keys from t - D to t + D, where t
    counts queries from 0, whatever the number of keys; t goes on from `state`, the number of queries before, so that
    a decoder may ask one step at a time. `predictive` learns p_t = S * sigmoid(v_p . tanh(W_p q)), and multiplies the
    softmax over the keys from p_t - D to p_t + D by exp(-(j - p_t)^2 / (2 (D / 2)^2)); weights then add up to at most
    one. S is one past the last key that the query may look at (under `padding`, the sample's own length), and p_t
    starts from the first. window: D of local attention, 10 if it is not given.
    Shapes: weight W (H, D, D) or (H, 2 D, D) for concat, vector v (H, D), position_weight W_p (H, D, D),
    position_vector v_p (H, D). state: int.
    Raises: CapabilityError for local attention on edges. Source: arXiv:1508.04025, eq. 7 to 10.
    """

    name = "luong"
    capabilities = Capabilities(
        cost="L^2 D (dense), E D^2 (edges)", paper=LUONG, equation="softmax_j score(q_i, k_j) [local: * Gaussian]"
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"score": "concat", "local": "predictive", "window": 3})

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        score: Literal["dot", "general", "concat"] = "general",
        local: Literal["none", "monotonic", "predictive"] = "none",
        window: Positive | None = None,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        for what, given, known in (
            ("score", score, ("dot", "general", "concat")),
            ("local", local, ("none", "monotonic", "predictive")),
        ):
            if given not in known:
                raise ValueError(f"luong knows {what} {', '.join(known)}, but {given!r} was given")
        if window is not None and local == "none":
            raise ValueError(
                f"luong has a window with local='monotonic' or 'predictive' only, but window={window} was given with "
                "local='none', which looks at all keys"
            )
        if window is not None and window < 1:
            raise ValueError(f"luong wants a window of 1 or more keys to each side, but {window} was given")
        self.form, self.local, self.window = score, local, 10 if window is None else window
        if score != "dot":
            self.weight = nn.Parameter(torch.empty(heads, dim * (2 if score == "concat" else 1), dim))
        if score == "concat":
            self.vector = nn.Parameter(torch.empty(heads, dim))
        if local == "predictive":
            self.position_weight = nn.Parameter(torch.empty(heads, dim, dim))
            self.position_vector = nn.Parameter(torch.empty(heads, dim))
        if local != "none":
            self.capabilities = replace(
                type(self).capabilities,
                layouts=frozenset({"dense"}),
                positional=True,
                state="queries" if local == "monotonic" else "none",
                sums=None if self.normalizer.sums == "any" else "below_one",  # windows may lie past the keys
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            for weight in parameter if parameter.dim() == 3 else [parameter]:
                nn.init.xavier_uniform_(weight)

    @property
    def pair_width(self) -> int:
        return self.dim if self.form == "concat" else 1

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        if self.form == "concat":
            on_query, on_key = self.weight.split(self.dim, 1)  # W [q; k] is the sum of two maps
            return head_dot(torch.tanh(head_linear(q, on_query) + head_linear(k, on_key)), self.vector)
        return (q * self._keys(k)).sum(-1)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        if self.form == "concat":
            return super().scores(q, k)
        return q @ self._keys(k.transpose(1, 2)).permute(0, 2, 3, 1)

    def _keys(self, k: Tensor) -> Tensor:
        return head_linear(k, self.weight.transpose(1, 2)) if self.form == "general" else k

    def attend(self, request: Request) -> AttentionOutput:
        output = super().attend(self._narrowed(request))
        return replace(output, state=(request.state or 0) + request.q.shape[2]) if self.local == "monotonic" else output

    def weighed(self, request: Request) -> Call | None:
        return self.read(self._narrowed(request))

    def _narrowed(self, request: Request) -> Request:
        """Return the request with the keys around each center as its pattern. Raises: CapabilityError."""
        if self.local == "none":
            return request
        state = request.state
        if state is not None and (self.local != "monotonic" or isinstance(state, bool) or not isinstance(state, int)):
            takes = "the number of queries before, an int" if self.local == "monotonic" else "none"
            raise CapabilityError(f"luong with local={self.local!r} takes as state {takes}, not {type(state).__name__}")
        if request.q.dim() == 3:
            raise CapabilityError(f"luong with local={self.local!r} needs sequences; on edges local='none' works")
        call, before = checked(request, self), state or 0
        if self.local == "monotonic":
            center = torch.arange(before, before + call.queries, device=call.q.device)[None, None]
            return replace(request, pattern=Near(call.pattern or full(), self.window, center), state=None)
        first, length = _reach(call)
        center = self._center(call.q, first, length).detach()
        return replace(request, pattern=Near(call.pattern or full(), self.window, center, first, length))

    def _center(self, q: Tensor, first: Tensor, length: Tensor) -> Tensor:
        """Return p_t. Shapes: q (B, H, R, D), first and length broadcast to (B, H, R) -> (B, H, R)."""
        inner = torch.tanh(head_linear(q.transpose(1, 2), self.position_weight))
        share = torch.sigmoid(head_dot(inner, self.position_vector)).transpose(1, 2)
        return first + length * share.to(torch.promote_types(share.dtype, torch.float32))

    def reweigh(self, weights: Tensor, call: Call, rows: Tensor | None = None) -> Tensor:
        if self.local != "predictive":
            return weights
        near = call.pattern
        assert isinstance(near, Near)
        assert near.first is not None
        assert near.length is not None
        first, length = (x if rows is None else x[:, :, rows] for x in (near.first, near.length))
        places = torch.arange(weights.shape[-1], device=weights.device)
        distance = places - self._center(call.q, first, length)[..., None]
        return weights * (-2 * (distance / self.window).square()).exp().to(weights.dtype)  # sigma = D / 2

    def refusal(self, backend: str, call: Call) -> str | None:
        if self.local != "none" and backend not in ("reference", "rows"):
            return f"it cannot do local={self.local!r}"
        return None

    def extra_repr(self) -> str:
        window = "" if self.local == "none" else f", window={self.window}"
        return f"{super().extra_repr()}, score={self.form!r}, local={self.local!r}{window}"


@dataclass(frozen=True, eq=False)
class Near(Wrapped):
    """The keys at most `window` from each query's center, as far as `base` allows them.

    Shapes: center (B or 1, H or 1, Lq); first and length, for a center that is predicted, broadcast to it.
    """

    window: int
    center: Tensor
    first: Tensor | None = None
    length: Tensor | None = None

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return self.center.shape[0] > 1 or self.base.per_sample

    @property
    def per_head(self) -> bool:  # type: ignore[override]
        return self.center.shape[1] > 1 or self.base.per_head

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        samples, heads, _ = self.center.shape
        center = self.center[b if samples > 1 else b * 0, h if heads > 1 else h * 0, i]
        return ((j - center).abs() <= self.window) & self.base.allowed(b, h, i, j, shape)


def _reach(call: Call) -> tuple[Tensor, Tensor]:
    """Return the first key that each row may look at, and how far it is to one past the last. Shapes: (B, H, Lq)."""
    keys, device = call.k.shape[2], call.q.device
    place = torch.arange(1, keys + 1, device=device)
    firsts, lasts = [], []
    for rows in torch.arange(call.queries, device=device).split(256):
        mask = call.mask(rows)
        if mask is None:
            mask = torch.ones(1, 1, len(rows), keys, dtype=torch.bool, device=device)
        lasts.append((mask * place).amax(-1) if keys else mask.new_zeros(mask.shape[:3], dtype=torch.long))
        firsts.append(keys - (mask * place.flip(0)).amax(-1) if keys else lasts[-1])
    first, last = torch.cat(firsts, 2), torch.cat(lasts, 2)
    return first, (last - first).clamp_min(0)  # a row that may look at nothing has a first past its last
