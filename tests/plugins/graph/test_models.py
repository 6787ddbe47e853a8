"""Graph models against PyTorch Geometric with copied weights, and against themselves on the whole graph."""

from types import SimpleNamespace

import pytest
import torch
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.models.attention_network import AttentionNetwork
from toolkit_graph.models.field import receptive_field
from toolkit_graph.models.gcn import GCN
from toolkit_graph.models.layer import GraphAttention
from toolkit_graph.models.readout import Readout
from toolkit_graph.models.sparse import project, select_rows
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, TransformerConv
from torch_geometric.nn.pool import global_max_pool, global_mean_pool

from toolkit.attention import EdgePattern, Need, edges
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError

N, F_IN, H, D = 30, 11, 3, 4
MECHANISMS = [GAT, GATv2, ScaledDotProduct]


class Chosen:
    """A mechanism as a recipe hands it over: options known, sizes not."""

    def __init__(self, mechanism=GAT, **options):
        self.mechanism, self.options = mechanism, options

    def build(self, *, heads, dim):
        return self.mechanism(heads=heads, dim=dim, **self.options)


def index_with_loops(seed=0):
    """Distinct edges with one self-loop a node, shuffled: PyG's own self-loops then are the same edges, elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    listed = (torch.rand(N, N, generator=generator) < 0.1).fill_diagonal_(True).nonzero().T
    return listed[:, torch.randperm(listed.shape[1], generator=generator)]


def features(density=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, F_IN, generator=generator).double()
    return x * (torch.rand(N, F_IN, generator=generator) < density)


def batch_of(items=None, x=None, seed=0, **more):
    x = features() if x is None else x
    return GraphBatch(target=torch.zeros(1), x=x, pattern=edges(index_with_loops(seed), N), items=items, **more)


def copied(layer, conv):
    """Copy a PyG convolution's weights into our layer."""
    attend = layer.mechanism
    with torch.no_grad():
        if isinstance(attend, GAT):
            layer.weight.copy_(conv.lin.weight.T)
            attend.query_weight.copy_(conv.att_dst[0])
            attend.key_weight.copy_(conv.att_src[0])
        elif isinstance(attend, GATv2):
            layer.weight.copy_(torch.cat([conv.lin_r.weight, conv.lin_l.weight]).T)
            attend.weight.copy_(conv.att[0])
        else:
            parts = (conv.lin_query, conv.lin_key, conv.lin_value)
            layer.weight.copy_(torch.cat([part.weight for part in parts]).T)
            if layer.skip is not None:
                layer.skip.copy_(conv.lin_skip.weight.T)
        if layer.bias is not None:
            layer.bias.copy_(conv.bias)
        if layer.skip is not None and not isinstance(attend, ScaledDotProduct):
            layer.skip.copy_(conv.res.weight.T)


CASES = [
    (GAT, GATConv, {}),
    (GAT, GATConv, {"residual": True}),
    (GATv2, GATv2Conv, {"bias": False}),
    (GATv2, GATv2Conv, {"bias": False, "residual": True}),
    (ScaledDotProduct, TransformerConv, {"bias": False, "root_weight": False}),
    (ScaledDotProduct, TransformerConv, {"bias": False}),
]


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("mechanism", "conv_class", "options"), CASES)
def test_layer_equals_pyg_in_values_weights_and_gradients(mechanism, conv_class, options, sparse, concat):
    torch.manual_seed(1)
    conv = conv_class(F_IN, D, heads=H, concat=concat, **options).double()
    skip = options.get("residual", mechanism is ScaledDotProduct and options.get("root_weight", True))
    layer = GraphAttention(
        in_features=F_IN,
        mechanism=mechanism(heads=H, dim=D),
        concat=concat,
        bias=options.get("bias", True),
        skip=skip,
    ).double()
    copied(layer, conv)
    index, x = index_with_loops(), features()
    ours, weights = layer(x.to_sparse_csr() if sparse else x, edges(index, N), need=Need())
    theirs, (their_index, their_weights) = conv(x, index, return_attention_weights=True)
    torch.testing.assert_close(ours, theirs)
    place = {pair: number for number, pair in enumerate(map(tuple, their_index.T.tolist()))}
    moved = [place[pair] for pair in map(tuple, index.T.tolist())]  # PyG takes self-loops out and puts them last
    torch.testing.assert_close(weights.values, their_weights[moved])

    slope = torch.randn_like(ours)
    (ours * slope).sum().backward()
    (theirs * slope).sum().backward()
    twin = GraphAttention(
        in_features=F_IN, mechanism=mechanism(heads=H, dim=D), concat=concat, bias=layer.bias is not None, skip=skip
    ).double()
    with torch.no_grad():  # the gradients, in our layout, by the same copy
        for parameter in conv.parameters():
            if parameter.grad is not None:  # TransformerConv keeps a skip projection that it does not use
                parameter.copy_(parameter.grad)
    copied(twin, conv)
    for (name, parameter), wanted in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, wanted.data, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_gradient_of_dense_features_equals_pyg(mechanism):
    _, conv_class, options = next(case for case in CASES if case[0] is mechanism)
    conv = conv_class(F_IN, D, heads=H, **options).double()
    layer = GraphAttention(
        in_features=F_IN, mechanism=mechanism(heads=H, dim=D), bias=options.get("bias", True)
    ).double()
    copied(layer, conv)
    x, index = features().requires_grad_(), index_with_loops()
    ours = torch.autograd.grad(layer(x, edges(index, N))[0].square().sum(), x)[0]
    theirs = torch.autograd.grad(conv(x, index).square().sum(), x)[0]
    torch.testing.assert_close(ours, theirs)


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


