"""Sets in the raw TU layout, made here: what is read, what is refused, and where they are looked for."""

import hashlib

import numpy as np
import pytest
import torch
from toolkit_graph.data import tu_files
from toolkit_graph.data.tu import TUDataset
from tu_sets import pack, ready, small, with_line, without, write

from toolkit.errors import DataError, SourceError


def test_a_set_is_read(tmp_path):
    data = ready(write(tmp_path, small()), self_loops=False)
    assert dict(data.spec) == {"features": 4, "classes": ["-1", "1", "5"], "graphs": 30}
    assert data.target.tolist() == [graph % 3 for graph in range(30)]
    batch = data.batch(torch.tensor([2, 0]))
    assert batch.graph.tolist() == [0, 0, 0, 0, 1, 1]
    assert batch.x.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    edges = sorted(map(tuple, batch.pattern.index.T.tolist()))
    assert edges == [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2), (4, 5), (5, 4)]
    assert (batch.target.tolist(), batch.num_graphs, batch.items) == ([2, 0], 2, None)
    assert batch.node_ids.tolist() == [5, 6, 7, 8, 0, 1]


def test_self_loops_come_after_the_edges(tmp_path):
    batch = ready(write(tmp_path, small())).batch(torch.tensor([0]))
    assert batch.pattern.index.T.tolist() == [[1, 0], [0, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("where", ["folder", "named folder", "zip", "zip in folder"])
def test_a_set_is_found_in_any_of_its_forms(tmp_path, where):
    if where == "folder":
        place = write(tmp_path, small())
    elif where == "named folder":
        place = write(tmp_path / "PATHS", small()).parent
    else:
        file = pack(tmp_path / "PATHS.zip", small())
        place = file if where == "zip" else tmp_path
    data = ready(place)
    assert data.spec["graphs"] == 30
    assert set(data.provenance()) == ({"PATHS.zip"} if "zip" in where else {f"PATHS_{part}.txt" for part in small()})


@pytest.mark.parametrize(
    ("parts", "kind", "first"),
    [
        (small(), "auto", [1, 0, 0, 0]),
        (without("node_labels"), "auto", [0.5, 0]),
        (without("node_labels", "node_attributes"), "auto", [0, 1, 0]),
        (small(), "both", [1, 0, 0, 0, 0.5, 0]),
        (small(), "attributes", [0.5, 0]),
        (small(), "degree", [0, 1, 0]),
    ],
)
def test_features_follow_what_there_is(tmp_path, parts, kind, first):
    data = ready(write(tmp_path, parts), features=kind)
    assert data.batch(torch.tensor([0])).x[0].tolist() == first
    assert data.spec["features"] == len(first)


def test_features_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="no node labels; features it can give: attributes, degree"):
        ready(write(tmp_path, without("node_labels")), features="labels")


def test_edges_are_taken_once_and_loops_dropped(tmp_path):
    parts = small()
    parts["A"] += ["1, 2", "3, 3"]
    plain, doubled = ready(write(tmp_path / "a", small())), ready(write(tmp_path / "b", parts))
    assert torch.equal(plain.index, doubled.index)


def test_nodes_out_of_order_are_brought_together(tmp_path):
    parts = without("node_attributes")
    order = np.random.default_rng(0).permutation(len(parts["graph_indicator"]))
    place = np.argsort(order)
    mixed = {
        **parts,
        "graph_indicator": [parts["graph_indicator"][node] for node in order],
        "node_labels": [parts["node_labels"][node] for node in order],
        "A": [", ".join(str(place[int(end) - 1] + 1) for end in line.split(",")) for line in parts["A"]],
    }
    plain, shuffled = ready(write(tmp_path / "a", parts)), ready(write(tmp_path / "b", mixed))
    assert not torch.equal(plain.index, shuffled.index)

    def shape(batch):
        label = batch.x.argmax(dim=1)  # names the nodes of a path
        return sorted(label.tolist()), sorted(label[batch.pattern.index].T.tolist())

    for graph in range(30):
        one, other = plain.batch(torch.tensor([graph])), shuffled.batch(torch.tensor([graph]))
        assert shape(one) == shape(other)
    assert torch.equal(plain.owner, shuffled.owner)


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (without("A"), r"has no PATHS_A\.txt"),
        (without("graph_labels"), r"has no PATHS_graph_labels\.txt"),
        ({**small(), "A": []}, r"PATHS_A\.txt is empty"),
        (with_line("A", 2, "3"), r"PATHS_A\.txt, line 3: 1 values, but 2 are wanted: '3'"),
        (with_line("A", 2, "3, 4, 5"), r"PATHS_A\.txt, line 3: 3 values"),
        (with_line("A", 2, "3, four"), r"PATHS_A\.txt, line 3: 'four' is not among whole numbers"),
        (with_line("A", 2, "3, 4.5"), r"PATHS_A\.txt, line 3: '4.5' is not among whole numbers"),
        (with_line("A", 2, "3, 999"), r"PATHS_A\.txt, line 3: there is no node 999; they are 1 to 90"),
        (with_line("A", 2, "3, 0"), r"PATHS_A\.txt, line 3: there is no node 0"),
        (with_line("A", 2, "3, 1"), r"PATHS_A\.txt, line 3: the edge joins two graphs"),
        (with_line("graph_indicator", 0, "31"), r"graph_indicator\.txt, line 1: there is no graph 31"),
        ({**small(), "graph_labels": [*small()["graph_labels"], "1"]}, r"graph 31 has no nodes"),
        ({**small(), "node_labels": small()["node_labels"][:-1]}, r"node_labels\.txt has 89 lines, but 90"),
        (with_line("graph_labels", 3, ""), r"graph_labels\.txt, line 4"),
        (with_line("graph_labels", 3, "1, 2"), r"graph_labels\.txt, line 4: 2 values, but 1"),
    ],
)
def test_bad_files_are_named_by_line(tmp_path, parts, complaint):
    with pytest.raises(DataError, match=complaint):
        ready(write(tmp_path, parts))


