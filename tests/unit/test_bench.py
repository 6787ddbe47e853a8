"""The benchmark's own machinery: what is measured is what it says, and the table holds rows to their targets."""

import json

import pytest
import torch
from click.testing import CliRunner

from toolkit.bench import attention, edges, lengths
from toolkit.bench.measure import Paired, apart, paired, seconds
from toolkit.cli.bench import command


def test_pairs_alternate_and_the_ratio_is_peers_time_over_ours():
    order = []
    found = paired(lambda: order.append("ours"), lambda: order.append("peer"), pairs=4, warm=1)
    assert order == ["ours", "peer"] * 5
    assert found.low <= found.ratio <= found.high
    slow = paired(lambda: None, lambda: torch.randn(300, 300) @ torch.randn(300, 300), pairs=5)
    assert slow.ratio > 1
    assert slow.peer_ms > slow.ours_ms
    assert seconds(lambda: None) >= 0


def test_memory_is_weighed_in_a_process_of_its_own():
    small, large = (apart("toolkit.bench.attention", "rows", length) for length in ("256", "2048"))
    assert 0 <= small["above_imports_mib"] <= large["above_imports_mib"]
    assert large["peak_mib"] > 50
    with pytest.raises(RuntimeError, match=r"toolkit\.bench\.attention rows many failed"):
        apart("toolkit.bench.attention", "rows", "many")


def test_edges_equal_pygs_before_they_are_timed():
    found = dict(edges.compare(50, 300, pairs=3))
    assert set(found) == set(edges.PAIRS)
    assert all(isinstance(pair, Paired) and pair.ours_ms > 0 for pair in found.values())


def test_lengths_are_drawn(tmp_path):
    names = ("scaled_dot_product",)
    found = list(lengths.points(names, (512,)))
    assert (found[0].name, found[0].length) == ("scaled_dot_product", 512)
    assert found[0].seconds > 0
    path = lengths.draw(found, tmp_path / "bench" / "attention.png", device="CPU")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_command_gives_the_table_and_the_same_as_json(monkeypatch, tmp_path):
    monkeypatch.setattr(attention, "LAYER_LENGTHS", (32,))
    threads = torch.get_num_threads()
    arguments = ["attention", "--only", "layer", "--pairs", "3", "--no-plots", "--out", str(tmp_path)]
    try:
        told = CliRunner().invoke(command, arguments)
        found = CliRunner().invoke(command, [*arguments, "--json"])
    finally:
        torch.set_num_threads(threads)
    assert told.exit_code == found.exit_code == 0
    assert "cost <= 1.05" in told.stdout
    rows = json.loads(found.stdout)["rows"]
    assert [row["what"] for row in rows] == ["L = 32, forward", "L = 32, forward + backward"]
    assert all(row["met"] == (row["figures"]["cost"] <= 1.05) for row in rows)
