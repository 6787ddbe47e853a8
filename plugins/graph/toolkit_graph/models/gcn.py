"""Graph convolution: fixed weights in attention's place, the baseline of every attention recipe here."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention import EdgePattern
from toolkit.attention.segment import edge_sum
from toolkit.binding import Positive, Probability
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.models.field import Field, Hop, prepare
from toolkit_graph.models.readout import Readout, ReadoutKind
from toolkit_graph.models.sparse import project


class GCN(nn.Module):
    """x' = D^-1/2 A D^-1/2 x W + b with ReLU between layers; A holds the self-loops that the data module added.

    On a sampled neighbourhood D is still the whole graph's, and an edge drawn stands for all it was drawn from.
    hidden: size of the hidden layers. dropout: rate at which each layer's input features are dropped.
    Source: Kipf & Welling 2017, arXiv:1609.02907, eq. 2; sampled as in Chen, Zhu & Song 2018, arXiv:1710.10568.
    """

    def __init__(
        self,
        *,
        features: int,
        classes: int,
        hidden: Positive = 16,
        num_layers: Positive = 2,
        dropout: Probability = 0.5,
        readout: ReadoutKind = "mean",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"a network has at least one layer, but num_layers={num_layers}")
        sizes = [features, *[hidden] * (num_layers - 1), classes]
        self.dropout = dropout
        self.weights = nn.ParameterList(torch.empty(*pair) for pair in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes[1:])
        self.reset_parameters()
        self.readout = Readout(kind=readout, features=classes)

    def reset_parameters(self) -> None:
        for weight, bias in zip(self.weights, self.biases, strict=True):
            nn.init.xavier_uniform_(weight)
            nn.init.zeros_(bias)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Return logits: (S, classes) for `batch.items`, (num_graphs, classes) without items but with `batch.graph`,
        (N, classes) with neither.
        """
        field, hidden = prepare(batch, [1] * len(self.weights))
        kind = torch.promote_types(self.weights[0].dtype, torch.float32)  # a sum over many edges wants more than half
        layers = zip(self.weights, self.biases, field.hops, _norms(batch, field, kind), strict=True)
        for number, (weight, bias, hop, norm) in enumerate(layers):
            projected = project(F.relu(hidden) if number else hidden, weight, self.dropout, self.training)
            summed = edge_sum(norm, projected.to(kind)[:, None], hop.pattern)[:, 0]
            hidden = summed.to(projected.dtype) + bias
        if batch.items is None and batch.graph is not None:
            return self.readout(hidden, batch.graph, batch.num_graphs)
        return hidden if field.answers is None else hidden[field.answers]


@torch.compiler.disable  # fills caches, as `prepare` does
def _norms(batch: GraphBatch, field: Field, kind: torch.dtype) -> list[Tensor]:
    return [_norm(batch, hop, kind) for hop in field.hops]


def _norm(batch: GraphBatch, hop: Hop, kind: torch.dtype) -> Tensor:
    """Return 1 / sqrt(degree_i degree_j) of each edge, by the degrees in the whole graph.

    Shapes: (E', 1) in target order.
    """
    key = ("symmetric norm", kind)
    if key in hop.pattern.cache:
        known: Tensor = hop.pattern.cache[key]
        return known
    source, target = batch.pattern.index
    degree = batch.pattern.by_target.count if batch.degree is None else batch.degree
    root = degree.to(kind).clamp(min=1).rsqrt()
    share = root[target] * root[source]
    if batch.degree is not None:
        share = share * _stands_for(batch.pattern, batch.degree).to(kind)
    share = share if hop.edges is None else share[hop.edges]
    share = share[hop.pattern.by_target.perm.long()][:, None]
    if batch.degree is None:  # else it does not follow from the edges alone, and this batch does not come again
        hop.pattern.cache[key] = share
    return share


def _stands_for(pattern: EdgePattern, degree: Tensor) -> Tensor:
    """Return how many edges of the whole graph each edge was drawn from: the sum over what is drawn then expects the
    sum over all. A self-loop is never drawn, so it stands for itself.

    Shapes: degree (N,) -> (E,).
    """
    source, target = pattern.index
    loop = source == target
    loops = torch.zeros_like(degree).index_add(0, target, loop.to(degree.dtype))
    drawn = pattern.by_target.count.to(degree.dtype) - loops
    return torch.where(loop, 1.0, ((degree - loops) / drawn.clamp(min=1))[target])
