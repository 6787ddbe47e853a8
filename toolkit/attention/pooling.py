"""From many vectors to one, or to a few: pooling by any attention mechanism. Lee et al. 2019, arXiv:1810.00825."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.layer import mechanism_of
from toolkit.attention.mechanism import AttentionOutput, Mechanism
from toolkit.attention.need import Need
from toolkit.attention.pattern import Pattern, describe
from toolkit.errors import CapabilityError, ShapeError


class AttentionPooling(nn.Module):
    """out = W_o concat_h attention(s, W_k x, W_v x), where s are learned queries; what is empty gives 0.

    AttentionPooling(dim=256, heads=4, attention="saliency_pooling") reads a text, or the nodes of each graph.
    dim: features of x and of the output. heads, head_dim: as in `MultiHeadAttention`. attention: the name of a
    mechanism, with `options` for its constructor, or a mechanism made for heads and head_dim.
    queries: how many vectors to pool to; None is one, without an axis of its own. They are learned if the mechanism
    reads them; those of one that does not would be alike, so it takes one.
    project: without it keys and values are x itself, cut into heads, and there is no W_o: with one head of
    `saliency_pooling` that is hierarchical attention networks.
    W_o has no bias, so that nothing pools to 0; that of W_v does its work wherever weights add up to 1.
    Raises: ShapeError if the sizes do not divide; CapabilityError for a mechanism that cannot pool.
    Source: arXiv:1810.00825, sec. 3.2 (pooling by multihead attention), with q and W_q in one, without the residual and
    feed-forward layers around it; Yang et al. 2016, NAACL, sec. 2.2.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        attention: str | Mechanism = "saliency_pooling",
        queries: int | None = None,
        head_dim: int | None = None,
        project: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if min(dim, heads) < 1 or (queries is not None and queries < 1):
            raise ShapeError(f"pooling wants positive sizes, but dim={dim}, heads={heads}, queries={queries}")
        if dim % heads and (head_dim is None or not project):
            raise ShapeError(f"dim={dim} is no multiple of heads={heads}; give heads that divide dim, or head_dim")
        if head_dim is not None and not project and head_dim * heads != dim:
            raise ShapeError(f"without projections heads={heads} share dim={dim}, so head_dim={head_dim} does not fit")
        self.dim, self.heads, self.queries = dim, heads, queries
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.mechanism = mechanism_of(attention, heads, self.head_dim, options)
        self._check_mechanism()
        width = heads * self.head_dim
        shared = self.mechanism.projections != "separate"
        self.key = nn.Linear(dim, width) if project else nn.Identity()
        self.value = self.key if shared or not project else nn.Linear(dim, width)
        self.out = nn.Linear(width, dim, bias=False) if project else nn.Identity()
        count = 1 if queries is None else queries
        self.query = nn.Parameter(torch.empty(count, heads, self.head_dim)) if self.mechanism.reads_queries else None
        self.reset_parameters()

    def _check_mechanism(self) -> None:
        name, can = self.mechanism.name, self.mechanism.capabilities
        if not can.cross:
            raise CapabilityError(f"attention {name!r} wants as many queries as keys, so it cannot pool them to fewer")
        if self.mechanism.positional:
            raise CapabilityError(
                f"places matter to attention {name!r}, and the query that pools has none: padding would move it. What "
                "can: mechanisms without positions, such as 'saliency_pooling' and 'scaled_dot_product'; positions may "
                "be added to x before"
            )
        if not self.mechanism.reads_queries and self.queries is not None and self.queries > 1:
            raise CapabilityError(
                f"attention {name!r} does not read queries, so {self.queries} of them would all pool alike; its heads "
                "pool apart (heads=...), or take a mechanism that reads queries, such as 'scaled_dot_product'"
            )

    def reset_parameters(self) -> None:
        """Draw queries and projections by Glorot's rule, with biases of 0."""
        if self.query is not None:
            nn.init.xavier_uniform_(self.query.data.flatten(1))
        for projection in (self.key, self.value, self.out):
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)

    def forward(
        self, x: Tensor, pattern: Pattern | None = None, *, bias: Tensor | None = None, need: Need | None = None
    ) -> AttentionOutput:
        """Pool each sample, or the sources of each target. The output's `values` are (B, dim), or (B, queries, dim).

        Shapes: x (B, L, dim) with a pattern such as `padding(lengths)`, or (N, dim) with `edges(index, num_graphs, N)`,
        where index holds each node and its graph. bias and weights have the shapes of the mechanism, one row a query.
        Raises: ShapeError, CapabilityError.
        """
        if x.dim() not in (2, 3) or x.shape[-1] != self.dim:
            raise ShapeError(
                f"pooling wants x (batch, length, {self.dim}) or nodes (N, {self.dim}), given {tuple(x.shape)}"
            )
        keys = self.key(x).unflatten(-1, (self.heads, self.head_dim))  # (..., L, H, D)
        values = keys if self.value is self.key else self.value(x).unflatten(-1, (self.heads, self.head_dim))
        if x.dim() == 2:
            q = self._queries(keys).expand(self._graphs(x, pattern), -1, -1)
            output: AttentionOutput = self.mechanism(q, keys, values, pattern, bias=bias, need=need)
            return replace(output, values=self.out(output.values.flatten(1)))
        q = self._queries(keys).transpose(0, 1).expand(len(x), -1, -1, -1)  # (B, H, n, D)
        k = keys.transpose(1, 2)
        v = k if values is keys else values.transpose(1, 2)
        output = self.mechanism(q, k, v, pattern, bias=bias, need=need)
        pooled = self.out(output.values.transpose(1, 2).flatten(2))
        return replace(output, values=pooled[:, 0] if self.queries is None else pooled)

    def _queries(self, keys: Tensor) -> Tensor:
        if self.query is None:
            return keys.new_zeros(1, self.heads, self.head_dim)
        return self.query.to(keys.dtype)

    def _graphs(self, x: Tensor, pattern: Pattern | None) -> int:
        if not isinstance(pattern, EdgePattern):
            raise ShapeError(
                f"pooling was given nodes {tuple(x.shape)}, which want edges(index, num_graphs, num_nodes) for a "
                f"pattern, but {describe(pattern)} was given; a sequence is (batch, length, {self.dim})"
            )
        if self.queries is not None:
            raise CapabilityError(
                f"nodes are pooled to one vector a graph, but queries={self.queries}; leave it out, and give more heads"
            )
        return pattern.num_targets

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, head_dim={self.head_dim}, queries={self.queries}"
