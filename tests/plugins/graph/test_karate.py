import dataclasses

import numpy as np
import pytest
import scipy.sparse
import torch
from toolkit_graph.data.karate import KarateClub

from toolkit.attention import EdgePattern
from toolkit.errors import DataError


@pytest.fixture
def club():
    data = KarateClub()
    data.prepare_data()
    data.setup()
    return data


def test_the_club_is_the_one_everybody_knows(club):
    networkx = pytest.importorskip("networkx")
    known = {tuple(sorted(edge)) for edge in networkx.karate_club_graph().edges()}
    assert {tuple(edge) for edge in club.nodes.links.tolist()} == known
    assert len(known) == 78
    assert dict(club.spec) == {
        "features": 34,
        "classes": ["group 0", "group 1", "group 2", "group 3"],
        "nodes": 34,
        "edges": 2 * 78 + 34,
    }


@pytest.mark.filterwarnings("ignore")
def test_features_groups_and_training_nodes_are_pygs(club):
    theirs = pytest.importorskip("torch_geometric.datasets").KarateClub()[0]
    assert torch.equal(club.target, theirs.y)
    assert torch.equal(club.x.to_dense(), theirs.x)
    assert sorted(club.nodes.train.tolist()) == theirs.train_mask.nonzero().flatten().tolist()


def test_splits_are_apart_and_cover_the_club(club):
    nodes = np.concatenate([club.nodes.train, club.nodes.val, club.nodes.test])
    assert sorted(nodes.tolist()) == list(range(34))
    assert sorted(club.target[club.nodes.train].tolist()) == [0, 1, 2, 3]
    assert set(club.target[club.nodes.val].tolist()) == set(club.target[club.nodes.test].tolist()) == {0, 1, 2, 3}


def test_edges_go_both_ways_and_to_oneself():
    for self_loops in (True, False):
        data = KarateClub(self_loops=self_loops)
        data.setup()
        edges = {tuple(edge) for edge in data.index.T.tolist()}
        assert {(b, a) for a, b in edges} == edges
        assert len(edges) == data.index.shape[1] == 156 + 34 * self_loops
        assert ((0, 0) in edges) is self_loops


def test_the_same_batch_object_comes_every_epoch_and_costs_nothing(club):
    first, second = list(club.train_dataloader()), list(club.train_dataloader())
    assert len(first) == len(club.train_dataloader()) == 1
    assert first[0] is second[0]
    assert first[0].to("cpu") is first[0]
    assert isinstance(first[0].pattern, EdgePattern)
    assert first[0].pattern is next(iter(club.val_dataloader())).pattern
    assert first[0].x is next(iter(club.test_dataloader())).x


def test_a_copy_on_another_device_is_made_once(club):
    batch = next(iter(club.train_dataloader()))
    there = batch.to("meta")
    assert there is not batch
    assert there.x.device.type == there.target.device.type == there.pattern.index.device.type == "meta"
    assert batch.to("meta") is there


def test_prediction_covers_every_node_in_order(club):
    (batch,) = club.predict_dataloader()
    assert batch.items.tolist() == list(range(34))
    assert torch.equal(batch.target, club.target)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_see_each_node_once(monkeypatch, processes):
    for name in ("train", "val", "test", "predict"):
        seen = []
        for rank in range(processes):
            monkeypatch.setattr(KarateClub, "share", lambda self, rank=rank: (rank, processes))
            data = KarateClub()
            data.setup()
            (batch,) = getattr(data, f"{name}_dataloader")()
            assert batch.total == len(data.split(name))
            assert torch.equal(batch.target, data.target[batch.items])
            seen += batch.items.tolist()
        assert sorted(seen) == sorted(data.split(name).tolist())


def test_setting_up_twice_reads_once(club, monkeypatch):
    monkeypatch.setattr(KarateClub, "read", lambda self: pytest.fail("read again"))
    club.setup("fit")
    club.setup("test")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"features": scipy.sparse.csr_matrix((0, 3))}, "has no nodes"),
        ({"labels": np.zeros(33)}, "has 34 rows of features but 33 labels"),
        (
            {"features": scipy.sparse.diags([1.0] * 7 + [np.nan] + [1.0] * 26, format="csr")},
            "node 7 has a feature of nan",
        ),
        ({"links": np.array([[0, 1], [-2, 33]])}, "an edge names node -2, but there are 34"),
        ({"links": np.array([[0, 34]])}, "an edge names node 34, but there are 34"),
        ({"val": np.array([], dtype=int)}, "its val split is empty"),
        ({"val": np.array([-3, 5])}, "its val split names node -3, but there are 34"),
        ({"test": np.array([5, 40])}, "its test split names node 40, but there are 34"),
        (
            {"labels": np.array([*[0] * 33, -1]), "val": np.array([5]), "test": np.array([33])},
            "node 33 is in the test split but has no label",
        ),
        (
            {"train": np.array([4]), "val": np.array([5]), "test": np.array([6, 4])},
            "node 4 is in the test split .* train",
        ),
        ({"train": np.array([4, 4])}, "node 4 is in the train split and before that in train"),
    ],
)
def test_a_set_that_does_not_fit_together_is_refused(club, given, complaint):
    with pytest.raises(DataError, match=f"the club.*{complaint}"):
        dataclasses.replace(club.nodes, **given).check("the club")
