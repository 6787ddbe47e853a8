"""Checks of what goes on later: from the last queries, from the state of a call before, from what was saved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from toolkit.attention.pattern import dense
from toolkit.testing.case import Case, trial
from toolkit.testing.check import Broken, Check, same
from toolkit.testing.looking import allowed
from toolkit.testing.subject import Subject


def last_queries(subject: Subject, case: Case) -> None:
    """The last queries alone, given all keys, give the last rows of the whole.

    Why: who generates keeps keys and asks for one token at a time. Positions are aligned bottom-right: queries that are
    counted from 0 stand at the wrong place as soon as there are fewer of them than keys.
    """
    made = trial(subject.target, case)
    whole = made.values()
    for n in range(1, min(3, case.queries)):
        bias = None if made.bias is None else made.bias[:, :, -n:]
        some = made.values(q=made.q[:, :, -n:], bias=bias)
        same(some, whole[:, :, -n:], "the last queries alone give another output than as part of the whole")


def _last_cases(subject: Subject) -> Iterator[Case]:
    placed = ("full",) if subject.positional else ()
    for case in subject.cases("causal", "causal & window", "causal & padding", *placed):
        if case.layout == "dense":
            yield case


def _last_unless(subject: Subject) -> str:
    if "dense" not in subject.declared.layouts or not subject.declared.causal:
        return "it declares no causal patterns of sequences"
    if not subject.declared.cross:
        return "it declares as many queries as keys"
    return "a row depends on the queries before it (`state`)" if subject.declared.state == "queries" else ""


def state(subject: Subject, case: Case) -> None:
    """Token by token, each call going on from the state of the last, gives what one call on the whole gives.

    Memory of whole segments gives something else by design: there the state must come back and matter.

    Why: a model is trained on whole sequences and generates one token at a time.
    """
    made = trial(subject.target, case)
    if subject.declared.state == "segments":
        kept = made().state
        if kept is None or torch.equal(made.values(state=kept), made.values()):
            raise Broken("a state is declared, but none came back or the next call does not read it")
        return
    whole, kept, parts = made.values(), None, []
    for i in range(case.queries):
        some = slice(i, i + 1)
        q = made.q[:, :, some]
        if subject.declared.state == "keys":
            output = made(q=q, k=made.k[:, :, some], v=made.v[:, :, some], state=kept)
        else:
            pattern = None if case.pattern == "full" else dense(allowed(made, case)[:, :, some])
            output = made(q=q, pattern=pattern, state=kept)
        kept = output.state
        if kept is None:
            raise Broken("a state is declared, but none came back")
        parts.append(output.values)
    same(torch.cat(parts, 2), whole, "token by token gives another output than the whole")


def _state_cases(subject: Subject) -> Iterator[Case]:
    for case in subject.cases("causal" if subject.declared.state == "keys" else "full"):
        if case.layout == "dense" and (case.queries == case.keys or subject.declared.state != "keys"):
            yield case


def state_dict(subject: Subject, case: Case) -> None:
    """A mechanism built under another seed that loads the state of the first gives the same bits.

    Why: what is drawn at the start and not saved is drawn anew when a model is loaded, which then is another model.
    """
    made = trial(subject.target, case)
    other = trial(subject.target, replace(case, seed=case.seed + 1)).mechanism
    other.load_state_dict({name: each.clone() for name, each in made.mechanism.state_dict().items()})
    if not torch.equal(replace(made, mechanism=other).values(), made.values()):
        raise Broken("another mechanism that loads its state gives another output")


CONTINUING = (
    Check(last_queries, _last_cases, _last_unless),
    Check(state, _state_cases, lambda subject: "it declares no state" if subject.declared.state == "none" else ""),
    Check(state_dict, lambda subject: subject.cases("full", "causal & padding", "graph")),
)
