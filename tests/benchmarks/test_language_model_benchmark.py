"""The benchmark of language models: the same is learned from the same start, and functions are cut out rightly."""

import math

import language_model
import pytest
from language_model import chosen, equal, generating, parses, speed, whole_function, xz


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
    (tmp_path / "texts").mkdir()
    for number in range(40):
        lines = "".join(f"line {(number * k) % 17} of {number}\n" for k in range(40))
        (tmp_path / "texts" / f"{number}.txt").write_text(lines, encoding="utf-8")
    return [
        *("data=text:corpus", f"data.files={tmp_path / 'texts'}", "data.vocabulary=300", "data.context=16"),
        *("data.batch_size=4", "model.dim=16", "model.heads=2", "model.num_layers=2"),
    ]


def test_from_the_same_start_both_end_alike(small):
    found = equal(small, 25, [0, 1])
    bits = found["bits_per_byte"]
    assert bits["ours"] == pytest.approx(bits["same start"], rel=1e-4)
    assert bits["ours"] != pytest.approx(bits["peer"], rel=1e-4)  # whose weights are others
    assert found["spread"]["ours"] > 0
    assert max(bits["ours"]) < math.log2(300)  # fewer bits than a token of two bytes and more takes unlearned


def test_steps_are_timed_in_turn(small):
    found = speed(chosen(small), 4, compiled=False, warm=1)
    assert found["pairs"] == 4
    assert found["tokens_a_step"] == 64
    assert min(found["ours"], found["peer"], found["ratio"]) > 0


def test_both_write_as_many_tokens(small):
    (found,) = generating(chosen([*small, "data.context=48"]), 2, [3], 7)
    assert (found["batch"], found["tokens"]) == (3, 7)
    assert min(found["ours"], found["peer"]) > 0


def test_xz_of_one_stream_is_never_worse_than_of_files_apart(small):
    found = xz(chosen(small))
    assert 0 < found["together"] < found["apart"]
    assert found["files"] > 1


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("def f(x):\n    return x\n\n\ndef g():\n", "def f(x):\n    return x\n\n"),
        ("def f(\n    x,\n):\n    pass\nx = 1", "def f(\n    x,\n):\n    pass"),
        ("def f(x):\n    return x\n", None),
        ("def f(x): return x\nclass A:", "def f(x): return x"),
    ],
)
def test_a_function_ends_where_a_line_is_not_indented(text, function):
    assert whole_function(text) == function


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("def f(x):\n    return x\n", True),
        ("def f(x:\n    return x", False),
        ("def f(x):\n", False),
        ("def f():\n  '\0'", False),
    ],
)
def test_what_python_accepts_parses(code, right):
    assert parses(code) is right


def test_the_prompts_are_beginnings_of_functions():
    assert all(parses(f"def {name}(x):\n    pass") for name in language_model.NAMES)
