"""Checks of what else can be asked for: the log-sum-exp of scores, and weights that gradients flow through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.edge_pattern import EdgePattern, edges
from toolkit.attention.mechanism import Request
from toolkit.attention.need import Need
from toolkit.attention.pairwise import Pairwise
from toolkit.attention.pattern import dense
from toolkit.errors import CapabilityError
from toolkit.testing.case import Case, Trial, trial
from toolkit.testing.check import Broken, Check, same
from toolkit.testing.subject import Subject
from toolkit.testing.weighing import applied, shown_by

_LSE, _GRADIENT = Need(weights=False, lse=True), Need(gradient=True)


def lse(subject: Subject, case: Case) -> None:
    """The log-sum-exp that is asked for is that of the row's scores, -inf where there are none.

    Of what is not pairwise, it is that of the log-sum-exps which each key gives alone. Where scores depend on values,
    as in a second hop, adding a number to all scores adds it.

    Why: parts of a long row are joined by it, so a wrong one mixes them wrongly.
    """
    made = trial(subject.target, case)
    output = made(need=_LSE)
    if output.lse is None:
        raise Broken("the log-sum-exp was asked for, but none came back")
    same(output.values, made.values(), "values change when the log-sum-exp is asked for")
    found = output.lse
    if not isinstance(made.mechanism, Pairwise):
        wanted = _of_keys_alone(made, case)
    elif torch.equal(_lse_of(made, v=made.v + 1), found):
        wanted = _of_scores(made)
    else:
        wanted = _of_raised_scores(made)
    if made.mechanism.capabilities.state == "queries":  # only the first row depends on no other
        found, wanted = found[:, :, :1], wanted[:, :, :1]
    empty = wanted == -torch.inf
    if not torch.equal(found == -torch.inf, empty):
        raise Broken("the log-sum-exp is -inf elsewhere than where a row has no scores")
    found, wanted = (each.masked_fill(empty, 0) for each in (found, wanted))
    same(found, wanted, "the log-sum-exp is not that of the scores")


def _of_scores(made: Trial) -> Tensor:
    """Sum scores up over what is weighed at all: the k largest, or those in a window that moves."""
    mechanism = made.mechanism
    assert isinstance(mechanism, Pairwise)
    call = mechanism.read(Request(q=made.q, k=made.k, v=made.v, pattern=made.pattern, bias=made.bias))
    weights = shown_by(made(need=Need()).weights)
    if call.layout == "edges":
        source, target = call.edges.index
        scores, bias = mechanism.score(call.q[target], call.k[source]), call.bias  # (E, H)
        rows = target[:, None] == torch.arange(len(call.q), device=target.device)  # (E, Nt)
    else:
        scores, bias, mask = mechanism.scores(call.q, call.k), mechanism.bias(call), call.mask()
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    scores = scores if bias is None else scores + bias
    if scores.shape == weights.shape:
        scores = scores.masked_fill(weights == 0, -torch.inf)
    if call.layout == "edges":
        total = torch.where(rows[..., None], scores[:, None], -torch.inf).logsumexp(0)
    else:
        total = scores.logsumexp(-1)
    return total.logaddexp(torch.zeros_like(total)) if mechanism.normalize == "softmax_plus_one" else total


def _lse_of(made: Trial, **changed: Any) -> Tensor:
    found = made(**changed, need=_LSE).lse
    assert found is not None
    return found


def _of_keys_alone(made: Trial, case: Case) -> Tensor:
    parts = []
    if isinstance(made.pattern, EdgePattern):
        for e in range(made.pattern.num_edges):
            one = edges(made.pattern.index[:, e : e + 1], case.queries, case.keys)
            parts.append(_lse_of(made, pattern=one, bias=None if made.bias is None else made.bias[e : e + 1]))
    else:
        for key in torch.eye(case.keys, dtype=torch.bool, device=made.q.device):
            alone = dense(key[None, None, None])
            given = made.pattern if case.pattern != "full" else None
            parts.append(_lse_of(made, pattern=alone if given is None else given & alone))
    return torch.stack(parts).logsumexp(0)


def _of_raised_scores(made: Trial) -> Tensor:
    if (
        getattr(made.mechanism, "normalize", "softmax") != "softmax"
    ):  # raised scores give other weights, and those other hops
        return _lse_of(made)
    size = (made.pattern.num_edges, 1) if isinstance(made.pattern, EdgePattern) else (1, 1, 1, 1)
    return _lse_of(made, bias=(made.q.new_zeros(size) if made.bias is None else made.bias) - 2) + 2


def _lse_cases(subject: Subject) -> Iterator[Case]:
    yield from subject.cases("causal & padding", "graph", each_backend=True)
    yield from subject.cases("mask", "holes", "graph", bias=True)
    for case in subject.cases("full", "graph"):
        yield case
        if case.queries == case.keys and subject.takes("normalize"):
            for name in ("softmax_plus_one", "sigmoid"):
                yield replace(case, options={**case.options, "normalize": name})


def weight_gradient(subject: Subject, case: Case) -> None:
    """Weights asked for with `gradient` have their derivative: exact ones, times values, have the output's gradients.

    Those that only describe the output have the gradient of finite differences.

    Why: a penalty on weights that were detached trains nothing, in silence.
    """
    made = trial(subject.target, case).require_grad()
    output = made(need=_GRADIENT)
    shown, values = shown_by(output.weights), made.values()
    same(output.values, values, "values change when weights are asked for with gradients")
    if subject.declared.weights != "exact":
        if not shown.requires_grad:
            raise Broken("weights were asked for with `gradient`, but are detached")
        leaves = tuple(made.leaves().values())
        if subject.declared.gradient == "exact" and not torch.autograd.gradcheck(
            lambda *_: shown_by(made(need=_GRADIENT).weights), leaves, fast_mode=True, raise_exception=False
        ):
            raise Broken("the gradient of weights is not the derivative")
        return
    leaves_by_name = made.leaves()
    mixture = torch.linspace(-0.5, 1.5, values.numel(), dtype=values.dtype, device=values.device).view(values.shape)
    one, other = (
        torch.autograd.grad((each * mixture).sum(), list(leaves_by_name.values()), materialize_grads=True)
        for each in (applied(made, shown, case), values)
    )
    for name, found, wanted in zip(leaves_by_name, one, other, strict=True):
        same(found, wanted, f"weights times values have another gradient with respect to {name} than the output")


def _gradient_cases(subject: Subject) -> Iterator[Case]:
    yield from subject.cases("full", "causal & padding", "graph")
    yield from subject.cases("mask", "graph", bias=True)


def _refused(need: Need) -> Callable[[Subject], str]:
    """Say that a mechanism refuses what would be checked, as it may; whatever else it does is for the check."""

    def unless(subject: Subject) -> str:
        asked = "a log-sum-exp" if need.lse else "weights with gradients"
        layouts = subject.layouts()
        for layout in layouts if not subject.on_maps else ():
            try:
                trial(subject.target, replace(_SIMPLE[layout], options=subject.examples[0]))(need=need)
            except CapabilityError:
                continue
            except Exception:  # the check says what is wrong
                return ""
            return ""
        return f"it refuses {asked}"

    return unless


_SIMPLE = {"dense": Case(), "edges": Case(layout="edges", pattern="graph")}

SHOWING = (
    Check(lse, _lse_cases, _refused(_LSE)),
    Check(
        weight_gradient,
        _gradient_cases,
        _refused(_GRADIENT),
    ),
)
