"""Beside other packages: what is missing is told, what breaks is found and not known beforehand, the docs are current.

No test needs those packages. A stand-in for one of them is in the folder beside this file.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import attention as benchmark
import pytest
import torch
from attention_peers import packages, pairs, record, scoreboard, speed
from attention_peers.adapter import DENSE, Peer
from attention_peers.approximate import Linformer

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.mechanism import AttentionOutput
from toolkit.bench.measure import machine
from toolkit.testing.case import Case
from toolkit.testing.kit import CHECKS, rerun

STAND_IN = Path(__file__).parent / "stand_in"
PEERS = {"linformer": scoreboard.Tested(Linformer, "linformer", ())}
KINDS = {"linformer": pairs.KINDS["linformer"]}


@pytest.fixture
def stand_in(monkeypatch):
    """Let `import linformer` find the stand-in, in fresh processes too."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    monkeypatch.delitem(sys.modules, "linformer", raising=False)
    module = importlib.import_module("linformer")
    yield module
    sys.modules.pop("linformer", None)


@pytest.fixture
def nothing_installed(monkeypatch):
    for package in packages.MODULES:
        monkeypatch.setitem(packages.MODULES, package, f"no_such_{package.replace('-', '_')}")


# Missing packages ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_installed")
def test_sections_say_which_package_is_missing_and_what_installs_it(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scoreboard, "CHECKS", {})
    peers = {name: replace(each, ours=()) for name, each in scoreboard.PEERS.items()}
    monkeypatch.setattr(scoreboard, "PEERS", peers)
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["attention.py", "--section", "peers", "peer-lengths", "conformance"])
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().out
    for package in packages.MODULES:
        line = f"{package} is not installed: pip install {package}"
        assert f"peers: not compared with: {line}" in told
        assert f"conformance: not held to it: {package}: {line}" in told
    assert told.count("peer-lengths: not compared with") == len(speed.absent({n: pairs.KINDS[n] for n in speed.DRAWN}))
    kept = json.loads((tmp_path / "bench" / "attention.json").read_text(encoding="utf-8"))
    assert kept["sections"]["peers"]["rows"] == kept["sections"]["peer-lengths"]["points"] == []


def test_a_package_that_does_not_import_is_told_from_one_that_is_not_there(monkeypatch):
    def why(error):
        monkeypatch.setattr(packages.importlib, "import_module", lambda name: (_ for _ in ()).throw(error))
        return packages.missing("performer-pytorch")

    lacking = "performer-pytorch is installed but does not import without distutils: "
    assert why(ModuleNotFoundError(name="performer_pytorch")).startswith("performer-pytorch is not installed: pip ")
    assert why(ModuleNotFoundError(name="distutils")) == f"{lacking}pip install performer-pytorch setuptools"
    assert why(ImportError("cannot import name 'x'")).endswith("does not import: cannot import name 'x'")


def test_an_adapter_is_built_only_where_its_package_is(nothing_installed):
    with pytest.raises(ImportError, match="pip install linformer"):
        Linformer(heads=2, dim=4, seq_len=8)


# The scoreboard -----------------------------------------------------------------------------------------------------


def test_the_scoreboard_finds_by_itself_what_a_peer_gets_wrong(stand_in):
    checks = [CHECKS[name] for name in ("causal_leak", "padding_leak", "reference", "batch_independence")]
    (column,) = scoreboard.columns(PEERS, checks)
    found = column.plain()
    assert found["marks"] == {
        "causal_leak": "-",  # it claims none
        "padding_leak": "NO",
        "reference": "ok",
        "batch_independence": "ok",
    }
    (broken,) = found["broken"]
    assert broken["pattern"] == "padding"
    with pytest.raises(AssertionError, match="padded keys and values"):
        exec(broken["rerun"], {})
    heading, rows = scoreboard.table([found])
    assert heading == ["check", "linformer"]
    assert ["padding_leak", "NO"] in rows


def test_what_is_mended_is_found_mended(stand_in, monkeypatch):
    swallowing = stand_in.LinformerSelfAttention.forward

    def forward(self, x, context=None, mask=None):
        return swallowing(self, x, context if mask is None else context * mask[..., None])

    monkeypatch.setattr(stand_in.LinformerSelfAttention, "forward", forward)
    (column,) = scoreboard.columns(PEERS, [CHECKS["padding_leak"]])
    assert column.plain()["marks"] == {"padding_leak": "ok"}


class Rounded(Peer):
    """Softmax attention in single precision, whatever type it is given."""

    name = "rounded"
    claims = "nothing"
    capabilities = Capabilities(layouts=DENSE, weights="none", cost="", paper="", equation="")

    def attend(self, request):
        call, _ = self.read(request)
        q, k, v = (each.float() for each in (call.q, call.k, call.v))
        values = (q @ k.mT).softmax(-1) @ v
        return AttentionOutput(values=values.to(call.v.dtype))


