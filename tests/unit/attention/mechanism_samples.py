"""What the tests of every mechanism share: the mechanisms and backends, made tensors and graphs, their formulas."""

import math

import torch
from torch.nn import functional as F

from toolkit.attention import (
    edges,
)
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2
from toolkit.attention.scaled_dot_product import ScaledDotProduct

MECHANISMS = [GAT, GATv2, ScaledDotProduct]
DENSE = [(GAT, "rows"), (GATv2, "rows"), (ScaledDotProduct, "rows"), (ScaledDotProduct, "sdpa")]
DENSE += [(mechanism, "reference") for mechanism in MECHANISMS]
H, D = 3, 4


def made(mechanism, **options):
    torch.manual_seed(7)
    return mechanism(heads=H, dim=D, **options).double()


def tensors(*shape, count=3, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*shape, dtype=torch.double, generator=generator) for _ in range(count)]
    return [each.requires_grad_(grad) for each in drawn]


def graph(num_targets=6, num_sources=8, num_edges=30, seed=0):
    """A random graph with repeated edges, self-loops, a target without edges, in no order at all."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(0, num_sources, (num_edges,), generator=generator)
    target = torch.randint(1, num_targets, (num_edges,), generator=generator)
    return edges(torch.stack([source, target]), num_targets, num_sources)


def formula(attend, q, k):
    """The paper's score of one query and one key, one head at a time. Shapes: q (D,), k (D,) for head h."""
    if isinstance(attend, GAT):
        return lambda i, j, h: F.leaky_relu(attend.query_weight[h] @ q[i, h] + attend.key_weight[h] @ k[j, h], 0.2)
    if isinstance(attend, GATv2):
        return lambda i, j, h: attend.weight[h] @ F.leaky_relu(q[i, h] + k[j, h], 0.2)
    return lambda i, j, h: q[i, h] @ k[j, h] / math.sqrt(D)
