"""The kit as tests: `pytest --toolkit-plugin NAME` runs every check on every mechanism that the plugin NAME registers.

NAME may be one mechanism's name too. Nothing is imported and nothing collected unless the option is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from toolkit.testing.check import Check, Outcome
    from toolkit.testing.subject import Subject


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("attention-toolkit")
    group.addoption(
        "--toolkit-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="Hold the attention mechanisms of an installed toolkit plugin, or one mechanism, to the contract.",
    )


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one item a mechanism and check; a mechanism that the kit does not cover is one skipped item."""
    names = config.getoption("--toolkit-plugin")
    if not names:
        return
    from toolkit.errors import ToolkitError
    from toolkit.testing.kit import CHECKS
    from toolkit.testing.subject import Subject, chosen, not_covered

    try:
        entries = chosen(names)
    except ToolkitError as error:
        raise pytest.UsageError(f"--toolkit-plugin: {error}") from error
    for entry in entries:
        parent = _Mechanism.from_parent(session, name=entry.full_name)
        if why := not_covered(entry):
            items.append(_NotCovered.from_parent(parent, name="covered", why=why))
            continue
        subject = Subject.of(entry.full_name, entry.load())
        items += [_Item.from_parent(parent, name=name, check=check, subject=subject) for name, check in CHECKS.items()]


class _Mechanism(pytest.Collector):
    """Where the items of one mechanism hang."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        return []


class _BrokenError(Exception):
    """Carries the text of a failed check to the report."""


class _Item(pytest.Item):
    def __init__(self, *, check: Check, subject: Subject, **options: Any) -> None:
        super().__init__(**options)
        self.check, self.subject = check, subject

    def runtest(self) -> None:
        from toolkit.testing.check import run_check

        outcome: Outcome = run_check(self.check, self.subject)
        if outcome.status in ("skipped", "unanswered"):
            pytest.skip(outcome.detail)
        if outcome.status == "failed":
            raise _BrokenError(
                f"{outcome.mechanism} breaks {outcome.check}: {outcome.detail}\n\n{self.check.what}\n\n"
                f"small example: {outcome.case}\nrun it again: {outcome.rerun}"
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, _BrokenError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        return "toolkit.testing", None, f"{self.subject.name}: {self.check.name}"


class _NotCovered(pytest.Item):
    def __init__(self, *, why: str, **options: Any) -> None:
        super().__init__(**options)
        self.why = why

    def runtest(self) -> None:
        pytest.skip(f"the kit does not cover it: {self.why}")

    def reportinfo(self) -> tuple[str, int | None, str]:
        return "toolkit.testing", None, self.name
