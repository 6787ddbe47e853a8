"""`toolkit conform`: verdicts in a table and in JSON, exit codes, and what it says of what it cannot test."""

from __future__ import annotations

import re
import types

import pytest

from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError
from toolkit.hookspecs import hookimpl
from toolkit.testing.kit import CHECKS

FEW = ("--check", "weights", "--check", "state")


class Skewed(ScaledDotProduct):
    """The values of the first key count twice, and the weights do not say so."""

    name = "skewed"

    def attend(self, request):
        output = super().attend(request)
        return types.SimpleNamespace(**vars(output) | {"values": 2 * output.values})


class Refuses(ScaledDotProduct):
    """It declares dense attention and answers it, but under no padding."""

    name = "refuses"

    def prepare(self, call):
        if call.pattern is not None and call.pattern.per_sample:
            raise CapabilityError("refuses takes no padding")
        return super().prepare(call)


class Broken:
    @hookimpl
    def register_attention(self, register):
        register("skewed", f"{__name__}:Skewed", summary="Wrong")
        register("refuses", f"{__name__}:Refuses", summary="Answers little")
        register("function", "builtins:print", summary="No mechanism at all")


def test_one_mechanism_that_holds(toolkit):
    done = toolkit("conform", "gat", *FEW)
    assert done.code == 0
    assert "it declares no state" in done.out
    assert re.search(
        r"1 checks hold, 0 fail, 0 got no answer, 1 do not apply; \d\d requests answered, 0 refused", done.out
    )


def test_json_holds_every_outcome_and_nothing_else(toolkit):
    found = toolkit("conform", "gat", "scaled_dot_product", *FEW, "--json").json
    assert [(each["mechanism"], each["check"], each["status"]) for each in found["outcomes"]] == [
        (name, check, status)
        for name in ("gat", "scaled_dot_product")
        for check, status in (("weights", "passed"), ("state", "skipped"))
    ]
    assert found["not_covered"] == {}


def test_failing_mechanism_has_a_small_example_and_exit_code_1(toolkit, digits_toolkit):
    digits_toolkit.register(Broken(), "broken")
    done = toolkit("conform", "broken", *FEW)
    assert done.code == 1
    assert "skewed breaks weights: weights times values are not the output" in done.out
    assert "small example: Case(batch=1, heads=1" in done.out
    assert "rerun('skewed', 'weights', Case(batch=1, heads=1" in done.out
    assert "not covered: function: builtins:print is no subclass of toolkit.attention.Mechanism" in done.out
    outcomes = toolkit("conform", "skewed", *FEW, "--json")
    assert outcomes.code == 1
    assert outcomes.json["outcomes"][0]["case"].startswith("Case(batch=1")


def test_all_prints_a_scoreboard_of_mechanisms_by_checks(toolkit, digits_toolkit):
    done = toolkit("conform", "--all", "--check", "declared", "--check", "row_sums")
    assert done.code == 0, done.out
    assert "1 declared, 2 row_sums" in done.out
    lines = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line}
    for entry in digits_toolkit.registry.all("attention"):
        assert lines[entry.name][0] == "ok"


def test_what_got_no_answer_is_told_apart_from_what_does_not_apply(toolkit, digits_toolkit):
    digits_toolkit.register(Broken(), "broken")
    words = ("--check", "padding_leak", "--check", "state", "--check", "declared")
    one = toolkit("conform", "refuses", *words)
    assert "1 checks hold, 0 fail, 1 got no answer, 1 do not apply" in one.out
    assert "requests were refused, the first so: refuses takes no padding" in one.out
    board = toolkit("conform", "refuses", "gat", *words)
    lines = {line.split()[0]: line.split()[1:] for line in board.out.splitlines() if line}
    assert lines["refuses"][:3] == ["0", "-", "ok"]
    assert lines["gat"][:3] == ["ok", "-", "ok"]
    assert int(lines["refuses"][3]) < int(lines["gat"][3])  # requests that were answered


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give names of mechanisms or plugins, or --all"),
        (("gat", "--all"), "give names of mechanisms or plugins, or --all"),
        (("gatt",), "Did you mean 'gat'?"),
        (("gat", "--check", "weight"), "Did you mean 'weights'?"),
    ],
)
def test_mistakes_say_what_would_work(toolkit, words, said):
    done = toolkit("conform", *words)
    assert done.code == 2
    assert said in done.err


def test_seed_changes_what_is_drawn(toolkit):
    assert toolkit("conform", "gat", "--seed", "3", *FEW).code == 0


def test_a_failing_rerun_line_raises(toolkit, digits_toolkit):
    digits_toolkit.register(Broken(), "broken")
    line = toolkit("conform", "skewed", *FEW, "--json").json["outcomes"][0]["rerun"]
    with pytest.raises(AssertionError, match="weights times values"):
        exec(line, {})
    assert "weights" in CHECKS
