"""`toolkit conform`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from toolkit.cli.list import short_name
from toolkit.cli.output import duration, json_option, note, print_json, print_table, say
from toolkit.plugins import current_toolkit

if TYPE_CHECKING:
    from toolkit.testing.check import Outcome

MARKS = {"passed": "ok", "failed": "NO", "unanswered": "0", "skipped": "-"}


@click.command("conform", short_help="Hold attention mechanisms to the contract: leaks, gradients, weights ...")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "every", is_flag=True, help="Every registered mechanism.")
@click.option("--check", "checks", multiple=True, metavar="CHECK", help="This check only; may be given several times.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all that is drawn.")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Where to run: cpu, cuda ...")
@json_option
@click.pass_context
def command(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    checks: tuple[str, ...],
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Hold attention mechanisms to the contract by what they declare: leaks, gradients, weights, backends.

    NAME is a mechanism, or a plugin for all that it registers. A check that does not apply is skipped and says why; one
    whose requests were all refused is told apart from it. Who refuses much has few answers: they are counted.
    What fails is shown by a small example and the lines that run it again. Exit code 1 if something fails.
    """
    toolkit = current_toolkit()
    if bool(names) == every:
        raise click.UsageError("give names of mechanisms or plugins, or --all", context)

    from toolkit.testing.kit import CHECKS, check_named, conform
    from toolkit.testing.subject import Subject, chosen, not_covered

    entries = toolkit.registry.all("attention") if every else chosen(list(names), toolkit)
    wanted = [check_named(name) for name in checks] or list(CHECKS.values())
    start = time.perf_counter()
    found: list[Outcome] = []
    missing: dict[str, str] = {}
    for entry in entries:
        name = short_name(toolkit, "attention", entry.full_name)
        if why := not_covered(entry):
            missing[name] = why
            continue
        outcomes = list(conform(Subject.of(name, entry.load()), wanted, seed=seed, device=device))
        found += outcomes
        if every and not as_json:
            note(f"{name}: {_summary(outcomes)}")
    if as_json:
        print_json({"outcomes": [each.plain() for each in found], "not_covered": missing})
    else:
        _print(found, missing, [check.name for check in wanted], one=len(entries) == 1)
        say(f"\n{_summary(found)} in {duration(time.perf_counter() - start)}")
    if any(each.status == "failed" for each in found):
        context.exit(1)


def _print(found: list[Outcome], missing: dict[str, str], checks: list[str], *, one: bool) -> None:
    if one:
        rows = [(each.check, MARKS[each.status], str(each.answered), str(each.refused), each.detail) for each in found]
        print_table(["check", "holds", "answered", "refused", "why"], rows, wrapped=True)
    elif found:
        _print_scoreboard(found, checks)
    for each in found:
        if each.status == "failed":
            say(f"\n{each.mechanism} breaks {each.check}: {each.detail}")
            if each.case is not None:
                say(f"small example: {each.case}\nrun it again: {each.rerun}")
    for name, why in missing.items():
        say(f"not covered: {name}: {why}")


def _print_scoreboard(found: list[Outcome], checks: list[str]) -> None:
    marks = {(each.mechanism, each.check): MARKS[each.status] for each in found}
    mechanisms = list(dict.fromkeys(each.mechanism for each in found))
    answered, refused = (
        {name: str(sum(getattr(each, what) for each in found if each.mechanism == name)) for name in mechanisms}
        for what in ("answered", "refused")
    )
    rows = [(name, *(marks[name, check] for check in checks), answered[name], refused[name]) for name in mechanisms]
    print_table(["mechanism", *(str(place) for place in range(1, len(checks) + 1)), "answered", "refused"], rows)
    say("\nok holds, NO fails, 0 got no answer, - does not apply (`toolkit conform NAME` says why)")
    say("answered, refused: requests, each backend asked for itself")
    say(", ".join(f"{place} {check}" for place, check in enumerate(checks, 1)))


def _summary(found: list[Outcome]) -> str:
    counts = {status: sum(each.status == status for each in found) for status in MARKS}
    failed = [each.check for each in found if each.status == "failed"]
    names = f" ({', '.join(dict.fromkeys(failed))})" if failed else ""
    answered, refused = sum(each.answered for each in found), sum(each.refused for each in found)
    return (
        f"{counts['passed']} checks hold, {counts['failed']} fail{names}, {counts['unanswered']} got no answer, "
        f"{counts['skipped']} do not apply; {answered} requests answered, {refused} refused"
    )
