"""Checks of weights: they are those that were used, add up as declared, and belong to the edges they are given for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from toolkit.attention.edge_pattern import EdgePattern, edges
from toolkit.attention.mechanism import Mechanism
from toolkit.attention.need import Need, Weights
from toolkit.attention.normalizers import NORMALIZERS
from toolkit.attention.pairwise import Pairwise
from toolkit.attention.pattern import dense
from toolkit.errors import CapabilityError
from toolkit.testing.case import Case, Trial, trial
from toolkit.testing.check import Broken, Check, same
from toolkit.testing.looking import allowed, left
from toolkit.testing.numbers import PATTERNS
from toolkit.testing.subject import Subject


def weights(subject: Subject, case: Case) -> None:
    """Weights times values are the output, asking for them changes nothing, and nobody weighs what it may not see.

    Why: a picture of weights that were not used explains nothing. `need` may choose rows and heads and ask for the mass
    that keys receive: all of that is the same weights.
    """
    made = trial(subject.target, case)
    output = made(need=Need())
    shown = shown_by(output.weights)
    same(output.values, made.values(), "values change when weights are asked for")
    mask = allowed(made, case)
    if case.layout == "dense" and shown.masked_fill(mask, 0).any():
        raise Broken("a weight is not 0 where the row may not look")
    if subject.declared.weights == "exact":
        same(applied(made, shown, case), output.values, "weights times values are not the output")
    if not case.queries:
        return
    rows, heads = [case.queries - 1, 0], [case.heads - 1]
    try:
        some = made(need=Need(rows=rows, heads=heads, received=True)).weights
    except CapabilityError:
        return
    assert some is not None
    if case.layout == "dense":
        wanted = shown[:, heads][:, :, rows]
        received = wanted.sum(2)
    else:
        assert isinstance(made.pattern, EdgePattern)
        kept = torch.isin(made.pattern.index[1], torch.tensor(rows, device=shown.device))
        wanted = shown[kept][:, heads]
        received = wanted.new_zeros(case.keys, 1).index_add(0, made.pattern.index[0][kept], wanted)
    same(shown_by(some), wanted, "chosen rows and heads are not those of all weights")
    assert some.received is not None
    same(some.received, received, "received mass is not the sum of the chosen weights")


def shown_by(found: Weights | None) -> Tensor:
    """Return the weights that came back. Raises: Broken if none did."""
    if found is None or found.values is None:
        raise Broken("weights were asked for, but none came back")
    return found.values


def applied(made: Trial, shown: Tensor, case: Case) -> Tensor:
    """Multiply weights by values."""
    v = made.v.repeat_interleave(case.heads // made.v.shape[1], 1)
    if case.layout == "dense":
        return shown @ v
    assert isinstance(made.pattern, EdgePattern)
    source, target = made.pattern.index
    return v.new_zeros(case.queries, *v.shape[1:]).index_add(0, target, shown[..., None] * v[source])


def row_sums(subject: Subject, case: Case) -> None:
    """The weights of every row that may look at something add up to 1, or to at most 1, as declared.

    Why: weights that do not are no average, and outputs grow with the length. Where weights are exact it is seen in the
    output too: for values of 1 it is the sum.
    """
    made = trial(subject.target, case)
    declared = _sums(made.mechanism)
    if declared in ("any", None):
        return
    some = left(made, case).any(-1)  # (B, H, Lq) or (1, 1, Nt)
    some = some.reshape(-1)[:, None, None] if case.layout == "edges" else some[..., None]
    totals, kind = {}, made.mechanism.capabilities.weights
    if kind != "proxy":
        totals["the output for values of 1"] = made.values(v=torch.ones_like(made.v))
    if kind != "none":
        shown = shown_by(made(need=Need()).weights)
        totals["the sum of weights"] = applied(replace(made, v=torch.ones_like(made.v)), shown, case)
    for what, total in totals.items():
        wanted = torch.ones_like(total) * some if declared == "one" else total.clamp(0, 1)
        same(total, wanted, f"{what} is not what `sums` declares, {declared!r}")


def _sums(mechanism: Mechanism) -> str | None:
    declared = mechanism.capabilities.sums
    return mechanism.normalizer.sums if declared is None and isinstance(mechanism, Pairwise) else declared


def _row_sums_cases(subject: Subject) -> Iterator[Case]:
    names = NORMALIZERS if subject.takes("normalize") and "normalize" not in subject.examples[0] else ()
    for options in (subject.examples[0], *({**subject.examples[0], "normalize": name} for name in names)):
        if _sums(subject.target(heads=2, dim=4, **options)) in ("one", "below_one"):
            for case in subject.cases("full", "causal & padding", "holes", "graph"):
                yield replace(case, options=options)


def _row_sums_unless(subject: Subject) -> str:
    if subject.declared.sums == "any":
        return "its weights may add up to anything, by declaration"
    return "" if subject.pairwise or subject.declared.sums else "it does not declare what weights add up to (`sums`)"


def edges_dense(subject: Subject, case: Case) -> None:
    """An edge list gives the output, gradients and weights of the dense mask that holds the same pairs.

    Why: a mechanism is written once for sequences and for graphs, and must mean the same on both.
    """
    made = trial(subject.target, case).require_grad()
    listed = made.pattern
    assert isinstance(listed, EdgePattern)
    source, target = listed.index
    bias = None
    if made.bias is not None:
        bias = made.bias.new_zeros(case.heads, case.queries, case.keys)
        bias[:, target, source] = made.bias.T
    turned = {name: getattr(made, name).transpose(0, 1)[None] for name in ("q", "k", "v")}
    on_edges, densely = made.values(), made.values(**turned, pattern=dense(listed.table), bias=bias)[0].transpose(0, 1)
    same(on_edges, densely, "edges give another output than the same pairs as a mask")
    leaves = made.leaves()
    one, other = (
        torch.autograd.grad(values.square().sum(), list(leaves.values()), materialize_grads=True)
        for values in (on_edges, densely)
    )
    for name, found, wanted in zip(leaves, one, other, strict=True):
        same(found, wanted, f"edges give another gradient with respect to {name} than the same pairs as a mask")
    if subject.declared.weights == "exact":
        table = shown_by(made(**turned, pattern=dense(listed.table), bias=bias, need=Need()).weights)[0]
        found = shown_by(made(need=Need()).weights)
        same(found, table[:, target, source].T, "weights of edges are not those of the same pairs as a mask")


def edge_order(subject: Subject, case: Case) -> None:
    """Shuffling the caller's edges, with their biases, shuffles the weights alike and leaves the output as it is.

    Why: weights in another order than the caller's explain the wrong edges. Moving self-loops to the end does that.
    """
    made = trial(subject.target, case)
    listed = made.pattern
    assert isinstance(listed, EdgePattern)
    order = torch.randperm(listed.num_edges, generator=torch.Generator().manual_seed(case.seed + 1)).to(made.q.device)
    shuffled = edges(listed.index[:, order], listed.num_targets, listed.num_sources)
    bias = None if made.bias is None else made.bias[order]
    same(made.values(pattern=shuffled, bias=bias), made.values(), "the output depends on the order of the edges")
    if subject.declared.weights != "none":
        found, before = (
            shown_by(each.weights) for each in (made(pattern=shuffled, bias=bias, need=Need()), made(need=Need()))
        )
        same(found, before[order], "weights are not in the caller's order of edges")


def _on_edges(subject: Subject) -> str:
    return "" if "edges" in subject.declared.layouts else "it does not run on edges"


def _with_and_without_bias(subject: Subject, *patterns: str, **settings: bool) -> Iterator[Case]:
    for case in subject.cases(*patterns, **settings):
        yield case
        yield replace(case, bias=True)


WEIGHING = (
    Check(
        weights,
        lambda subject: subject.cases(*PATTERNS),
        lambda subject: "it declares no weights" if subject.declared.weights == "none" else "",
    ),
    Check(row_sums, _row_sums_cases, _row_sums_unless),
    Check(
        edges_dense,
        lambda subject: _with_and_without_bias(subject, "simple"),
        lambda subject: "" if set(subject.layouts()) == {"dense", "edges"} else "it has one layout only",
    ),
    Check(edge_order, lambda subject: _with_and_without_bias(subject, "graph", each_backend=True), _on_edges),
)
