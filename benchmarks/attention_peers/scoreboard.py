"""The conformance kit, held to other packages and to our mechanisms that do the same: what holds, what breaks, where.

The contract is ours, and stricter than what peers promise: NaN in masked keys, for one, is nobody's promise but ours.
The kit works in double precision. What breaks there is tried again in single, and told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal

import torch

from attention_peers.approximate import Linformer, Nystrom, Performer, PerformerCross
from attention_peers.exact import Local, XTransformers, XTransformersAtCall, XTransformersFlash
from attention_peers.packages import missing
from toolkit.attention.mechanism import Mechanism
from toolkit.testing.case import Case
from toolkit.testing.check import Check, Outcome, run_check
from toolkit.testing.kit import CHECKS
from toolkit.testing.subject import Subject
from toolkit.testing.subject import subject as registered

Mark = Literal["ok", "NO", "double", "-"]
LEGEND = (
    "ok holds, NO fails, double fails in double precision and holds (or cannot be asked) in single, - does not apply "
    "to what it claims"
)
DOUBLE_ONLY = ("gradcheck", "double_backward")  # finite differences say nothing in single precision
OWN_TYPES = ("half_precision",)


@dataclass(frozen=True)
class Tested:
    """An adapter, its package, and the registered mechanisms of ours that compute or estimate the same."""

    target: type[Mechanism]
    package: str
    ours: tuple[str, ...]


PEERS = {
    tested.target.name: tested
    for tested in (
        Tested(XTransformers, "x-transformers", ("scaled_dot_product",)),
        Tested(XTransformersFlash, "x-transformers", ("scaled_dot_product",)),
        Tested(XTransformersAtCall, "x-transformers", ("scaled_dot_product",)),
        Tested(Local, "local-attention", ("block_local", "sliding_window")),
        Tested(Performer, "performer-pytorch", ("performer",)),
        Tested(PerformerCross, "performer-pytorch", ("performer",)),
        Tested(Linformer, "linformer", ("linformer",)),
        Tested(Nystrom, "nystrom-attention", ("nystrom",)),
    )
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """What came of the checks of one mechanism. absent: why it was not tested. claims: what a peer offers, in words."""

    name: str
    peer: bool
    claims: str = ""
    absent: str = ""
    outcomes: tuple[tuple[Outcome, Mark], ...] = ()

    @property
    def broken(self) -> list[Outcome]:
        return [each for each, mark in self.outcomes if mark in ("NO", "double")]

    def plain(self) -> dict[str, Any]:
        """Return the column as plain values."""
        marks = {each.check: mark for each, mark in self.outcomes}
        broken = [
            {
                "check": each.check,
                "detail": each.detail,
                "pattern": each.case.pattern if each.case else "",
                "rerun": rerun_line(each, self.peer),
            }
            for each in self.broken
        ]
        shown = {"name": self.name, "peer": self.peer, "claims": self.claims, "absent": self.absent}
        return {**shown, "marks": marks, "broken": broken}


def subject(name: str) -> Subject:
    """Return a peer, or a mechanism that is registered, as the kit tests it."""
    return Subject.of(name, PEERS[name].target) if name in PEERS else registered(name)


def columns(peers: dict[str, Tested], checks: Iterable[Check] = tuple(CHECKS.values())) -> Iterator[Column]:
    """Hold each peer to the kit, and after it ours that do the same. A package that is missing is told, not tested."""
    done: set[str] = set()
    for name, tested in peers.items():
        absent, claims = missing(tested.package), getattr(tested.target, "claims", "")
        found = () if absent else _held(Subject.of(name, tested.target), checks)
        yield Column(name=name, peer=True, claims=claims, absent=absent, outcomes=found)
        for own in tested.ours:
            if own not in done:
                done.add(own)
                yield Column(name=own, peer=False, outcomes=_held(registered(own), checks))


def _held(tested: Subject, checks: Iterable[Check]) -> tuple[tuple[Outcome, Mark], ...]:
    return tuple(verdict(check, tested) for check in checks)


def verdict(check: Check, tested: Subject) -> tuple[Outcome, Mark]:
    """Run a check, and once more in single precision if it fails; that failure is told then."""
    found = run_check(check, tested)
    if found.status != "failed":
        return found, "ok" if found.status == "passed" else "-"
    if check.name in OWN_TYPES:
        return found, "NO"
    if check.name in DOUBLE_ONLY:
        return found, "double"
    again = run_check(_in_single(check), tested)
    if again.status != "failed" or again.case is None:
        return found, "double"
    return replace(again, case=replace(again.case, dtype=torch.float32)), "NO"


def _in_single(check: Check) -> Check:
    @wraps(check.run)
    def run(tested: Subject, case: Case) -> None:
        check.run(tested, replace(case, dtype=torch.float32))  # smaller cases too, which would go back to double

    return replace(check, run=run)


def rerun_line(outcome: Outcome, peer: bool) -> str:
    """Return Python that runs a failing example again: of a peer, in the folder benchmarks."""
    if not peer or not outcome.rerun:
        return outcome.rerun
    name = repr(outcome.mechanism)
    asked = outcome.rerun.replace(f"rerun({name},", f"rerun(subject({name}),")
    return f"from attention_peers.scoreboard import subject; {asked}"


def table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows, one row a check, of columns as plain values; what was not tested is left out."""
    shown = [each for each in found if not each["absent"]]
    names = [name for name in CHECKS if any(each["marks"].get(name, "-") != "-" for each in shown)]
    rows = [[name, *(each["marks"].get(name, "") for each in shown)] for name in names]
    return ["check", *(each["name"] if each["peer"] else f"our {each['name']}" for each in shown)], rows
