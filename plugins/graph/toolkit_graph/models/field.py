"""The receptive field of some nodes: the edges that a network of a few layers needs to answer for them, and no more.

A loss that looks at 140 of 2708 nodes has the same value and gradient when the other nodes' last layer is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolkit.attention import EdgePattern
from toolkit.errors import RecipeError
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.models.sparse import select_rows

_KEPT = 8  # fields remembered for each pattern: train, validation and test items come again every epoch


@dataclass(frozen=True, eq=False)
class Hop:
    """One layer's edges; the targets are the first of the sources.

    Shapes: edges (E',) positions in the whole pattern; None where it is the whole pattern.
    """

    pattern: EdgePattern
    edges: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Field:
    """What a network of len(hops) layers reads, first layer first.

    Shapes: nodes (N',) whose features enter, None for all; answers (S,) rows of the last layer, None for all in order.
    """

    hops: tuple[Hop, ...]
    nodes: Tensor | None = None
    answers: Tensor | None = None
    _features: list[tuple[Tensor, int, Tensor]] = field(default_factory=list)

    def features(self, x: Tensor) -> Tensor:
        """Choose the rows of x that enter the first layer; kept while x is the same."""
        if self.nodes is None:
            return x
        version = 0 if x.is_inference() else x._version
        for given, seen, chosen in self._features:
            if given is x and seen == version:
                return chosen
        chosen = select_rows(x, self.nodes)
        self._features[:] = [(x, version, chosen)]
        return chosen


@torch.compiler.disable  # it looks at values and fills caches; the compiler traces the layers that follow
def prepare(batch: GraphBatch, heads: Sequence[int]) -> tuple[Field, Tensor]:
    """Return what a network with so many heads in each of its layers reads of a batch to answer for its items: the
    edges of each layer, with their sorted orders made, and the features that enter.

    Raises: RecipeError if the batch was sampled for a network of another depth.
    """
    num_layers = len(heads)
    if batch.hops is not None and batch.hops != num_layers:
        raise RecipeError(
            f"data.neighbors is a list of length {batch.hops}, but the model has num_layers={num_layers}, and each "
            f"layer looks one hop further. Give data.neighbors one number a layer, such as {[10] * num_layers}, or set "
            f"model.num_layers={batch.hops}"
        )
    field = receptive_field(batch.pattern, batch.items, num_layers)
    for hop, width in zip(field.hops, heads, strict=True):
        hop.pattern.by_target.spread(width)
        if torch.is_grad_enabled():
            hop.pattern.by_source.spread(width)
    return field, field.features(batch.x)


def receptive_field(pattern: EdgePattern, items: Tensor | None, num_layers: int) -> Field:
    """Return the field of `items`, or of all nodes for None; remembered in the pattern's cache.

    Shapes: items (S,) nodes of the pattern, which may repeat.
    """
    if items is None:
        return Field((Hop(pattern),) * num_layers)
    kept: list[tuple[Tensor, int, Field]] = pattern.cache.setdefault("receptive fields", [])
    for known, layers, found in kept:
        if layers == num_layers and (known is items or torch.equal(known, items)):
            return found
    found = _trace(pattern, items, num_layers)
    kept[:] = [*kept[-_KEPT + 1 :], (items, num_layers, found)]
    return found


def _trace(pattern: EdgePattern, items: Tensor, num_layers: int) -> Field:
    targets, answers = items, None
    distinct, inverse = torch.unique(items, return_inverse=True)
    if len(distinct) < len(items):
        targets, answers = distinct, inverse
    hops: list[Hop] = []
    for _ in range(num_layers):
        hop, targets = _entering(pattern, targets)
        hops.insert(0, hop)
    return Field(tuple(hops), targets, answers)


def _entering(pattern: EdgePattern, targets: Tensor) -> tuple[Hop, Tensor]:
    """Cut out the edges that enter `targets`. Returns them relabelled, and the sources: the targets first."""
    order, device, count = pattern.by_target, targets.device, len(targets)
    start, degree = order.pointer[targets].long(), order.count[targets].long()
    row = torch.repeat_interleave(torch.arange(count, device=device), degree)
    slots = start[row] + torch.arange(len(row), device=device) - (degree.cumsum(0) - degree)[row]
    source = order.far[slots].long()
    place = torch.full((pattern.num_sources,), -1, device=device)
    place[targets] = torch.arange(count, device=device)
    fresh = torch.unique(source[place[source] < 0])
    place[fresh] = torch.arange(count, count + len(fresh), device=device)
    entering = EdgePattern(torch.stack([place[source], row]), count, count + len(fresh))
    return Hop(entering, order.perm[slots].long()), torch.cat([targets, fresh])
