"""All checks, and running them: `conform(subject("gat"))`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from toolkit.errors import UnknownNameError, nearest
from toolkit.testing.behaving import BEHAVING
from toolkit.testing.case import Case
from toolkit.testing.check import Check, Outcome, run_check
from toolkit.testing.continuing import CONTINUING
from toolkit.testing.looking import LOOKING
from toolkit.testing.maps import with_maps
from toolkit.testing.numbers import NUMBERS
from toolkit.testing.rounding import ROUNDING
from toolkit.testing.showing import SHOWING
from toolkit.testing.subject import Subject, subject
from toolkit.testing.weighing import WEIGHING

CHECKS: dict[str, Check] = {
    check.name: with_maps(check)
    for check in (*LOOKING, *NUMBERS, *ROUNDING, *WEIGHING, *SHOWING, *BEHAVING, *CONTINUING)
}


def conform(
    tested: Subject, checks: Iterable[Check] | None = None, *, seed: int = 0, device: str = "cpu"
) -> Iterator[Outcome]:
    """Hold a mechanism to every check, or to some."""
    for check in CHECKS.values() if checks is None else checks:
        yield run_check(check, tested, seed=seed, device=device)


def check_named(name: str) -> Check:
    """Return a check by name. Raises: UnknownNameError."""
    if name not in CHECKS:
        raise UnknownNameError(f"the kit has no check {name!r}.{nearest(name, CHECKS)}")
    return CHECKS[name]


def rerun(mechanism: str | Subject, check: str, case: Case) -> None:
    """Run one check of one mechanism on one case, and let whatever it raises through."""
    tested = subject(mechanism) if isinstance(mechanism, str) else mechanism
    check_named(check).run(tested, case)
