"""A network of graph attention layers, for nodes and for whole graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention import Need, Weights
from toolkit.attention.mechanism import Buildable
from toolkit.binding import Positive, Probability
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.models.field import Field, prepare, receptive_field
from toolkit_graph.models.layer import GraphAttention
from toolkit_graph.models.readout import Readout, ReadoutKind


class AttentionNetwork(nn.Module):
    """Layers of attention over edges with ELU between them; the last layer averages its heads into class logits.

    features, classes: sizes of input and output. attention: the mechanism of every layer. hidden: size of one head.
    heads, output_heads: heads of the hidden layers and of the last. dropout: rate at which each layer's input features
    are dropped. value_dropout: rate at which values are dropped after projection, before they are summed. The
    mechanism has its own dropout for weights. residual: each layer adds a projection of its input.
    readout: how the nodes of a graph become one answer, where graphs are classified.
    Source: arXiv:1710.10903, sec. 3.3, with `attention` GAT and dropout 0.6; value_dropout 0.6 as in the authors' code.
    """

    def __init__(
        self,
        *,
        features: int,
        classes: int,
        attention: Buildable,
        hidden: Positive = 8,
        heads: Positive = 8,
        output_heads: Positive = 1,
        num_layers: Positive = 2,
        dropout: Probability = 0.6,
        value_dropout: Probability = 0.0,
        residual: bool = False,
        readout: ReadoutKind = "mean",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"a network has at least one layer, but num_layers={num_layers}")
        layers = []
        self.heads = [heads] * (num_layers - 1) + [output_heads]
        for number in range(1, num_layers + 1):
            last = number == num_layers
            mechanism = attention.build(heads=self.heads[number - 1], dim=classes if last else hidden)
            layers.append(
                GraphAttention(
                    in_features=features,
                    mechanism=mechanism,
                    concat=not last,
                    skip=residual,
                    dropout=dropout,
                    value_dropout=value_dropout,
                )
            )
            features = hidden * heads
        self.layers = nn.ModuleList(layers)
        self.readout = Readout(kind=readout, features=classes)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Return logits: (S, classes) for `batch.items`, (num_graphs, classes) without items but with `batch.graph`,
        (N, classes) with neither. Only what these answers depend on is computed.
        """
        field, x = prepare(batch, self.heads)
        logits, _ = self._walk(x, field, None)
        if batch.items is None and batch.graph is not None:
            return self.readout(logits, batch.graph, batch.num_graphs)
        return logits if field.answers is None else logits[field.answers]

    def attention_weights(self, batch: GraphBatch, need: Need | None = None) -> list[Weights]:
        """Return each layer's exact weights over all edges of the batch, in the caller's order, as in evaluation."""
        field, training, need = receptive_field(batch.pattern, None, len(self.layers)), self.training, need or Need()
        try:
            self.eval()
            with torch.set_grad_enabled(need.gradient):
                return self._walk(batch.x, field, need)[1]
        finally:
            self.train(training)

    def _walk(self, x: Tensor, field: Field, need: Need | None) -> tuple[Tensor, list[Weights]]:
        seen: list[Weights] = []
        hidden = x
        for number, (layer, hop) in enumerate(zip(self.layers, field.hops, strict=True)):
            hidden, weights = layer(F.elu(hidden) if number else hidden, hop.pattern, need=need)
            if weights is not None:
                seen.append(weights)
        return hidden, seen