@pytest.mark.parametrize("value", ["nan, 1", "inf, 1", "one, 1"])
def test_attributes_must_be_numbers(tmp_path, value):
    with pytest.raises(DataError, match=r"node_attributes\.txt, line 5: '\w+' is not among numbers"):
        ready(write(tmp_path, with_line("node_attributes", 4, value)), features="attributes")


# Where it comes from ------------------------------------------------------------------------------------------------


def test_a_mistyped_name_gives_the_nearest(tmp_path):
    with pytest.raises(SourceError, match="Did you mean 'PATHS'"):
        ready(write(tmp_path, small()), name="PATH")
    with pytest.raises(DataError, match="Did you mean 'PATHS'"):
        ready(pack(tmp_path / "x.zip", small()), name="PATH")
    with pytest.raises(SourceError, match="Did you mean 'PROTEINS'"):
        TUDataset(name="PROTEIN").prepare_data()


def test_nothing_unchecked_is_fetched():
    with pytest.raises(SourceError, match="nothing is fetched that cannot be checked"):
        TUDataset(name="NCI1").prepare_data()


def test_what_has_a_sum_is_tried_at_its_site():
    with pytest.raises(SourceError, match=r"graphkerneldatasets/NCI1\.zip: TOOLKIT_OFFLINE"):
        TUDataset(name="NCI1", sha256="0" * 64).prepare_data()
    with pytest.raises(SourceError, match=r"graph_datasets/master/datasets/PROTEINS\.zip: TOOLKIT_OFFLINE"):
        TUDataset(name="PROTEINS", clean=True).prepare_data()
    with pytest.raises(SourceError, match=r"MUTAG_A\.txt of grakel 0\.1\.11"):
        TUDataset(name="MUTAG").prepare_data()


def test_the_users_sum_is_held_against_the_users_zip(tmp_path):
    file = pack(tmp_path / "PATHS.zip", small())
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert ready(file, sha256=right).provenance() == {"PATHS.zip": right}
    with pytest.raises(SourceError, match="is wanted"):
        ready(file, sha256="0" * 64)


def test_a_zip_that_is_none(tmp_path):
    (tmp_path / "PATHS.zip").write_text("no zip")
    with pytest.raises(DataError, match="not a readable zip"):
        ready(tmp_path / "PATHS.zip")


def test_a_packaged_set_comes_from_the_cache(tmp_path, monkeypatch):
    cache = write(tmp_path / "cache" / "tu" / "MUTAG", small(), name="MUTAG")
    sums = {part: hashlib.sha256((cache / f"MUTAG_{part}.txt").read_bytes()).hexdigest() for part in small()}
    monkeypatch.setitem(tu_files.PACKAGED, "MUTAG", sums)
    data = TUDataset(name="MUTAG")
    data.setup()
    assert data.spec["graphs"] == 30
