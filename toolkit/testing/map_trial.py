"""Requests of the kit to attention on feature maps: gates of one map, or queries that read maps of several levels."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.feature_maps import FeatureReader
from toolkit.attention.mechanism import AttentionOutput
from toolkit.errors import UnknownNameError, nearest
from toolkit.testing.case import Case
from toolkit.testing.subject import Subject

MASKS = ("full", "padding", "holes", "empty_sample")
"""What a mask hides: nothing; rows and columns at the end of each sample; places anywhere; all of the first sample."""


@dataclass
class MapTrial:
    """A case with its module and tensors made: call it to get an answer, with whatever is to be changed.

    Shapes: maps (B, C, height, width) a level; masks (B, height, width) a level, or None; points are a reader's queries
    (B, Lq, C) and reference points (B, Lq, levels, 2), and empty for gates.
    """

    module: Any
    maps: list[Tensor]
    masks: list[Tensor | None]
    points: tuple[Tensor, ...]

    def __call__(self, **changed: Any) -> AttentionOutput:
        maps, masks = changed.pop("maps", self.maps), changed.pop("masks", self.masks)
        points = changed.pop("points", self.points)
        given = (*points, maps, masks) if points else (maps[0], masks[0])
        output: AttentionOutput = self.module(*given, **changed)
        return output

    def values(self, **changed: Any) -> Tensor:
        """Return the values only."""
        return self(**changed).values

    def there(self, level: int = 0) -> Tensor:
        """Return which places are there. Shapes: (B, height, width)."""
        mask, x = self.masks[level], self.maps[level]
        return torch.ones_like(x[:, 0], dtype=torch.bool) if mask is None else mask

    def hidden(self, change: Any) -> list[Tensor]:
        """Return the maps with what is hidden changed: `change` takes a map and gives another."""
        return [torch.where(self.there(level)[:, None], x, change(x)) for level, x in enumerate(self.maps)]

    def sample(self, *chosen: int) -> MapTrial:
        """Return the same request for some samples."""
        some = list(chosen)
        masks = [None if mask is None else mask[some] for mask in self.masks]
        return replace(self, maps=[x[some] for x in self.maps], masks=masks, points=tuple(x[some] for x in self.points))

    def leaves(self) -> dict[str, Tensor]:
        """Return what gradients are taken for, by name."""
        tensors = {f"map {level}" if self.points else "x": x for level, x in enumerate(self.maps)}
        tensors |= dict(zip(("queries", "reference"), self.points, strict=False))
        return tensors | {name: each for name, each in self.module.named_parameters() if each.requires_grad}

    def require_grad(self) -> MapTrial:
        """Ask for gradients of maps, queries and reference points."""
        for each in (*self.maps, *self.points):
            each.requires_grad_()
        return self

    def twin(self) -> MapTrial:
        """Return the same request with the same numbers in double precision."""
        maps, points = ([x.detach().double() for x in each] for each in (self.maps, self.points))
        return MapTrial(copy.deepcopy(self.module).double(), maps, self.masks, tuple(points))


def gradients(made: MapTrial, total: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a total with respect to all leaves, by name."""
    leaves = made.leaves()
    found = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def build(subject: Subject, case: Case) -> Any:
    """Build the module of a case; gates have one head, which needs no saying."""
    target: Any = subject.target
    heads = {"heads": case.heads} if issubclass(target, FeatureReader) else {}
    return target(dim=case.dim, **heads, **case.options)


def map_trial(subject: Subject, case: Case, *, train: bool = False) -> MapTrial:
    """Build the module of a case, in evaluation unless `train`, move its parameters at random, and draw its tensors.

    Everything is drawn in double precision and then rounded, so that a case has the same numbers in every type.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        module = build(subject, case).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        levels = module.levels if isinstance(module, FeatureReader) else 1
        shapes = [(max(1, case.height >> level), max(1, case.width >> level)) for level in range(levels)]
        width = case.dim * module.heads
        maps = [torch.randn(case.batch, width, *shape, dtype=torch.float64) for shape in shapes]
        masks = [_mask(case, shape) for shape in shapes]
        points: tuple[Tensor, ...] = ()
        if isinstance(module, FeatureReader):
            reference = torch.rand(case.batch, case.queries, levels, 2, dtype=torch.float64)
            points = (torch.randn(case.batch, case.queries, width, dtype=torch.float64), reference)
    module = module.to(device=case.device, dtype=case.dtype).train(train)
    maps = [x.to(case.device, case.dtype) for x in maps]
    masks = [None if mask is None else mask.to(case.device) for mask in masks]
    return MapTrial(module, maps, masks, tuple(x.to(case.device, case.dtype) for x in points))


def _mask(case: Case, shape: tuple[int, int]) -> Tensor | None:
    if case.pattern not in MASKS:
        raise UnknownNameError(f"no mask of the kit is called {case.pattern!r}.{nearest(case.pattern, MASKS)}")
    if case.pattern == "full":
        return None
    mask = torch.rand(case.batch, *shape) < 0.6
    if case.pattern == "padding":
        mask = torch.zeros(case.batch, *shape, dtype=torch.bool)
        for sample in range(case.batch):
            height, width = (int(torch.randint(1, size + 1, ())) for size in shape)
            mask[sample, :height, : width if sample else max(1, shape[1] // 2)] = True
    mask[:, 0, 0] = True
    if case.pattern == "empty_sample":
        mask[0] = False
    return mask


def map_cases(subject: Subject, *masks: str, **settings: Any) -> Iterator[Case]:
    """Return cases over its examples and some masks; settings: further fields of `Case`."""
    for options in subject.examples:
        for mask in masks:
            base = Case(layout="map", pattern=mask, options=options, height=4, width=5, queries=3)
            yield replace(base, **settings)
