"""Graph networks against PyTorch Geometric with copied weights, and against themselves on the whole graph."""

import pytest
import torch
from graph_samples import F_IN, MECHANISMS, Chosen, N, batch_of, copied, features, index_with_loops
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.models.attention_network import AttentionNetwork
from toolkit_graph.models.field import receptive_field
from toolkit_graph.models.gcn import GCN
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv

from toolkit.attention import Need, edges
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2


def test_two_layer_network_equals_the_pyg_model():
    torch.manual_seed(2)
    first, second = GATConv(F_IN, 8, 8).double(), GATConv(64, 5, heads=1, concat=False).double()
    model = AttentionNetwork(features=F_IN, classes=5, attention=Chosen(GAT, dropout=0.6)).double().eval()
    for layer, conv in zip(model.layers, (first, second), strict=True):
        copied(layer, conv)
    index, items = index_with_loops(), torch.tensor([4, 0, 17])
    wanted = second(F.elu(first(features(), index)), index)
    torch.testing.assert_close(model(batch_of()), wanted)
    torch.testing.assert_close(model(batch_of(items)), wanted[items])
    torch.testing.assert_close(model(batch_of(items, features().to_sparse_csr())), wanted[items])


def test_gcn_equals_the_pyg_model():
    torch.manual_seed(2)
    first, second = GCNConv(F_IN, 16).double(), GCNConv(16, 5).double()
    model = GCN(features=F_IN, classes=5).double().eval()
    with torch.no_grad():
        for weight, bias, conv in zip(model.weights, model.biases, (first, second), strict=True):
            weight.copy_(conv.lin.weight.T)
            bias.copy_(conv.bias.normal_())
    index, items = index_with_loops(), torch.tensor([4, 0, 17])
    wanted = second(F.relu(first(features(), index)), index)
    torch.testing.assert_close(model(batch_of()), wanted)
    torch.testing.assert_close(model(batch_of(items)), model(batch_of())[items])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_gcn_answers_in_the_precision_of_its_weights(kind):
    model = GCN(features=F_IN, classes=5).to(kind).eval()
    out = model(batch_of(x=features().to(kind)))
    assert out.dtype == kind
    torch.testing.assert_close(out, model.double()(batch_of()).to(kind), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("make", [*MECHANISMS, GCN])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("items", [[3, 29, 0], [5, 5, 1], [7], list(range(N)), []])
def test_computing_only_what_items_need_changes_nothing(make, num_layers, items):
    torch.manual_seed(3)
    sizes = {"features": F_IN, "classes": 4, "num_layers": num_layers, "dropout": 0.0}
    model = GCN(**sizes) if make is GCN else AttentionNetwork(**sizes, attention=Chosen(make), hidden=3, residual=True)
    model, chosen = model.double(), torch.tensor(items, dtype=torch.long)
    slope = torch.randn(len(items), 4, dtype=torch.double)
    grads = []
    for x in (features(), features().to_sparse_csr()):
        for logits in (model(batch_of(chosen, x)), model(batch_of(None, x))[chosen]):
            grads.append([logits, *torch.autograd.grad((logits * slope).sum(), list(model.parameters()))])
    for other in grads[1:]:
        for one, two in zip(grads[0], other, strict=True):
            torch.testing.assert_close(one, two)


def test_the_field_holds_what_enters_and_no_more():
    #  0 -> 1 -> 2 -> 3, and 4 -> 0
    pattern = edges(torch.tensor([[2, 0, 4, 1], [3, 1, 0, 2]]), 5)
    found = receptive_field(pattern, torch.tensor([3]), 2)
    assert found.nodes.tolist() == [3, 2, 1]
    assert [hop.pattern.num_edges for hop in found.hops] == [2, 1]
    assert found.hops[0].edges.tolist() == [0, 3]
    assert found.hops[1].edges.tolist() == [0]
    assert receptive_field(pattern, torch.tensor([3]), 2) is found
    assert receptive_field(pattern, torch.tensor([2]), 2) is not found
    whole = receptive_field(pattern, None, 2)
    assert whole.nodes is None
    assert [hop.pattern for hop in whole.hops] == [pattern, pattern]


def test_features_of_a_field_follow_the_features_they_were_cut_from():
    x = features()
    found = receptive_field(edges(index_with_loops(), N), torch.tensor([1]), 1)
    first = found.features(x)
    assert found.features(x) is first
    x[1] = 7.0
    assert (found.features(x)[0] == 7.0).all()
    assert torch.equal(found.features(x * 2), (x * 2)[found.nodes])


def test_weights_of_every_layer_keep_the_callers_order():
    model = AttentionNetwork(features=F_IN, classes=4, attention=Chosen(GATv2, dropout=0.5), output_heads=2).double()
    batch = batch_of(torch.tensor([1]))
    shown = model.attention_weights(batch)
    assert model.training
    assert [tuple(each.values.shape) for each in shown] == [(batch.pattern.num_edges, 8), (batch.pattern.num_edges, 2)]
    assert all(each.pattern is batch.pattern for each in shown)
    for each in shown:
        total = torch.zeros(N, each.values.shape[1]).double().index_add(0, batch.pattern.index[1], each.values)
        torch.testing.assert_close(total, torch.ones_like(total))
    again = model.attention_weights(batch, Need(rows=[3]))
    torch.testing.assert_close(again[0].values, shown[0].values[batch.pattern.index[1] == 3])


@pytest.mark.parametrize("readout", ["mean", "max", "attention"])
def test_graphs_in_a_batch_do_not_touch_each_other(readout):
    torch.manual_seed(0)
    model = AttentionNetwork(features=3, classes=2, attention=Chosen(), hidden=2, heads=2, readout=readout).eval()
    x = torch.randn(5, 3)
    graphs = [
        (edges(torch.tensor([[0, 1, 1], [1, 0, 1]]), 2), x[:2]),
        (edges(torch.tensor([[0, 2], [1, 1]]), 3), x[2:]),
    ]
    alone = [
        model(GraphBatch(target=torch.zeros(1), x=part, pattern=pattern, graph=torch.zeros(len(part)).long()))
        for pattern, part in graphs
    ]
    joined = edges(torch.cat([graphs[0][0].index, graphs[1][0].index + 2], 1), 5)
    both = model(
        GraphBatch(target=torch.zeros(2), x=x, pattern=joined, graph=torch.tensor([0, 0, 1, 1, 1]), num_graphs=2)
    )
    torch.testing.assert_close(both, torch.cat(alone))
    assert both.shape == (2, 2)


@pytest.mark.parametrize("make", [*MECHANISMS, GCN])
def test_training_is_bit_for_bit_repeatable_and_learns(make):
    def train():
        torch.manual_seed(5)
        sizes = {"features": F_IN, "classes": 3, "dropout": 0.2}
        model = GCN(**sizes) if make is GCN else AttentionNetwork(**sizes, attention=Chosen(make, dropout=0.2))
        batch, target = batch_of(torch.arange(0, N, 2), features().float().to_sparse_csr()), torch.arange(N // 2) % 3
        optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
        for _ in range(60):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, [parameter.detach().clone() for parameter in model.parameters()]

    (losses, first), (_, second) = train(), train()
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_options_change_what_is_built():
    def shapes(**options):
        model = AttentionNetwork(features=F_IN, classes=4, attention=Chosen(), **options)
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    base = shapes()
    assert base["layers.0.weight"] == (F_IN, 64)
    assert base["layers.1.weight"] == (64, 4)
    for options in (
        {"hidden": 4},
        {"heads": 2},
        {"output_heads": 3},
        {"num_layers": 3},
        {"residual": True},
        {"readout": "attention"},
    ):
        assert shapes(**options) != base, options
    with pytest.raises(ValueError, match="num_layers"):
        shapes(num_layers=0)
    with pytest.raises(ValueError, match="readout"):
        shapes(readout="sum")
