"""One request of the kit, as numbers and names: it can be printed, made smaller and run again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.capabilities import Layout
from toolkit.attention.mechanism import AttentionOutput, Mechanism
from toolkit.attention.pairwise import Pairwise
from toolkit.attention.pattern import Pattern
from toolkit.testing.patterns import Sizes, make, simpler


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shapes, options and seed of one request; what is not given has these defaults.

    kv_heads, value_dim: None is as many as `heads`, as wide as `dim`. pattern: words of `toolkit.testing.patterns`.
    On edges, queries and keys are the numbers of targets and sources. bias: whether one is added to the scores. height,
    width: of a feature map, the first of several; there pattern is a word of `toolkit.testing.map_trial`.
    """

    layout: Layout = "dense"
    backend: str = "auto"
    dtype: torch.dtype = torch.float64
    batch: int = 2
    heads: int = 2
    kv_heads: int | None = None
    queries: int = 4
    keys: int = 4
    height: int = 1
    width: int = 1
    dim: int = 4
    value_dim: int | None = None
    pattern: str = "full"
    bias: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"

    def __repr__(self) -> str:
        shown = [each.name for each in fields(self) if getattr(self, each.name) != getattr(Case(), each.name)]
        return f"Case({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.batch, self.heads, self.queries, self.keys, self.seed)

    def smaller(self) -> Iterator[Case]:
        """Return cases that are simpler by one thing each, those that save most first."""
        for name in self.options:
            yield replace(self, options={key: value for key, value in self.options.items() if key != name})
        if self.bias:
            yield replace(self, bias=False)
        for words in simpler(self.pattern) if self.layout == "dense" else ():
            yield replace(self, pattern=words)
        if self.pattern != "full" and self.layout == "dense":
            yield replace(self, pattern="full")
        if self.kv_heads is not None:
            yield replace(self, kv_heads=None)
        if self.value_dim is not None:
            yield replace(self, value_dim=None)
        for name in ("batch", "queries", "keys", "height", "width", "dim", "heads"):
            size = getattr(self, name)
            for less in sorted({1, size // 2, size - 1}):
                if 0 < less < size:
                    change: dict[str, Any] = {name: less}
                    yield replace(self, **change)
        if self.dtype != torch.float64:
            yield replace(self, dtype=torch.float64)


@dataclass
class Trial:
    """A case with its mechanism and tensors made: call it to get an answer, with whatever is to be changed."""

    mechanism: Mechanism
    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Pattern | None
    bias: Tensor | None

    def __call__(self, **changed: Any) -> AttentionOutput:
        given: dict[str, Any] = {"q": self.q, "k": self.k, "v": self.v, "pattern": self.pattern, "bias": self.bias}
        given |= changed
        output: AttentionOutput = self.mechanism(given.pop("q"), given.pop("k"), given.pop("v"), **given)
        return output

    def values(self, **changed: Any) -> Tensor:
        """Return the values only."""
        return self(**changed).values

    def leaves(self) -> dict[str, Tensor]:
        """Return what gradients are taken for, by name: q, k, v, the bias and the parameters."""
        tensors = {"q": self.q, "k": self.k, "v": self.v}
        if self.bias is not None:
            tensors["bias"] = self.bias
        return tensors | {name: each for name, each in self.mechanism.named_parameters() if each.requires_grad}

    def require_grad(self) -> Trial:
        """Ask for gradients of q, k, v and the bias."""
        for each in (self.q, self.k, self.v, self.bias):
            if each is not None:
                each.requires_grad_()
        return self


def trial(target: type[Mechanism], case: Case, *, own_weights: bool = False, train: bool = False) -> Trial:
    """Build the mechanism of a case, in evaluation unless `train`, and draw its tensors.

    Everything is drawn in double precision and then rounded, so that a case has the same numbers in every type.
    own_weights: keep the parameters as the mechanism initialises them. Without it they are moved at random, for one
    that starts at 0 hides what it does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        mechanism = target(heads=case.heads, dim=case.dim, **case.options).double()
        with torch.no_grad():
            for parameter in () if own_weights else mechanism.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        kv_heads = case.heads if case.kv_heads is None else case.kv_heads
        value_dim = case.dim if case.value_dim is None else case.value_dim
        pattern = make(case.pattern, case.sizes)
        q = _drawn(case, case.queries, case.heads, case.dim)
        k = _drawn(case, case.keys, kv_heads, case.dim)
        v = _drawn(case, case.keys, kv_heads, value_dim)
        bias = _bias(case, pattern) if case.bias else None
    mechanism = mechanism.to(device=case.device, dtype=case.dtype).train(train)
    if isinstance(mechanism, Pairwise) and case.backend != "auto":
        mechanism.backend = case.backend
    q, k, v = (each.to(device=case.device, dtype=case.dtype) for each in (q, k, v))
    bias = None if bias is None else bias.to(device=case.device, dtype=case.dtype)
    return Trial(mechanism, q, k, v, pattern.to(case.device), bias)


def _drawn(case: Case, length: int, heads: int, dim: int) -> Tensor:
    shape = (length, heads, dim) if case.layout == "edges" else (case.batch, heads, length, dim)
    return torch.randn(shape, dtype=torch.float64)


def _bias(case: Case, pattern: Any) -> Tensor:
    shape = (pattern.num_edges, case.heads) if case.layout == "edges" else (1, case.heads, case.queries, case.keys)
    return torch.randn(shape, dtype=torch.float64)
