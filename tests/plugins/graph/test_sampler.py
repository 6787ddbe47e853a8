import importlib.util
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from graph_samples import two_epochs
from toolkit_graph.data import sampler as sampler_module
from toolkit_graph.data.karate import KarateClub
from toolkit_graph.data.sampler import PygSampler, TorchSampler, sampler_for

from toolkit.errors import DataError, MissingExtraError


def graph(nodes=60, edges=600, seed=0):
    draw = torch.Generator().manual_seed(seed)
    index = torch.randint(nodes, (2, edges), generator=draw)
    return index[:, index[0] != index[1]].unique(dim=1)


def pairs(index):
    return {tuple(edge) for edge in index.T.tolist()}


def test_all_neighbours_are_the_whole_receptive_field():
    index = graph(edges=150)
    nodes, drawn = TorchSampler(index, 60)(torch.tensor([7, 3]), [-1, -1], 0)
    reached, inner = {7, 3}, set()
    for _ in range(2):
        edges = {(source, target) for source, target in pairs(index) if target in reached}
        inner |= edges
        reached = reached | {source for source, _ in edges}
    assert nodes[:2].tolist() == [7, 3]
    assert set(nodes.tolist()) == reached
    assert len(nodes) == len(reached)
    assert pairs(nodes[drawn]) == inner
    assert drawn.shape[1] == len(inner)


@pytest.mark.parametrize("most", [1, 3])
def test_a_draw_is_without_replacement_and_no_larger_than_asked(most):
    index = graph()
    degree = torch.bincount(index[1], minlength=60)
    seeds = torch.arange(0, 60, 2)
    nodes, drawn = TorchSampler(index, 60)(seeds, [most], 5)
    assert pairs(nodes[drawn]) <= pairs(index)
    assert len(pairs(drawn)) == drawn.shape[1]
    taken = torch.bincount(drawn[1], minlength=len(nodes))
    assert torch.equal(taken[: len(seeds)], degree[seeds].clamp(max=most))
    assert not taken[len(seeds) :].any()


def test_every_neighbour_is_drawn_equally_often():
    index = torch.stack((torch.arange(1, 9), torch.zeros(8, dtype=torch.long)))
    draw = TorchSampler(index, 9)
    count = torch.zeros(9)
    for seed in range(2000):
        nodes, edge = draw(torch.tensor([0]), [2], seed)
        count[nodes[edge[0]]] += 1
    # 2000 draws of 2 among 8: 500 each, standard deviation 19.4
    assert ((count[1:] - 500).abs() < 5 * 19.4).all()
    assert count.sum() == 4000


