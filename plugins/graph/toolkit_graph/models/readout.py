"""From nodes to graphs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toolkit.attention import EdgePattern
from toolkit.attention.segment import edge_sum, softmax_sum

ReadoutKind = Literal["mean", "max", "attention"]


class Readout(nn.Module):
    """Pool the nodes of each graph; a graph without nodes gives 0.

    kind: `mean`, `max`, or `attention`: nodes weighted by softmax of a learned score. The gate of Li et al. 2016,
    arXiv:1511.05493, eq. 7, with softmax over the nodes in place of its sigmoid, and without tanh.
    """

    def __init__(self, *, kind: ReadoutKind, features: int) -> None:
        super().__init__()
        if kind not in ("mean", "max", "attention"):
            raise ValueError(f"readout is mean, max or attention, but {kind!r} was given")
        self.kind = kind
        self.gate = nn.Linear(features, 1) if kind == "attention" else None

    def forward(self, x: Tensor, graph: Tensor, num_graphs: int) -> Tensor:
        """Shapes: x (N, C), graph (N,) -> (num_graphs, C)."""
        if self.kind == "max":
            where = graph[:, None].expand_as(x)
            return x.new_zeros(num_graphs, x.shape[1]).scatter_reduce(0, where, x, "amax", include_self=False)
        members = _membership(graph, num_graphs)
        order = members.by_target
        if self.gate is not None:
            return softmax_sum(self.gate(x).index_select(0, order.far), x[:, None], members)[:, 0]
        share = order.count.clamp(min=1).to(x.dtype).reciprocal().index_select(0, order.near)
        return edge_sum(share[:, None], x[:, None], members)[:, 0]


@torch.compiler.disable  # fills caches; the compiler traces the sums that follow
def _membership(graph: Tensor, num_graphs: int) -> EdgePattern:
    """Return an edge from each node to its graph, with their sorted orders made."""
    nodes = torch.arange(len(graph), device=graph.device)
    members = EdgePattern(torch.stack([nodes, graph]), num_graphs, len(graph))
    members.by_target.spread(1)
    if torch.is_grad_enabled():
        members.by_source.spread(1)
    return members