def test_sparse_projection_equals_dense():
    x, weight = features(), torch.randn(F_IN, 5, dtype=torch.double, requires_grad=True)
    slope = torch.randn(N, 5, dtype=torch.double)
    (wanted,) = torch.autograd.grad((x @ weight * slope).sum(), weight)
    out = project(x.to_sparse_csr(), weight)
    torch.testing.assert_close(out, x @ weight)
    torch.testing.assert_close(torch.autograd.grad((out * slope).sum(), weight)[0], wanted)
    rows = torch.tensor([9, 0, 9, 21])
    assert torch.equal(select_rows(x.to_sparse_csr(), rows).to_dense(), x[rows])
    assert torch.equal(select_rows(x, rows), x[rows])
    empty = torch.zeros(N, F_IN, dtype=torch.double).to_sparse_csr()
    assert not project(empty, weight).any()
    with pytest.raises(CapabilityError, match="once"):
        torch.autograd.grad(project(x.to_sparse_csr(), weight).sum(), weight, create_graph=True)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_dropped_features_have_the_right_rate_and_gradient(layout):
    torch.manual_seed(0)
    x = torch.ones(400, 50, dtype=torch.double)
    x = x if layout == "dense" else x.to_sparse_csr()
    weight = torch.ones(50, 1, dtype=torch.double, requires_grad=True)
    out = project(x, weight, 0.6, True)
    assert abs(out.mean() / 50 - 1) < 0.03
    assert out.std() > 1
    torch.testing.assert_close(torch.autograd.grad(out.sum(), weight)[0].sum(), out.sum())
    assert torch.equal(project(x, weight, 0.6, False), torch.full((400, 1), 50.0).double())
    torch.manual_seed(0)
    assert torch.equal(project(x, weight, 0.6, True), out)


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


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_readout_pools_each_graph(kind):
    torch.manual_seed(0)
    graph, x = torch.tensor([0, 2, 0, 2, 2, 3]), torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    readout = Readout(kind=kind, features=4).double()
    pooled = readout(x, graph, 4)
    assert not pooled[1].any()
    if kind == "attention":
        wanted = torch.stack([(readout.gate(x[graph == g]).softmax(0) * x[graph == g]).sum(0) for g in (0, 2, 3)])
    else:
        pool = {"mean": global_mean_pool, "max": global_max_pool}[kind]
        wanted = pool(x, graph, 4)[[0, 2, 3]]
    torch.testing.assert_close(pooled[[0, 2, 3]], wanted)
    assert torch.autograd.gradcheck(lambda x: readout(x, graph, 4), x)


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


def test_a_mechanism_without_edges_is_refused():
    attend = GAT(heads=1, dim=1)
    attend.capabilities = SimpleNamespace(layouts=frozenset({"dense"}))
    with pytest.raises(CapabilityError, match="edges"):
        GraphAttention(in_features=2, mechanism=attend)
    assert isinstance(edges(torch.zeros(2, 1).long(), 1), EdgePattern)
