"""Attention to keys and values of past calls, kept and searched. Wu et al. 2022, arXiv:2203.08913."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.call import Call, checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.explicit import looking
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.need import Need, Weights
from toolkit.attention.normalizers import DenseRows
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.binding import Positive
from toolkit.errors import CapabilityError, ShapeError

_ELEMENTS = 1 << 22  # scores held at a time while the memory is searched


@dataclass(frozen=True, eq=False)
class Memory:
    """Keys and values of past calls, oldest first, without gradient. A sample with fewer has them at the end.

    Shapes: key (B, H, M, D), value (B, H, M, Dv), filled (B, M) bool.
    """

    key: Tensor
    value: Tensor
    filled: Tensor

    def reset(self, samples: Tensor) -> Memory:
        """Forget all of some samples, whose next segment starts a new document. Shapes: samples (B,) bool."""
        if samples.shape != self.filled.shape[:1] or samples.dtype != torch.bool:
            raise ShapeError(
                f"the memory holds {len(self.filled)} samples, so it wants as many booleans to know which to forget, "
                f"but {samples.dtype} {tuple(samples.shape)} was given"
            )
        return _blank(self.key, self.value, self.filled & ~samples[:, None])

    def to(self, device: torch.device | str) -> Memory:
        """Return this memory on `device`."""
        return Memory(self.key.to(device), self.value.to(device), self.filled.to(device))

    def added(self, key: Tensor, value: Tensor, seen: Tensor, capacity: int) -> Memory:
        """Add the keys that are `seen`, and keep the newest `capacity`. Shapes: seen (B, L) bool."""
        key, value = (torch.cat([old, new.detach()], 2) for old, new in ((self.key, key), (self.value, value)))
        filled = torch.cat([self.filled, seen], 1)
        most = min(capacity, int(filled.sum(1).max())) if filled.numel() else 0
        order = filled.to(torch.int8).argsort(dim=1, stable=True)[:, filled.shape[1] - most :]  # empty places first
        place = order[:, None, :, None]
        key, value = (x.gather(2, place.expand(-1, x.shape[1], -1, x.shape[3])) for x in (key, value))
        return _blank(key, value, filled.gather(1, order))


def _blank(key: Tensor, value: Tensor, filled: Tensor) -> Memory:
    empty = ~filled[:, None, :, None]  # 0 times NaN is NaN: nothing may be left there
    return Memory(key.masked_fill(empty, 0), value.masked_fill(empty, 0), filled)


class ExternalMemory(ScaledDotProduct):
    """values = g * attention to the `top` nearest of past keys + (1 - g) * attention to the context.

    Both are scaled dot-product attention, each with its own softmax; g = sigmoid(gate) is learned for each head.
    `state` is the `Memory` of past calls, of each sample apart; the one returned also holds those keys of this call
    that some query may look at. The search is exact, and memory gets no gradient. A sample with an empty memory attends
    to the context alone, and a query that may look at nothing in the context gives 0.
    Weights shown are (1 - g) times those on the context, and lse is that of the context; `aux` holds `memory_weights`,
    g times those on the memory, and `memory_places`, where in the memory they lie, for the same rows and heads.
    capacity: how many keys of a sample are kept; the oldest go first. top: how many a query looks at.
    Shapes: gate (H,); memory_weights and memory_places (B, H', R, top or fewer).
    Raises: CapabilityError for another state, ShapeError for the memory of other samples.
    Source: arXiv:2203.08913, sec. 3.1 and 3.2, without the normalised keys and queries and the position bias there.
    """

    name = "external_memory"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        weights="proxy",
        sums="below_one",
        state="segments",
        cost="L (L + M) D, with M keys in memory",
        paper="Wu, Rabe, Hutchins, Szegedy 2022, Memorizing Transformers, arXiv:2203.08913",
        equation="g attention(q, top-k of memory) + (1 - g) attention(q, k)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"capacity": 3, "top": 2},)

    def __init__(self, *, heads: int, dim: int, capacity: Positive = 8192, top: Positive = 32, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if capacity < 1 or top < 1:
            raise ValueError(f"external_memory wants capacity and top of 1 or more, but {capacity}, {top} were given")
        self.capacity, self.top = capacity, top
        if self.normalizer.sums == "any":
            self.capabilities = replace(type(self).capabilities, sums="any")
        self.gate = nn.Parameter(torch.zeros(heads))

    def attend(self, request: Request) -> AttentionOutput:
        local = super().attend(replace(request, state=None))
        call = checked(request, self, self.dropout if self.training else 0.0)
        memory = self._memory(call, request.state)
        rows, keys = looking(call)
        seen = keys.any(1).expand(len(call.k), -1)
        state = memory.added(call.k, call.v, seen, self.capacity)
        if not memory.filled.shape[1]:
            # the gate has gradient 0 and not none: several processes must agree on what has one
            return replace(local, values=local.values + 0 * self.gate.sum(), state=state)
        known = memory.filled.any(1)[:, None].to(self.gate.dtype)  # (B, 1)
        gate = (known * torch.sigmoid(self.gate))[:, :, None]  # (B, H, 1)
        place, weights = self._search(call.q, memory)
        dropped = F.dropout(weights, call.dropout) if call.dropout else weights
        read = (dropped[..., None, :] @ _picked(memory.value, place)).squeeze(-2)
        read = read.masked_fill(~rows[..., None], 0)
        values = local.values + (gate[..., None] * (read - local.values)).to(local.values.dtype)
        aux = {}
        if call.need is not None and call.need.weights:
            aux = _chosen(call.need, memory_weights=(gate[..., None] * weights) * rows[..., None], memory_places=place)
        return replace(local, values=values, weights=_scaled(local.weights, 1 - gate), state=state, aux=aux)

    def _memory(self, call: Call, state: Any) -> Memory:
        batch, heads = call.k.shape[:2]
        if state is None:
            key, value = (x.new_zeros(batch, heads, 0, x.shape[3]) for x in (call.k, call.v))
            return Memory(key, value, key.new_zeros(batch, 0, dtype=torch.bool))
        if not isinstance(state, Memory):
            raise CapabilityError(f"external_memory takes the Memory it returned as state, not {type(state).__name__}")
        wanted = [(batch, heads, x.shape[3]) for x in (call.k, call.v)]
        if [(*x.shape[:2], x.shape[3]) for x in (state.key, state.value)] != wanted:
            raise ShapeError(
                f"the memory has key {tuple(state.key.shape)} and value {tuple(state.value.shape)}, but k is "
                f"{tuple(call.k.shape)} and v {tuple(call.v.shape)}; only the third size may differ"
            )
        return state

    def _search(self, q: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Find each query's nearest keys, and weigh them. Shapes: q (B, H, Lq, D) -> places, weights (B, H, Lq, K)."""
        batch, heads, queries, _ = q.shape
        size, forbidden = memory.filled.shape[1], ~memory.filled[:, None, None]
        best = q.new_zeros(batch, heads, queries, 0)
        place = torch.zeros_like(best, dtype=torch.long)
        step = max(self.top, _ELEMENTS // max(1, batch * heads * queries))
        with torch.no_grad():
            for start in range(0, size, step):
                some = slice(start, start + step)
                near = (q * self.scale) @ memory.key[:, :, some].transpose(2, 3)
                near = near.masked_fill(forbidden[..., some], -torch.inf)
                where = torch.arange(size, device=q.device)[some].expand_as(near)
                best, kept = torch.cat([best, near], -1).topk(min(self.top, best.shape[-1] + near.shape[-1]))
                place = torch.cat([place, where], -1).gather(-1, kept)
        scores = ((q * self.scale)[..., None, :] @ _picked(memory.key, place).transpose(-1, -2)).squeeze(-2)
        scores = scores.masked_fill(best == -torch.inf, -torch.inf)
        return place, self.normalizer.weigh(scores, DenseRows())[0]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, capacity={self.capacity}, top={self.top}"


def _picked(x: Tensor, place: Tensor) -> Tensor:
    """Pick rows of each head. Shapes: x (B, H, M, D), place (B, H, Lq, K) -> (B, H, Lq, K, D)."""
    flat = place.flatten(2)[..., None].expand(-1, -1, -1, x.shape[3])
    return x.gather(2, flat).unflatten(2, place.shape[2:])


def _chosen(need: Need, **found: Tensor) -> dict[str, Tensor]:
    """Keep the rows and heads that are needed. Shapes: (B, H, Lq, K) -> (B, H', R, K)."""
    for name, x in found.items():
        x = x if need.heads is None else x[:, list(need.heads)]
        x = x if need.rows is None else x.index_select(2, torch.as_tensor(need.rows, device=x.device))
        found[name] = x if need.gradient else x.detach()
    return found


def _scaled(weights: Weights | None, share: Tensor) -> Weights | None:
    """Scale weights by each head's share. Shapes: share (B, H, 1)."""
    if weights is None:
        return None
    share = share if weights.heads is None else share[:, list(weights.heads)]
    share = share if weights.values is not None and weights.values.requires_grad else share.detach()
    values = None if weights.values is None else weights.values * share[..., None]
    return replace(weights, values=values, received=None if weights.received is None else weights.received * share)
