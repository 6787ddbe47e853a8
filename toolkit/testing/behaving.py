"""Checks of behaviour: samples by themselves, order, evaluation, and torch's compilers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit.attention.edge_pattern import EdgePattern, edges
from toolkit.attention.mechanism import Mechanism
from toolkit.attention.pattern import Pattern, dense
from toolkit.testing.case import Case, trial
from toolkit.testing.check import Broken, Check, quiet, same
from toolkit.testing.looking import allowed
from toolkit.testing.patterns import of_sample
from toolkit.testing.subject import Subject


def batch_independence(subject: Subject, case: Case) -> None:
    """A sample alone gives what it gives beside others, whatever those hold; graphs likewise, side by side.

    Why: statistics over the batch make a prediction depend on who else asked.
    """
    made = trial(subject.target, case)
    if case.layout == "edges":
        return _graphs_side_by_side(subject, case)
    assert made.pattern is not None
    together = made.values()
    others = {name: getattr(made, name).clone() for name in ("q", "k", "v")}
    for each in others.values():
        each[1:] = 5 - 20 * each[1:]
    same(made.values(**others)[0], together[0], "a sample's output changes when the others of its batch do")
    for b in (0, case.batch - 1):
        one = {name: getattr(made, name)[b : b + 1] for name in ("q", "k", "v")}
        pattern = of_sample(made.pattern, b, case.queries, case.keys, case.batch, case.heads)
        alone = made.values(**one, pattern=pattern)
        same(alone, together[b : b + 1], "a sample's output alone is not what it is in a batch")
    return None


def _graphs_side_by_side(subject: Subject, case: Case) -> None:
    one, two = trial(subject.target, case), trial(subject.target, replace(case, seed=case.seed + 1))
    assert isinstance(one.pattern, EdgePattern)
    assert isinstance(two.pattern, EdgePattern)
    offset = torch.tensor([[case.keys], [case.queries]], device=one.q.device)
    index = torch.cat([one.pattern.index, two.pattern.index + offset], 1)
    both = [torch.cat([getattr(one, name), 10 * getattr(two, name)]) for name in ("q", "k", "v")]
    values = one.values(q=both[0], k=both[1], v=both[2], pattern=edges(index, 2 * case.queries, 2 * case.keys))
    same(values[: case.queries], one.values(), "a graph's output alone is not what it is beside another")


def _shuffled(subject: Subject, case: Case, what: str) -> None:
    made = trial(subject.target, case)
    assert made.pattern is not None
    generator = torch.Generator().manual_seed(case.seed + 1)
    order = torch.randperm(case.queries if what == "queries" else case.keys, generator=generator).to(made.q.device)
    before = made.values()
    if case.layout == "edges":
        assert isinstance(made.pattern, EdgePattern)
        place = order.argsort()
        source, target = made.pattern.index
        source, target = (source, place[target]) if what == "queries" else (place[source], target)
        pattern: Pattern = edges(torch.stack([source, target]), case.queries, case.keys)
        axis = 0
    else:
        axis = 2
        pattern = made.pattern
        if case.pattern != "full":
            pattern = dense(allowed(made, case).index_select(2 if what == "queries" else 3, order))
    if what == "queries":
        after = made.values(q=made.q.index_select(axis, order), pattern=pattern)
        same(after, before.index_select(axis, order), "permuting queries does not permute the output; " + _HINT)
    else:
        k, v = (each.index_select(axis, order) for each in (made.k, made.v))
        same(made.values(k=k, v=v, pattern=pattern), before, "permuting keys changes the output; " + _HINT)


_HINT = "if places are meant to matter, declare `positional=True`"


def query_permutation(subject: Subject, case: Case) -> None:
    """Permuting queries, with the rows of the pattern, permutes the output.

    Why: without positions a query does not know where it stands.
    """
    _shuffled(subject, case, "queries")


def key_permutation(subject: Subject, case: Case) -> None:
    """Permuting keys together with values and the pattern changes nothing.

    Why: without positions keys are a set.
    """
    _shuffled(subject, case, "keys")


def deterministic(subject: Subject, case: Case) -> None:
    """In evaluation the same request gives the same bits whatever the random seed, and changes nothing it was given.

    Why: a prediction that differs from one call to the next cannot be explained.
    """
    made = trial(subject.target, case)
    tensors = {"q": made.q, "k": made.k, "v": made.v, **dict(made.mechanism.state_dict())}
    before = {name: each.clone() for name, each in tensors.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = made.values()
        torch.manual_seed(2)
        second = made.values()
    if not torch.equal(first, second):
        raise Broken("two calls in evaluation give different outputs")
    after = {"q": made.q, "k": made.k, "v": made.v, **dict(made.mechanism.state_dict())}
    for name, each in before.items():
        if not torch.equal(after[name], each):
            raise Broken(f"a call in evaluation changes {name}")


def dropout_off(subject: Subject, case: Case) -> None:
    """Dropout does nothing in evaluation, and something in training.

    Why: dropout left on blurs every prediction; dropout that never drops is a dead option.
    """
    made = trial(subject.target, case)
    quiet = replace(case, options={name: each for name, each in case.options.items() if name != "dropout"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        same(made.values(), trial(subject.target, quiet).values(), "dropout changes the output in evaluation")
        training = trial(subject.target, replace(case, queries=16, keys=16), train=True)
        if all(torch.equal(training.values(), training.values()) for _ in range(3)):
            raise Broken("dropout changes nothing in training")


def _dropout_cases(subject: Subject) -> Iterator[Case]:
    for case in subject.cases("full", "graph", each_backend=True):
        yield replace(case, options={**case.options, "dropout": 0.5})


class _Fixed(nn.Module):
    """A mechanism with its pattern fixed, for compilers that take tensors only."""

    def __init__(self, mechanism: Mechanism, pattern: Pattern | None) -> None:
        super().__init__()
        self.mechanism, self.pattern = mechanism, pattern

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        values: Tensor = self.mechanism(q, k, v, self.pattern).values
        return values


def compiles(subject: Subject, case: Case) -> None:
    """torch.compile takes it as one graph, forward and backward, with the same output and gradients.

    Why: a graph break in every layer costs more than compiling gains.
    """
    made = trial(subject.target, case).require_grad()
    module = _Fixed(made.mechanism, made.pattern)
    inputs = (made.q, made.k, made.v)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with quiet(logging.ERROR):
        found = compiled(*inputs)
    wanted = module(*inputs)
    same(found, wanted, "compiled, it gives another output")
    for name, one, other in zip(
        "qkv", *(torch.autograd.grad(each.sum(), inputs) for each in (found, wanted)), strict=True
    ):
        same(one, other, f"compiled, it gives another gradient with respect to {name}")


def exports(subject: Subject, case: Case) -> None:
    """torch.export takes it, and the exported program gives the same output.

    Why: what cannot be exported cannot leave Python.
    """
    made = trial(subject.target, case)
    module, inputs = _Fixed(made.mechanism, made.pattern), (made.q, made.k, made.v)
    with quiet(logging.ERROR):
        program = torch.export.export(module, inputs)
    same(program.module()(*inputs), module(*inputs), "exported, it gives another output")


def _compiler_cases(subject: Subject, layouts: frozenset[str]) -> Iterator[Case]:
    for case in subject.cases("causal" if subject.declared.causal else "full", "graph"):
        if case.layout in layouts and case.queries == case.keys:
            yield case


_BATCHED = ("full", "causal", "padding", "causal & padding", "segments", "sample_mask", "graph")
_ORDERED = "places matter to it, so order does"

BEHAVING = (
    Check(
        batch_independence,
        lambda subject: subject.cases(*_BATCHED, each_backend=True, batch=3),
        lambda subject: "" if subject.declared.batch_independent else "it declares that samples influence each other",
    ),
    Check(
        query_permutation,
        lambda subject: subject.cases("full", "mask", "graph"),
        lambda subject: _ORDERED if subject.positional else "",
    ),
    Check(
        key_permutation,
        lambda subject: subject.cases("full", "mask", "sample_mask", "graph"),
        lambda subject: _ORDERED if subject.positional else "",
    ),
    Check(deterministic, lambda subject: subject.cases("full", "causal & padding", "graph", each_backend=True)),
    Check(
        dropout_off, _dropout_cases, lambda subject: "" if subject.takes("dropout") else "it has no option `dropout`"
    ),
    Check(
        compiles,
        lambda subject: _compiler_cases(subject, frozenset(subject.declared.compiles)),
        lambda subject: "" if subject.declared.compiles else "it is not declared to compile (`compiles`)",
        firm=True,
        shrinks=False,
    ),
    Check(
        exports,
        lambda subject: _compiler_cases(subject, frozenset(subject.declared.exports)),
        lambda subject: "" if subject.declared.exports else "it is not declared to export (`exports`)",
        firm=True,
        shrinks=False,
    ),
)
