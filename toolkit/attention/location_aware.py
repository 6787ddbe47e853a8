"""Additive attention that also sees where it looked before. Chorowski et al. 2015, arXiv:1506.07503."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.backends import reference
from toolkit.attention.call import Call, checked, dropout_rate
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.explicit import answer
from toolkit.attention.mechanism import AttentionOutput, Mechanism, Request
from toolkit.attention.normalizers import NORMALIZERS
from toolkit.attention.pairwise import head_dot
from toolkit.binding import Positive, PositiveFloat, Probability
from toolkit.errors import CapabilityError, ShapeError


class LocationAware(Mechanism):
    """score_ij = w . tanh(q_i + k_j + U f_ij + b), where f_i = F * a_(i-1): the weights of the query before, convolved.

    Queries are answered one after another. `state` carries the weights of the last one to the next call, so one call
    of several queries is the same as several calls of one. Without a state the weights before the first query are 0, or
    with start=`uniform` alike on all keys that the first query may look at. Keys that were appended since have had
    weight 0. A query that may look at nothing hands on weights of 0. Each head follows its own weights.
    channels, width: how many filters, and over how many keys each reaches (odd, centered on the key). sharpening: the
    factor before the score. smoothing: weigh by sigmoid(score) instead of exp(score). dropout: rate at which weights
    are dropped in training; the weights that are handed on are whole.
    Shapes: weight w (H, D), offset b (H, D), filters F (H, channels, width), location U (H, D, channels);
    state (B, H, Lk). Raises: ValueError for an even width.
    Source: arXiv:1506.07503, eq. 8 and 9; sharpening and smoothing sec. 2.3; `zeros` is ours: the paper names no start.
    """

    name = "location_aware"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        sums="one",
        positional=True,
        state="queries",
        cost="L^2 (D channels + channels width), one query after another",
        paper="Chorowski et al. 2015, Attention-Based Models for Speech Recognition, arXiv:1506.07503",
        equation="softmax_j w . tanh(q_i + k_j + U (F * a_(i-1))_j + b)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"channels": 2, "width": 3},)

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        channels: Positive = 10,
        width: Positive = 201,
        start: Literal["zeros", "uniform"] = "zeros",
        sharpening: PositiveFloat = 1.0,
        smoothing: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(heads=heads, dim=dim)
        if channels < 1 or width < 1 or width % 2 == 0:
            raise ValueError(f"location_aware wants channels and an odd width, but {channels} and {width} were given")
        if start not in ("zeros", "uniform"):
            raise ValueError(f"location_aware starts from 'zeros' or 'uniform', but {start!r} was given")
        if not sharpening > 0 or not 0 <= dropout < 1:
            raise ValueError(
                f"location_aware wants a positive sharpening and a dropout from 0 to below 1, but {sharpening} and "
                f"{dropout} were given"
            )
        self.start, self.sharpening, self.smoothing, self.dropout = start, sharpening, smoothing, dropout
        self.weight, self.offset = nn.Parameter(torch.empty(heads, dim)), nn.Parameter(torch.empty(heads, dim))
        self.filters = nn.Parameter(torch.empty(heads, channels, width))
        self.location = nn.Parameter(torch.empty(heads, dim, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.weight, self.filters, *self.location):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.offset)

    def attend(self, request: Request) -> AttentionOutput:
        call, looked = checked(request, self, dropout_rate(self)).quarantined()
        before = self._before(call, request.state)
        if not call.queries or not call.k.shape[2]:
            lse = call.q.new_full(call.q.shape[:3], -torch.inf)
            return answer(self, call, lse.new_zeros(*lse.shape, call.k.shape[2]), lse, state=before)
        # NaN weights of one query make all later ones NaN; followed apart, their zero gradients stay zero
        poisoned = before.isnan().any(-1)
        before, key = before.nan_to_num(0.0), call.k + self.offset[:, None]
        weights: list[Tensor] = []
        lses: list[Tensor] = []
        poison: list[Tensor] = []
        for row in range(call.queries):
            place = torch.tensor([row], device=call.q.device)
            before, lse, blind = self._step(call.rows(place), key, before, place)
            poisoned = poisoned & ~blind
            poisoned = poisoned if looked is None else poisoned | looked[:, :, row]
            for found, each in ((weights, before), (lses, lse), (poison, poisoned)):
                found.append(each)
        state = before.masked_fill(poisoned[..., None], float("nan"))
        return answer(self, call, torch.stack(weights, 2), torch.stack(lses, 2), torch.stack(poison, 2), state=state)

    def _step(self, call: Call, key: Tensor, before: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer one query. Shapes: q (B, H, 1, D), before (B, H, Lk) -> weights (B, H, Lk), lse and blind (B, H)."""
        heads, channels, width = self.filters.shape
        filters = self.filters.reshape(heads * channels, 1, width)
        seen = F.conv1d(before.to(filters.dtype), filters, padding=width // 2, groups=heads)
        place = torch.einsum("bhcl,hdc->bhld", seen.unflatten(1, (heads, channels)), self.location)
        inner = torch.tanh(call.q + key + place).transpose(1, 2)
        scores = head_dot(inner, self.weight).transpose(1, 2)[:, :, None] * self.sharpening
        scores = scores if call.bias is None else scores + call.bias
        scores = F.logsigmoid(scores) if self.smoothing else scores  # softmax of it is sigmoid over its sum
        weights, lse = reference.normalized_call(scores, call, NORMALIZERS["softmax"], None, row)
        assert lse is not None
        return weights.squeeze(2), lse.squeeze(2), (lse == -torch.inf).squeeze(2)

    def _before(self, call: Call, state: Any) -> Tensor:
        """Return the weights of the query before the first. Shapes: (B, H, Lk)."""
        batch, heads, queries, _ = call.q.shape
        keys = call.k.shape[2]
        if state is not None:
            if not isinstance(state, Tensor):
                raise CapabilityError(
                    f"location_aware takes as state the tensor that it gave, not {type(state).__name__}"
                )
            if state.dim() != 3 or state.shape[:2] != (batch, heads) or state.shape[2] > keys:
                raise ShapeError(
                    f"location_aware wants a state of shape {(batch, heads, keys)}, or of fewer keys, but "
                    f"{tuple(state.shape)} was given"
                )
            return F.pad(state, (0, keys - state.shape[2]))
        if self.start == "zeros" or not queries:
            return call.q.new_zeros(batch, heads, keys)
        mask = call.mask(torch.zeros(1, dtype=torch.long, device=call.q.device))
        if mask is None:
            return call.q.new_full((batch, heads, keys), 1 / max(keys, 1))
        share = mask[:, :, 0].to(call.q.dtype)
        return (share / share.sum(-1, keepdim=True).clamp_min(1)).expand(batch, heads, keys)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, start={self.start!r}, sharpening={self.sharpening}, smoothing={self.smoothing}"