def test_a_seed_decides_the_draw():
    index, seeds = graph(), torch.arange(10)
    draw = TorchSampler(index, 60)
    first, again, other = (draw(seeds, [2, 2], seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert pairs(first[0][first[1]]) != pairs(other[0][other[1]])


def test_lonely_nodes_and_no_seeds_are_no_trouble():
    draw = TorchSampler(torch.empty(2, 0, dtype=torch.long), 4)
    nodes, drawn = draw(torch.tensor([2]), [3, 3], 0)
    assert nodes.tolist() == [2]
    assert drawn.shape == (2, 0)
    assert draw(torch.empty(0, dtype=torch.long), [3], 0)[0].numel() == 0


def test_a_repeated_seed_is_refused():
    with pytest.raises(DataError, match="twice"):
        TorchSampler(graph(), 60)(torch.tensor([1, 1]), [2], 0)


def test_pygs_kernels_are_asked_for_by_name_or_found():
    index = graph()
    if sampler_module.kernels():
        nodes, drawn = PygSampler(index, 60)(torch.arange(5), [-1], 0)
        ours, edges = TorchSampler(index, 60)(torch.arange(5), [-1], 0)
        assert pairs(nodes[drawn]) == pairs(ours[edges])
    else:
        with pytest.raises(MissingExtraError, match="sampler: torch"):
            sampler_for("pyg", index, 60)
        assert isinstance(sampler_for("auto", index, 60), TorchSampler)


def test_auto_takes_the_kernels_where_they_are(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "pyg_lib" else None)
    monkeypatch.setattr("torch_geometric.typing.WITH_PYG_LIB", True)
    assert sampler_module.kernels()
    assert isinstance(sampler_for("auto", graph(), 60), PygSampler)
    assert isinstance(sampler_for("torch", graph(), 60), TorchSampler)


def test_pygs_kernels_leave_all_generators_as_they_were(monkeypatch):
    """They draw from the global generator. Seeding the devices' too would tie dropout on a GPU to the sampler."""

    class Loader:
        def __init__(self, data, hops, seeds, **how):
            self.seeds = seeds

        def __iter__(self):
            yield SimpleNamespace(n_id=self.seeds, edge_index=torch.randint(5, (2, 6)))

    monkeypatch.setattr(sampler_module, "kernels", lambda: True)
    monkeypatch.setattr("torch_geometric.loader.NeighborLoader", Loader)
    monkeypatch.setattr("torch_geometric.sampler.NeighborSampler", lambda *given: None)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("devices were seeded"))
    draw, before = PygSampler(graph(), 60), torch.default_generator.get_state()
    first, again, other = (draw(torch.arange(5), [2], seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.default_generator.get_state(), before)


# In a data module ---------------------------------------------------------------------------------------------------


def club(**options):
    data = KarateClub(batch_size=3, neighbors=[2, 2], sampler="torch", **options)
    data.setup()
    return data


def test_a_sampled_batch_is_a_piece_of_the_graph():
    data = club()
    whole = pairs(data.index)
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert pairs(batch.node_ids[batch.pattern.index]) <= whole
        loops = {(node, node) for node in range(batch.num_nodes)}
        assert loops <= pairs(batch.pattern.index)
        assert torch.equal(batch.target, data.target[batch.node_ids[batch.items]])
        assert torch.equal(batch.x.to_dense(), data.x.to_dense()[batch.node_ids])


def test_evaluation_looks_at_every_neighbour():
    data = club(self_loops=False)
    degree = torch.bincount(data.index[1], minlength=34)
    for batch in data.test_dataloader():
        found = torch.bincount(batch.pattern.index[1], minlength=batch.num_nodes)
        assert torch.equal(found[batch.items], degree[batch.node_ids[batch.items]])


def test_epochs_differ_and_repeat_with_the_seed():
    def walk():
        torch.manual_seed(0)
        return two_epochs(club())

    first = walk()
    assert first == walk()
    assert first[0] != first[1]


def test_processes_share_an_epoch_exactly(monkeypatch):
    torch.manual_seed(0)
    seen, steps = [], set()
    for rank in range(2):
        monkeypatch.setattr(KarateClub, "share", lambda self, rank=rank: (rank, 2))
        batches = list(club().predict_dataloader())
        steps.add(len(batches))
        seen += [node for batch in batches for node in batch.node_ids[batch.items].tolist()]
    assert steps == {6}
    assert sorted(seen) == list(range(34))
    seen = []
    for rank in range(2):
        monkeypatch.setattr(KarateClub, "share", lambda self, rank=rank: (rank, 2))
        for batch in club().train_dataloader():
            assert batch.total == 4
            seen += batch.node_ids[batch.items].tolist()
    assert sorted(seen) == sorted(club().nodes.train.tolist())


def test_workers_make_the_same_batches():
    def walk(workers):
        torch.manual_seed(0)
        data = club(workers=workers)
        train = data.train_dataloader()
        train.set_epoch(1)
        return [*train, *data.val_dataloader()]

    alone, helped = walk(0), walk(2)
    assert len(alone) == len(helped) == 2 + 5
    for one, other in zip(alone, helped, strict=True):
        assert one.num_nodes == len(one.node_ids) > len(one.target) > 0
        for key in ("node_ids", "items", "target", "degree"):
            assert torch.equal(getattr(one, key), getattr(other, key)), key
        assert torch.equal(one.pattern.index, other.pattern.index)
        assert one.x.layout is other.x.layout is torch.sparse_csr
        assert torch.equal(one.x.to_dense(), other.x.to_dense())
        assert one.total == other.total


def sampled(make, seeds):
    batch = make(torch.tensor(seeds), 2, 7)
    return batch.node_ids.tolist(), batch.pattern.index.tolist()


def test_what_workers_are_given_can_be_sent():
    """Where processes are not forked, as on macOS, Windows and from Python 3.14 on, it goes through a pickle."""
    make = club().train_dataloader().make
    seeds = torch.tensor([3, 5])
    one = make(seeds, 2, 7)
    with get_context("spawn").Pool(1) as pool:  # what it is sent as is the interpreter's own affair
        node_ids, index = pool.apply(sampled, (make, seeds.tolist()))
    assert one.node_ids.tolist() == node_ids
    assert one.pattern.index.tolist() == index


# Resuming -----------------------------------------------------------------------------------------------------------


class Watcher(pl.LightningModule):
    """Notes which batches training gives it."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.stop_at = [], stop_at

    def training_step(self, batch, batch_index):
        if self.stop_at == len(self.seen):
            raise SystemExit  # as a kill would: nothing is finished in order
        self.seen.append(batch.node_ids.tolist())
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(tmp_path, module, checkpoint=None, batch_size=1):
    torch.manual_seed(0)
    saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_last=True)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[saver],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = KarateClub(batch_size=batch_size, neighbors=[2], sampler="torch")
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return module.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("killed_after", [3, 4, 6])
def test_a_run_killed_inside_an_epoch_goes_on_with_the_batches_left(tmp_path, killed_after):
    whole = run(tmp_path / "whole", Watcher())
    assert len(whole) == 12
    first = Watcher(stop_at=killed_after)
    with pytest.raises(SystemExit):
        run(tmp_path / "killed", first)
    rest = run(tmp_path / "killed", Watcher(), checkpoint=str(tmp_path / "killed" / "last.ckpt"))
    assert first.seen + rest == whole
