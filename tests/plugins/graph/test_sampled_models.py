"""Models on sampled neighbourhoods: with all neighbours they answer as on the whole graph, with some as on average."""

import pytest
import torch
from toolkit_graph.data.karate import KarateClub
from toolkit_graph.data.neighborhoods import Neighborhoods
from toolkit_graph.data.sampler import TorchSampler
from toolkit_graph.models.attention_network import AttentionNetwork
from toolkit_graph.models.gcn import GCN

from toolkit.choice import Choice
from toolkit.errors import RecipeError
from toolkit.plugins import Toolkit, using
from toolkit.recipe import load
from toolkit.run import train
from toolkit.trained import evaluate


def mechanisms_on_edges():
    toolkit = Toolkit()
    toolkit.load_entry_points()
    with using(toolkit):
        found = toolkit.registry.all("attention")
        return [entry.name for entry in found if "edges" in entry.load().capabilities.layouts]


MECHANISMS = mechanisms_on_edges()


@pytest.fixture
def network(toolkit):
    """Return a function that builds a model of the club by the name of its mechanism, "gcn" for none."""

    def build(name, num_layers, **more):
        torch.manual_seed(4)
        sizes = {"features": 34, "classes": 4, "num_layers": num_layers, **more}
        if name == "gcn":
            return GCN(**sizes).eval()
        return AttentionNetwork(**sizes, attention=Choice("attention", name), residual=True).eval()

    return build


def club(**options):
    data = KarateClub(**options)
    data.setup()
    return data


def test_there_are_mechanisms_on_edges():
    assert set(MECHANISMS) >= {"gat", "gatv2", "scaled_dot_product"}


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("name", ["gcn", *MECHANISMS])
def test_sampling_all_neighbours_answers_as_the_whole_graph(network, name, num_layers, self_loops):
    model = network(name, num_layers)
    whole, sampled = (
        club(self_loops=self_loops),
        club(self_loops=self_loops, batch_size=5, neighbors=[2] * num_layers, sampler="torch"),
    )
    (batch,) = whole.predict_dataloader()
    parts = list(sampled.predict_dataloader())
    assert len(parts) == 7
    assert min(part.num_nodes for part in parts) < 34 or num_layers > 2
    torch.testing.assert_close(torch.cat([model(part) for part in parts]), model(batch))


@pytest.mark.parametrize("self_loops", [True, False])
def test_sampling_some_neighbours_gives_gcn_the_whole_graph_on_average(network, self_loops):
    model = network("gcn", 1)
    data = club(self_loops=self_loops, batch_size=34, neighbors=[2], sampler="torch")
    around = data.train_dataloader().make
    everybody = torch.arange(34)
    with torch.no_grad():
        drawn = torch.stack([model(around(everybody, 34, seed)) for seed in range(400)])
        wanted = model(next(iter(club(self_loops=self_loops).predict_dataloader())))
    off = (drawn.mean(0) - wanted).abs() / (drawn.std(0) / 400**0.5 + 1e-6)
    assert off.max() < 5  # standard errors, the greatest of 136
    assert drawn.std(0).max() > 0.01


def test_nodes_without_edges_are_no_trouble_for_gcn(network):
    data = club(batch_size=1, neighbors=[1])
    nobody = torch.empty(2, 0, dtype=torch.long)
    around = Neighborhoods(
        features=data.features,
        target=data.target,
        degree=torch.zeros(34, dtype=torch.long),
        draw=TorchSampler(nobody, 34),
        hops=[1],
        self_loops=False,
        sparse=True,
    )
    model = network("gcn", 1)
    batch = around(torch.tensor([3]), 1, 0)
    assert torch.equal(model(batch), model.biases[0].detach()[None])


# Depth --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbors", [[4], [4, 4, 4]])
@pytest.mark.parametrize("name", ["gcn", *MECHANISMS])
def test_hops_for_another_depth_are_refused(network, name, neighbors):
    batch = next(iter(club(batch_size=4, neighbors=neighbors).train_dataloader()))
    with pytest.raises(RecipeError, match=rf"length {len(neighbors)}, .* num_layers=2, .* \[10, 10\]"):
        network(name, 2)(batch)


def test_hops_for_another_depth_stop_a_run_and_an_evaluation(toolkit, tmp_path, monkeypatch):
    monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
    fits = ["trainer.accelerator=cpu", "loggers=[]", "data.batch_size=4", "data.neighbors=[3, 3]"]
    recipe = load("gat_karate", toolkit, fits, smoke=True)
    with pytest.raises(RecipeError, match=r"data.neighbors is a list of length 3, .* num_layers=2"):
        train(recipe.with_overrides(["data.neighbors=[3, 3, 3]"]), out=tmp_path / "no", quiet=True)
    train(recipe, out=tmp_path / "yes", quiet=True)
    with pytest.raises(RecipeError, match=r"data.neighbors is a list of length 1, .* num_layers=2"):
        evaluate(tmp_path / "yes", ["data.neighbors=[3]"])
    fewer, all_of_them = evaluate(tmp_path / "yes", ["data.neighbors=[1, 1]"]), evaluate(tmp_path / "yes", [])
    assert fewer.metrics == all_of_them.metrics
