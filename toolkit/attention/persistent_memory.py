"""Attention to learned keys and values beside the context. Sukhbaatar et al. 2019, arXiv:1907.01470."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.call import Call
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.explicit import looking
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.need import Weights
from toolkit.attention.pattern import Full, Lengths, full
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.attention.wrapped import Wrapped
from toolkit.binding import Positive
from toolkit.errors import ShapeError


class PersistentMemory(ScaledDotProduct):
    """Scaled dot-product attention over the context and `memory` learned pairs of key and value, in one softmax.

    Every query that may look at something may also look at all of its head's memory; one that may look at nothing
    gives 0. Weights shown are those on the context, which add up to less than one; `aux["memory_weights"]` holds those
    on the memory for the same rows and heads, and weights @ v + memory_weights @ value * sqrt(memory) is the output.
    memory: how many pairs N. value_dim: Dv, `dim` by default.
    Shapes: key (H, N, D) and value (H, N, Dv), which are multiplied by sqrt(D) and sqrt(N); memory_weights
    (B, H', R, N), on edges (Nt, H', N).
    Raises: ShapeError for values that are not value_dim wide. Source: arXiv:1907.01470, sec. 4.2.
    """

    name = "persistent_memory"
    capabilities = Capabilities(
        weights="proxy",
        sums="below_one",
        cost="L (L + N) D (dense), (E + Nt N) D (edges), with N learned pairs",
        paper="Sukhbaatar et al. 2019, Augmenting Self-attention with Persistent Memory, arXiv:1907.01470",
        equation="softmax over [q_i . k_j, q_i . m_n] / sqrt(D)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"memory": 2},)

    def __init__(
        self, *, heads: int, dim: int, memory: Positive = 16, value_dim: Positive | None = None, **options: Any
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if memory < 1:
            raise ValueError(f"persistent_memory wants 1 pair of key and value or more, but {memory} was given")
        self.memory = memory
        if self.normalizer.sums == "any":
            self.capabilities = replace(type(self).capabilities, sums="any")
        self.key = nn.Parameter(torch.empty(heads, memory, dim))
        self.value = nn.Parameter(torch.empty(heads, memory, value_dim or dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.key, std=self.dim**-0.5)
        nn.init.normal_(self.value, std=self.memory**-0.5)

    def prepare(self, call: Call) -> Call:
        """Put the memory before the context of sequences, so that the last query stands at the last key, and after
        the nodes of a graph, so that edges keep their places."""
        if call.v.shape[-1] != self.value.shape[-1]:
            raise ShapeError(
                f"persistent_memory has values of size {self.value.shape[-1]}, but v is {tuple(call.v.shape)}; "
                "value_dim sets it"
            )
        key = (self.key * math.sqrt(self.dim)).to(call.k.dtype)
        value = (self.value * math.sqrt(self.memory)).to(call.v.dtype)
        bias, pattern = call.bias, call.pattern
        if call.layout == "edges":
            extended = _with_memory(call.edges, self.memory)
            if bias is not None:
                bias = F.pad(bias, (0, 0, 0, extended.num_edges - call.edges.num_edges))
            k, v = (torch.cat([x, own.transpose(0, 1)]) for x, own in ((call.k, key), (call.v, value)))
            return replace(call, k=k, v=v, bias=bias, pattern=extended)
        if bias is not None:
            bias = F.pad(bias.expand(*bias.shape[:3], call.k.shape[2]), (self.memory, 0))
        if not call.k.shape[2] or not (pattern is None or isinstance(pattern, Full)):  # some query may see no context
            pattern = Remembering(pattern or full(), self.memory, looking(call)[0])
        own = (x.expand(len(call.q), -1, -1, -1) for x in (key, value))
        k, v = (torch.cat([x, there], 2) for x, there in zip(own, (call.k, call.v), strict=True))
        return replace(call, k=k, v=v, bias=bias, pattern=pattern)

    def attend(self, request: Request) -> AttentionOutput:
        output = super().attend(request)
        if output.weights is None:
            return output
        if request.q.dim() == 3:
            assert isinstance(request.pattern, EdgePattern)
            weights, memory = self._edges_apart(output.weights, request.pattern)
        else:
            weights, memory = self._apart(output.weights)
        weights = replace(weights, pattern=request.pattern)
        return replace(output, weights=weights, aux={} if memory is None else {"memory_weights": memory})

    def _apart(self, weights: Weights) -> tuple[Weights, Tensor | None]:
        shown, received, memory = weights.values, weights.received, self.memory
        context = replace(
            weights,
            values=None if shown is None else shown[..., memory:],
            received=None if received is None else received[..., memory:],
        )
        return context, None if shown is None else shown[..., :memory]

    def _edges_apart(self, weights: Weights, edges: EdgePattern) -> tuple[Weights, Tensor | None]:
        shown, received, chosen = weights.values, weights.received, weights.edges
        received = None if received is None else received[: edges.num_sources]
        every = torch.arange(_with_memory(edges, self.memory).num_edges, device=edges.index.device)
        place = every if chosen is None else chosen
        inside = place < edges.num_edges
        chosen = None if chosen is None else chosen[inside]
        if shown is None:
            return replace(weights, received=received, edges=chosen), None
        extra = _with_memory(edges, self.memory).index[:, place[~inside]]
        memory = shown.new_zeros(edges.num_targets, shown.shape[1], self.memory)
        memory = memory.transpose(1, 2).index_put((extra[1], extra[0] - edges.num_sources), shown[~inside])
        return replace(weights, values=shown[inside], received=received, edges=chosen), memory.transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Remembering(Wrapped):
    """`count` keys before the others, for queries that may look at some of these.

    Shapes: looking (B or 1, H or 1, Lq), whether they may.
    """

    count: int
    looking: Tensor

    def inner(self, shape: Lengths) -> Lengths:
        return Lengths(shape.queries, shape.keys - self.count)

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        samples, heads, _ = self.looking.shape
        some = self.looking[b if samples > 1 else b * 0, h if heads > 1 else h * 0, i]
        inner = self.inner(shape)
        if not inner.keys:
            return some & (j < self.count)
        context = self.base.allowed(b, h, i, (j - self.count).clamp_min(0), inner)
        return torch.where(j < self.count, some, context)


def _with_memory(edges: EdgePattern, count: int) -> EdgePattern:
    """Add `count` sources and, after the caller's edges, one from each to every target that has an edge."""
    known = edges.cache.get(("memory", count))
    if known is None:
        target = edges.index[1].unique()
        source = torch.arange(count, device=target.device) + edges.num_sources
        extra = torch.stack([source.repeat(len(target)), target.repeat_interleave(count)])
        known = EdgePattern(torch.cat([edges.index, extra], 1), edges.num_targets, edges.num_sources + count)
        edges.cache["memory", count] = known
    extended: EdgePattern = known
    return extended
