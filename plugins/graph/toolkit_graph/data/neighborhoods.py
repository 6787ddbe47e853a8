"""Batches of sampled neighbourhoods: some nodes, what is drawn around them, and what the drawing must not change."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.sparse
import torch
from torch import Tensor

from toolkit.attention import edges
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.data.features import feature_tensor
from toolkit_graph.data.sampler import Draw


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighborhoods:
    """Makes the batch around some nodes of one graph; holds plain data only, so that it can be sent to other processes.

    hops: how many in-neighbours are drawn at each hop, -1 for all. self_loops: every node may look at itself, whether
    or not an edge is drawn. sparse: give the features as a sparse tensor.
    Shapes: features (N, F), target (N,), degree (N,) edges that enter each node, self-loop included.
    """

    features: scipy.sparse.csr_matrix
    target: Tensor
    degree: Tensor
    draw: Draw
    hops: list[int]
    self_loops: bool
    sparse: bool

    def __call__(self, seeds: Tensor, total: int, seed: int) -> GraphBatch:
        """Draw around `seeds`, which become the batch's items. Shapes: seeds (S,)."""
        met, index = self.draw(seeds, self.hops, seed)
        if self.self_loops:
            loops = torch.arange(len(met)).expand(2, -1)
            index = torch.cat((index, loops), dim=1)
        return GraphBatch(
            x=feature_tensor(self.features[met.numpy()], sparse=self.sparse),
            pattern=edges(index, len(met)),
            items=torch.arange(len(seeds)),
            target=self.target[seeds],
            total=total,
            node_ids=met,
            degree=self.degree[met],
            hops=len(self.hops),
        )
