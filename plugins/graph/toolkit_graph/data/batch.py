"""The batch of every graph task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from toolkit.attention import EdgePattern
from toolkit.batches import Batch


@dataclass(kw_only=True)
class GraphBatch(Batch):
    """Nodes, their features and who may look at whom; several graphs lie side by side without edges between them.

    Shapes: x (N, F), dense or sparse CSR. pattern: over N targets and N sources. items (S,): the nodes whose
    predictions count, None where whole graphs are classified and `target` is (num_graphs,). node_ids (N,): the node's
    place in the whole set, None where that is its place here. degree (N,): how many edges enter the node in the whole
    graph, self-loop included, None where the batch holds them all. graph (N,): the graph of each node, None for a
    single graph; graph_ids (num_graphs,): their places in the set.
    hops: how many hops of neighbours around the items the batch holds, None where it holds all.
    S may be 0 where a set has fewer items than processes.
    """

    x: Tensor
    pattern: EdgePattern
    items: Tensor | None = None
    graph: Tensor | None = None
    graph_ids: Tensor | None = None
    num_graphs: int = 1
    node_ids: Tensor | None = None
    degree: Tensor | None = None
    hops: int | None = None
    resident: bool = False  # comes back every epoch: its copy on a device is made once, with all the pattern caches
    _copies: dict[torch.device, GraphBatch] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_nodes(self) -> int:
        return int(self.x.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return this batch on `device`; a resident batch gives the same object each time it is asked."""
        device = _exact(device)
        if self.x.device == device and self.target.device == device:
            return self
        if not self.resident:
            return super().to(device, non_blocking)
        if device not in self._copies:
            self._copies[device] = super().to(device, non_blocking)
        return self._copies[device]  # type: ignore[return-value]


def _exact(device: torch.device | str) -> torch.device:
    """Return a device with its number: "cuda" and "cuda:0" are to find the same copy."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
