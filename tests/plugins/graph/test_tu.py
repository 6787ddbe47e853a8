"""Sets of graphs as a run sees them: folds, batches, epochs, processes."""

import numpy as np
import pytest
import torch
from graph_samples import two_epochs
from toolkit_graph.data.tu import TUDataset, stratified
from tu_sets import ready, small, write

from toolkit.errors import DataError


def test_folds_are_stratified_apart_and_repeatable():
    target = np.array([0] * 53 + [1] * 27 + [2] * 20)
    tests = []
    for fold in range(10):
        split = stratified(target, fold, 0)
        assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(100))
        assert (len(split["train"]), len(split["val"]), len(split["test"])) == (80, 10, 10)
        counts = np.bincount(target[split["test"]], minlength=3)
        assert (abs(counts - np.array([5.3, 2.7, 2.0])) < 1).all()
        tests.append(split["test"])
        again = stratified(target, fold, 0)
        assert all((split[name] == again[name]).all() for name in split)
    assert sorted(np.concatenate(tests).tolist()) == list(range(100))
    assert (stratified(target, 1, 0)["test"] == stratified(target, 0, 0)["val"]).all()
    assert not np.array_equal(stratified(target, 0, 1)["test"], stratified(target, 0, 0)["test"])


def test_a_batch_is_its_graphs_side_by_side(tmp_path):
    data = ready(write(tmp_path, small()))
    graphs = torch.tensor([5, 2, 29])
    batch = data.batch(graphs)
    start = 0
    for place, graph in enumerate(graphs):
        alone = data.batch(graph[None])
        mine = batch.graph == place
        assert torch.equal(batch.x[mine], alone.x)
        inside = mine[batch.pattern.index[1]]
        assert torch.equal(batch.pattern.index[:, inside] - start, alone.pattern.index)
        start += alone.num_nodes
    assert start == batch.num_nodes


def test_epochs_are_shuffled_anew_and_repeat_with_the_seed(tmp_path):
    write(tmp_path, small())

    def walk():
        torch.manual_seed(1)
        return two_epochs(ready(tmp_path))

    first = walk()
    assert first == walk()
    assert first[0] != first[1]


def test_evaluation_batches_are_made_once(tmp_path):
    data = ready(write(tmp_path, small()))
    assert [id(batch) for batch in data.val_dataloader()] == [id(batch) for batch in data.val_dataloader()]


@pytest.mark.parametrize("name", ["train", "val", "test", "predict"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_a_set_exactly(tmp_path, monkeypatch, name, processes):
    torch.manual_seed(0)
    write(tmp_path, small())
    steps, seen = set(), []
    for rank in range(processes):
        monkeypatch.setattr(TUDataset, "share", lambda self, rank=rank: (rank, processes))
        data = ready(tmp_path)
        batches = list(getattr(data, f"{name}_dataloader")())
        assert len(batches) == len(getattr(data, f"{name}_dataloader")())
        steps.add((len(batches), tuple(batch.total for batch in batches)))
        seen += [int(data.owner[node]) for batch in batches for node in batch.node_ids]
    assert len(steps) == 1
    members = torch.arange(30) if name == "predict" else data.splits[name]
    assert sorted(set(seen)) == members.tolist()
    assert len(seen) == sum(2 + graph % 3 for graph in members.tolist())


@pytest.mark.index
def test_mutag_from_the_package_index_is_mutag():
    data = TUDataset(name="MUTAG", self_loops=False)
    data.prepare_data()
    data.setup()
    # The published counts: 188 graphs (63 and 125), 3371 nodes, 3721 undirected edges, 7 kinds of atom.
    assert dict(data.spec) == {"features": 7, "classes": ["-1", "1"], "graphs": 188}
    assert torch.bincount(data.target).tolist() == [63, 125]
    assert (len(data.owner), data.index.shape[1]) == (3371, 2 * 3721)


def test_a_set_too_small_for_ten_folds_says_so(tmp_path):
    parts = {"A": ["1, 2", "2, 1"], "graph_indicator": ["1", "1"], "graph_labels": ["0"]}
    with pytest.raises(DataError, match="1 graphs, too few for 10 folds"):
        ready(write(tmp_path, parts))
