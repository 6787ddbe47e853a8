"""`toolkit show attention NAME` with a pattern and a shape: which backend, and why."""

import json

import pytest

from toolkit.cli.main import main


def shown(capsys, *arguments):
    code = main(["show", *arguments])
    return code, capsys.readouterr()


def test_a_kind_before_the_name_narrows_it(capsys):
    code, told = shown(capsys, "attention", "gat", "--json")
    assert code == 0
    assert json.loads(told.out)["name"] == "core:gat"
    code, told = shown(capsys, "attention", "gat_cora")
    assert code == 2
    assert "'gat'" in told.err


def test_the_backend_and_the_reasons_are_told(capsys):
    code, told = shown(capsys, "attention", "scaled_dot_product", "--pattern", "causal", "--json")
    chosen = json.loads(told.out)["chosen"]
    assert (code, chosen["backend"]) == (0, "sdpa")
    assert chosen["shape"] == "q (1, 8, 1024, 64), k (1, 8, 1024, 64)"
    code, told = shown(capsys, "gatv2", "--pattern", "causal() & padding([5, 9])", "--shape", "2,4,7,9,16")
    assert code == 0
    assert "not sdpa" in told.out
    assert "its score is not an inner product" in told.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gat", "--shape", "1,2,3"], "--shape wants batch,heads,length,dim"),
        (["gat", "--shape", "1,0,3,4"], "--shape wants"),
        (["gat", "--pattern", "padding([3])", "--shape", "2,1,4,8"], "the batch holds 2"),
        (["adam", "--pattern", "causal"], "'adam' is none"),
        (["cbam", "--pattern", "causal"], "'cbam' runs on the layout map: it has no pattern or backends"),
        (["deformable", "--shape", "1,2,4,8"], "'deformable' runs on the layout map"),
    ],
)
def test_what_does_not_fit_is_told(capsys, arguments, message):
    code, told = shown(capsys, *arguments)
    assert code == 2
    assert message in told.err
