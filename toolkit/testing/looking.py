"""Checks of who may look at whom: what is masked must not matter, in any way, and rows without keys are 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from toolkit.attention.call import checked
from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.mechanism import Request
from toolkit.attention.need import Need
from toolkit.attention.pairwise import Pairwise
from toolkit.errors import CapabilityError
from toolkit.testing.case import Case, Trial, trial
from toolkit.testing.check import Broken, Check, same
from toolkit.testing.subject import Subject


def allowed(made: Trial, case: Case) -> Tensor:
    """Return who may look at whom. Shapes: (B, H, Lq, Lk) bool; edges (1, 1, Nt, Ns)."""
    assert made.pattern is not None
    if case.layout == "edges":
        assert isinstance(made.pattern, EdgePattern)
        table = torch.zeros(case.queries, case.keys, dtype=torch.bool, device=made.q.device)
        table[made.pattern.index[1], made.pattern.index[0]] = True
        return table[None, None]
    mask = made.pattern.mask(case.queries, case.keys, batch=case.batch, heads=case.heads, device=made.q.device)
    return mask.expand(case.batch, case.heads, -1, -1)


def left(made: Trial, case: Case) -> Tensor:
    """Return who may look at whom once a pairwise mechanism has narrowed the pattern. Shapes: as `allowed`."""
    if isinstance(made.mechanism, Pairwise):
        request = Request(q=made.q, k=made.k, v=made.v, pattern=made.pattern, bias=made.bias)
        call = made.mechanism.prepare(checked(request, made.mechanism))
        if call.k.shape[-2 if case.layout == "dense" else 0] == case.keys:  # with keys of its own, no row is empty
            made = replace(made, pattern=call.pattern)
    return allowed(made, case)


def row(values: Tensor, i: int) -> Tensor:
    """Return the values of one query. Shapes: (B, H, Lq, Dv) or (Nt, H, Dv)."""
    return values[i] if values.dim() == 3 else values[:, :, i]


def spread(where: Tensor, case: Case) -> Tensor:
    """Turn (B, H, Lk) into a mask over keys and values of the layout; a key is meant in all heads if in all of them."""
    return where.all(1).reshape(-1)[:, None, None] if case.layout == "edges" else where.all(1)[:, None, :, None]


def _leak(subject: Subject, case: Case, change: str) -> None:
    made = trial(subject.target, case)
    mask, before = allowed(made, case), made.values()
    if made.mechanism.capabilities.state == "queries":  # a row knows of what the rows before it looked at
        mask = mask.cumsum(2) > 0
    for i in range(case.queries):
        hidden = spread(~mask[:, :, i], case)
        k = torch.where(hidden, 7 - 3 * made.k, made.k)
        v = torch.where(hidden, 100 + made.v, made.v)
        same(row(made.values(k=k, v=v), i), row(before, i), f"an output changes when {change} it may not see change")


def declared(subject: Subject, case: Case) -> None:
    """Layouts, causal, cross and weights are answered where they are declared, and refused where they are not.

    Why: a request that is neither declared nor refused is answered with something else than was asked, in silence.
    """
    made, can = trial(subject.target, case), subject.declared
    lacks = {
        f"the layout {case.layout}": case.layout not in can.layouts,
        "a causal pattern": "causal" in case.pattern and not can.causal,
        "another number of keys than of queries": case.queries != case.keys and not can.cross,
    }
    for what in (name for name, lacking in lacks.items() if lacking):
        return _refused(made, what)
    made()
    if can.weights == "none":
        return _refused(made, "seeing weights", Need())
    if made(need=Need()).weights is None:
        raise Broken(f"weights are declared {can.weights!r}, but none came back")
    return None


def _refused(made: Trial, what: str, need: Need | None = None) -> None:
    try:
        made(need=need)
    except CapabilityError:
        return
    raise Broken(f"{what} is not declared, but is answered all the same; raise CapabilityError")


def _declared_cases(subject: Subject) -> Iterator[Case]:
    for options in subject.examples:
        for layout, pattern in (("dense", "full"), ("dense", "causal"), ("edges", "graph")):
            for queries, keys in ((4, 4), (3, 5)):
                base = Case(options=options, pattern=pattern, queries=queries, keys=keys)
                yield base if layout == "dense" else replace(base, layout="edges")


def causal_leak(subject: Subject, case: Case) -> None:
    """Under a causal pattern no output changes when later keys and values change, whatever the two lengths.

    Why: a model that sees the future trains well and generates badly. Positions are aligned bottom-right: the last
    query stands at the last key.
    """
    _leak(subject, case, "keys and values of the future that")


def padding_leak(subject: Subject, case: Case) -> None:
    """No output changes when the content of padding changes.

    Why: else a sample's result depends on what it happened to be batched with.
    """
    _leak(subject, case, "padded keys and values that")


def mask_leak(subject: Subject, case: Case) -> None:
    """Under any pattern no output changes when keys and values change that its row may not look at, and some do else.

    Why: `True` means may look. An inverted mask looks at exactly what it should not.
    """
    _leak(subject, case, "keys and values that")
    made = trial(subject.target, case)
    if left(made, case).any() and torch.equal(made.values(v=100 + made.v), made.values()):
        raise Broken("no output changes when all values change: it looks at nothing")


def empty_rows(subject: Subject, case: Case) -> None:
    """A row that may look at nothing gives 0 with gradient 0, and nothing anywhere is NaN, forward or backward.

    Why: softmax of nothing is 0 / 0; one empty row of one sample turns a whole model's weights to NaN.
    """
    made = trial(subject.target, case).require_grad()
    nothing = ~allowed(made, case).any(-1)  # (B, H, Lq)
    empty = nothing.any(1).reshape(-1)[:, None, None] if case.layout == "edges" else nothing[..., None]
    values = made.values()
    if not torch.isfinite(values).all():
        raise Broken("values are not finite where some rows may look at nothing")
    if values[empty.expand_as(values)].any():
        raise Broken("a row that may look at nothing is not 0")
    if not values.requires_grad:
        return
    leaves = made.leaves()
    for what, total in (("all rows", values.exp().sum()), ("empty rows", (values * empty).exp().sum())):
        found = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, materialize_grads=True)
        for name, grad in zip(leaves, found, strict=True):
            if not torch.isfinite(grad).all():
                raise Broken(f"the gradient of {what} with respect to {name} is not finite")
            if what == "empty rows" and grad.any():
                raise Broken(f"the gradient of rows that may look at nothing is not 0 with respect to {name}")


def poison(subject: Subject, case: Case) -> None:
    """NaN and infinity in keys and values reach no row that may not look at them, forward or backward.

    Why: padding is often uninitialised memory, and 0 times NaN is NaN.
    """
    made = trial(subject.target, case)
    mask, clean = allowed(made, case), made.values()
    last = mask.any(
        2
    )  # (B, H, Lk): keys that somebody looks at; the last of them is poisoned, and all that nobody does
    bad = spread(~last | (torch.arange(case.keys, device=last.device) == case.keys - 1), case)
    samples = 1 if case.layout == "edges" else case.batch
    looks = mask & bad.reshape(samples, 1, 1, case.keys)
    if made.mechanism.capabilities.state == "queries":  # a row knows of what the rows before it looked at
        looks = looks.cumsum(2) > 0
    safe = ~looks.any(-1)  # (B, H, Lq): rows that look at no poison
    safe = safe.reshape(-1)[:, None, None] if case.layout == "edges" else safe[..., None]
    safe = (safe.any(1, keepdim=True) if case.layout == "edges" else safe).expand_as(clean)
    for value in (float("nan"), float("inf")):
        made.k, made.v = (torch.where(bad, value, each.detach()) for each in (made.k, made.v))
        made.require_grad()
        values = made.values()
        same(values[safe], clean[safe], f"{value} in a key and value that a row may not look at changes it")
        if not values.requires_grad or not safe.any():
            continue
        leaves = made.leaves()
        grads = torch.autograd.grad(values[safe].sum(), list(leaves.values()), materialize_grads=True)
        for name, grad in zip(leaves, grads, strict=True):
            if not torch.isfinite(grad).all():
                raise Broken(f"{value} that no row looks at makes the gradient with respect to {name} not finite")


_PATTERNS = ("mask", "sample_mask", "key_mask", "window", "blocks", "segments", "past | global", "graph")

LOOKING = (
    Check(declared, _declared_cases, firm=True),
    Check(
        causal_leak,
        lambda subject: subject.cases("causal", "causal & padding", "graph & causal", each_backend=True),
        lambda subject: "" if subject.declared.causal else "it declares no causal patterns",
    ),
    Check(
        padding_leak,
        lambda subject: subject.cases("padding", "empty_sample & window", each_backend=True),
        lambda subject: "" if "dense" in subject.declared.layouts else "there is no padding on edges",
    ),
    Check(mask_leak, lambda subject: subject.cases(*_PATTERNS, each_backend=True)),
    Check(
        empty_rows,
        lambda subject: subject.cases("holes", "empty_sample", "causal & padding", "graph", each_backend=True),
    ),
    Check(poison, lambda subject: subject.cases("padding", "causal & padding", "mask", "graph", each_backend=True)),
)