def test_what_breaks_in_double_precision_only_is_marked_so():
    tested = scoreboard.Subject.of("rounded", Rounded)
    assert scoreboard.verdict(CHECKS["key_permutation"], tested)[1] == "double"
    assert scoreboard.verdict(CHECKS["query_permutation"], tested)[1] == "ok"
    found, mark = scoreboard.verdict(CHECKS["padding_leak"], tested)
    assert mark == "NO"  # it reads padding and ignores it
    assert found.case is not None
    assert found.case.dtype == torch.float32


def test_adapters_refuse_what_their_peer_does_not_claim(stand_in):
    rerun(scoreboard.Subject.of("linformer", Linformer), "declared", Case(pattern="causal", options={"seq_len": 8}))


# Speed --------------------------------------------------------------------------------------------------------------


def test_rows_compare_what_is_equal(stand_in, monkeypatch):
    monkeypatch.setattr(speed, "apart", lambda *asked: {"seconds": 1.0, "above_start_mib": len(asked[1]) * 1.0})
    found = list(speed.rows(KINDS, (256,), 3))
    whats = [row.what.rpartition(", ")[2] for row in found]
    assert whats == ["forward", "forward + backward", "memory"]
    assert found[0].figures["low"] <= found[0].figures["ratio"] <= found[0].figures["high"]
    assert found[2].figures["ratio"] == 1


def test_sections_of_our_own_are_those_of_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark.attention, "LAYER_LENGTHS", (32,))
    monkeypatch.setattr(benchmark.lengths, "points", lambda: iter([benchmark.lengths.Point("linear", 32, 1.0, 1.0)]))
    assert set(benchmark.SECTIONS) == {*benchmark.attention.SECTIONS, "lengths", *benchmark.PEERS}
    given = benchmark.arguments(["--pairs", "3", "--out", str(tmp_path)])
    rows = benchmark.run("layer", given)["rows"]
    assert [row["what"] for row in rows] == ["L = 32, forward", "L = 32, forward + backward"]
    assert Path(benchmark.run("lengths", given)["picture"]).is_file()


def test_what_is_not_equal_is_not_timed(stand_in, monkeypatch):
    forward = stand_in.LinformerSelfAttention.forward
    monkeypatch.setattr(stand_in.LinformerSelfAttention, "forward", lambda self, x: 1.01 * forward(self, x))
    with pytest.raises(AssertionError, match="not close"):
        next(speed.rows(KINDS, (256,), 3))


def test_memory_is_weighed_in_a_fresh_process_and_drawn(stand_in, tmp_path):
    apart = speed.apart("linformer", "peer", 256)
    here = speed.weigh("linformer", "ours", 256)
    assert apart["seconds"] > 0
    assert apart["above_start_mib"] > 0
    points = [speed.Point("linformer", side, 256, **each) for side, each in (("peer", apart), ("ours", here))]
    path = speed.draw(points, tmp_path / "peers.png", device="CPU")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_kind_names_a_package_that_is_known():
    assert {kind.package for kind in pairs.KINDS.values()} == set(packages.MODULES)
    assert {each.package for each in scoreboard.PEERS.values()} == set(packages.MODULES)
    assert set(speed.DRAWN) <= set(pairs.KINDS)


# The docs -----------------------------------------------------------------------------------------------------------


def test_the_docs_say_what_was_recorded():
    page = record.PAGE.read_text(encoding="utf-8")
    assert record.renewed(page, record.stored()) == page, "python benchmarks/attention.py --record writes it again"


def test_a_record_keeps_other_sections_and_is_told_with_its_machine(stand_in, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "apart", lambda *asked: {"seconds": 1.0, "above_start_mib": 1.0})
    made = {"made": "2026-01-02T03:04:05", "machine": machine(), "packages": {"linformer": "0"}, "command": "python x"}
    rows = benchmark.measured(speed.rows(KINDS, (256,), 3))
    (column,) = scoreboard.columns(PEERS, [CHECKS["padding_leak"]])
    path = tmp_path / "kept.json"
    record.store({"peers": rows | made}, path)
    kept = record.store({"conformance": {"columns": [column.plain()]} | made}, path)
    assert set(kept) == {"peers", "conformance"}
    text = record.part(kept)
    assert "| linformer | 256 | " in text
    assert "`padding_leak` (padding)" in text
    assert f"linformer 0; processor {machine()['processor']}" in text
    with pytest.raises(ValueError, match="no marks"):
        record.renewed("a page", kept)


def test_the_command_line_refuses_what_would_record_half_of_it(nothing_installed, capsys):
    for words, says in (
        (["--record"], "linformer is not installed: pip install linformer"),
        (["--record", "--peer", "linformer"], "--record wants every package"),
        (["--length", "100"], "no multiples of 256"),
        (["--pairs", "2"], "at least 3"),
    ):
        with pytest.raises(SystemExit):
            benchmark.arguments(words)
        assert says in capsys.readouterr().err
