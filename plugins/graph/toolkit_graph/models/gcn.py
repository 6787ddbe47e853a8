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
from toolkit_graph.models.field import Hop, receptive_field
from toolkit_graph.models.readout import Readout, ReadoutKind
from toolkit_graph.models.sparse import project


class GCN(nn.Module):
    """x' = D^-1/2 A D^-1/2 x W + b with ReLU between layers; A holds the self-loops that the data module added.

    hidden: size of the hidden layers. dropout: rate at which each layer's input features are dropped.
    Source: Kipf & Welling 2017, arXiv:1609.02907, eq. 2.
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
        field = receptive_field(batch.pattern, batch.items, len(self.weights))
        hidden = field.features(batch.x)
        for number, (weight, bias, hop) in enumerate(zip(self.weights, self.biases, field.hops, strict=True)):
            projected = project(F.relu(hidden) if number else hidden, weight, self.dropout, self.training)
            share = _norm(batch.pattern, hop).to(projected.dtype)
            hidden = edge_sum(share, projected[:, None], hop.pattern)[:, 0] + bias
        if batch.items is None and batch.graph is not None:
            return self.readout(hidden, batch.graph, batch.num_graphs)
        return hidden if field.answers is None else hidden[field.answers]


def _norm(whole: EdgePattern, hop: Hop) -> Tensor:
    """Return 1 / sqrt(degree_i degree_j) of each edge, by the degrees in the whole graph.

    Shapes: (E', 1) in target order.
    """
    if "symmetric norm" not in hop.pattern.cache:
        degree = whole.by_target.count.to(torch.get_default_dtype()).clamp(min=1).rsqrt()
        share = degree[whole.index[1]] * degree[whole.index[0]]
        share = share if hop.edges is None else share[hop.edges]
        hop.pattern.cache["symmetric norm"] = share[hop.pattern.by_target.perm.long()][:, None]
    norm: Tensor = hop.pattern.cache["symmetric norm"]
    return norm
