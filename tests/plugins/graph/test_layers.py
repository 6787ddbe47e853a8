"""The parts of graph models: layers against PyTorch Geometric with copied weights, projections, readouts."""

from types import SimpleNamespace

import pytest
import torch
from graph_samples import F_IN, MECHANISMS, D, H, N, copied, features, index_with_loops
from toolkit_graph.models.layer import GraphAttention
from toolkit_graph.models.readout import Readout
from toolkit_graph.models.sparse import project, select_rows
from torch_geometric.nn import GATConv, GATv2Conv, TransformerConv
from torch_geometric.nn.pool import global_max_pool, global_mean_pool

from toolkit.attention import EdgePattern, Need, edges
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError

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


def test_a_mechanism_without_edges_is_refused():
    attend = GAT(heads=1, dim=1)
    attend.capabilities = SimpleNamespace(layouts=frozenset({"dense"}))
    with pytest.raises(CapabilityError, match="edges"):
        GraphAttention(in_features=2, mechanism=attend)
    assert isinstance(edges(torch.zeros(2, 1).long(), 1), EdgePattern)


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
