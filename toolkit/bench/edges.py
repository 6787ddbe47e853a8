"""Attention on edges beside PyG's layers, with the same weights on the same graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from toolkit.attention import EdgePattern, build, edges
from toolkit.bench.measure import Paired, Step, paired

HEADS, DIM, FEATURES = 8, 16, 64


def compare(nodes: int, num_edges: int, *, pairs: int) -> Iterator[tuple[str, Paired]]:
    """Time one layer of each kind, forward and backward, projections included, on a random graph.

    Before the clock starts, outputs are compared.
    """
    made = torch.Generator().manual_seed(0)
    index = torch.randint(0, nodes, (2, num_edges), generator=made)
    x = torch.randn(nodes, FEATURES, generator=made)
    pattern = edges(index, nodes)
    for name, build_pair in PAIRS.items():
        torch.manual_seed(0)
        ours, peer = build_pair(x, index, pattern)
        torch.testing.assert_close(ours(), peer(), atol=1e-4, rtol=1e-3)
        yield name, paired(_trained(ours), _trained(peer), pairs=pairs, warm=1)


def _trained(forward: Callable[[], Tensor]) -> Step:
    return lambda: forward().sum().backward()


def _gat(x: Tensor, index: Tensor, pattern: EdgePattern) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    from torch_geometric.nn import GATConv

    peer = GATConv(FEATURES, DIM, HEADS, add_self_loops=False, bias=False)
    attend: Any = build("gat", heads=HEADS, dim=DIM)
    attend.query_weight.data.copy_(peer.att_dst.data[0])
    attend.key_weight.data.copy_(peer.att_src.data[0])

    def ours() -> Tensor:
        h = peer.lin(x).view(-1, HEADS, DIM)
        values: Tensor = attend(h, h, h, pattern).values.flatten(1)
        return values

    return ours, lambda: peer(x, index)


def _gatv2(x: Tensor, index: Tensor, pattern: EdgePattern) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    from torch_geometric.nn import GATv2Conv

    peer = GATv2Conv(FEATURES, DIM, HEADS, add_self_loops=False, bias=False)
    attend: Any = build("gatv2", heads=HEADS, dim=DIM)
    attend.weight.data.copy_(peer.att.data[0])

    def ours() -> Tensor:
        q, k = peer.lin_r(x).view(-1, HEADS, DIM), peer.lin_l(x).view(-1, HEADS, DIM)
        values: Tensor = attend(q, k, k, pattern).values.flatten(1)
        return values

    return ours, lambda: peer(x, index)


def _transformer(x: Tensor, index: Tensor, pattern: EdgePattern) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    from torch_geometric.nn import TransformerConv

    peer = TransformerConv(FEATURES, DIM, HEADS, root_weight=False)
    attend = build("scaled_dot_product", heads=HEADS, dim=DIM)

    def ours() -> Tensor:
        q, k, v = (p(x).view(-1, HEADS, DIM) for p in (peer.lin_query, peer.lin_key, peer.lin_value))
        values: Tensor = attend(q, k, v, pattern).values.flatten(1)
        return values

    return ours, lambda: peer(x, index)


PAIRS = {"gat beside GATConv": _gat, "gatv2 beside GATv2Conv": _gatv2, "dot beside TransformerConv": _transformer}
