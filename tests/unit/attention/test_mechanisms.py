"""The contract, held by every mechanism in every layout and backend, against its formula in double precision."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from toolkit.attention import (
    Need,
    Request,
    blocks,
    causal,
    dense,
    edges,
    from_multihead,
    global_tokens,
    padding,
    to_edges,
    window,
)
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, ShapeError, UnknownNameError

MECHANISMS = [GAT, GATv2, ScaledDotProduct]
DENSE = [(GAT, "rows"), (GATv2, "rows"), (ScaledDotProduct, "rows"), (ScaledDotProduct, "sdpa")]
DENSE += [(mechanism, "reference") for mechanism in MECHANISMS]
H, D = 3, 4


def made(mechanism, **options):
    torch.manual_seed(7)
    return mechanism(heads=H, dim=D, **options).double()


def tensors(*shape, count=3, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*shape, dtype=torch.double, generator=generator) for _ in range(count)]
    return [each.requires_grad_(grad) for each in drawn]


def graph(num_targets=6, num_sources=8, num_edges=30, seed=0):
    """A random graph with repeated edges, self-loops, a target without edges, in no order at all."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(0, num_sources, (num_edges,), generator=generator)
    target = torch.randint(1, num_targets, (num_edges,), generator=generator)
    return edges(torch.stack([source, target]), num_targets, num_sources)


def formula(attend, q, k):
    """The paper's score of one query and one key, one head at a time. Shapes: q (D,), k (D,) for head h."""
    if isinstance(attend, GAT):
        return lambda i, j, h: F.leaky_relu(attend.query_weight[h] @ q[i, h] + attend.key_weight[h] @ k[j, h], 0.2)
    if isinstance(attend, GATv2):
        return lambda i, j, h: attend.weight[h] @ F.leaky_relu(q[i, h] + k[j, h], 0.2)
    return lambda i, j, h: q[i, h] @ k[j, h] / math.sqrt(D)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_edges_equal_the_formula(mechanism, backend):
    attend, pattern = made(mechanism, backend=backend), graph()
    q, k, v = tensors(6, H, D)[0], *tensors(8, H, D, count=2, seed=1)
    bias = tensors(pattern.num_edges, H, count=1, seed=2)[0]
    output = attend(q, k, v, pattern, bias=bias, need=Need(lse=True, received=True))
    score, values, received = formula(attend, q, k), torch.zeros(6, H, D), torch.zeros(8, H)
    for i in range(6):
        entering = (pattern.index[1] == i).nonzero()[:, 0].tolist()
        for h in range(H):
            if not entering:
                assert output.lse[i, h] == -torch.inf
                continue
            scores = torch.stack([score(i, int(pattern.index[0, e]), h) + bias[e, h] for e in entering])
            share = scores.softmax(0)
            torch.testing.assert_close(output.weights.values[entering, h], share)
            torch.testing.assert_close(output.lse[i, h], scores.logsumexp(0))
            for weight, edge in zip(share, entering, strict=True):
                values[i, h] = values[i, h] + weight * v[pattern.index[0, edge], h]
                received[pattern.index[0, edge], h] += weight.item()
    torch.testing.assert_close(output.values, values.double())
    torch.testing.assert_close(output.weights.received, received.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
@pytest.mark.parametrize("width", [3, 5])
def test_dense_equals_edges(mechanism, backend, width):
    attend = made(mechanism)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[2] = False
    q, k, v = (
        tensors(5, H, D, count=1)[0],
        tensors(7, H, D, count=1, seed=1)[0],
        tensors(7, H, width, count=1, seed=2)[0],
    )
    listed = to_edges(dense(mask), 5, 7)
    bias = tensors(5, 7, H, count=1, seed=4)[0]
    sparse = attend(q, k, v, listed, bias=bias[listed.index[1], listed.index[0]]).values
    attend.backend = backend
    turned = [each.transpose(0, 1)[None] for each in (q, k, v)]
    full = attend(*turned, dense(mask), bias=bias.permute(2, 0, 1)[None]).values[0].transpose(0, 1)
    torch.testing.assert_close(full, sparse)
    wanted = [q, k, v, bias, *attend.parameters()]
    for one, other in zip(
        torch.autograd.grad(full.square().sum(), wanted),
        torch.autograd.grad(sparse.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
@pytest.mark.parametrize(
    "pattern", [None, causal(), window(2, 1), blocks(2) | global_tokens([1]), causal() & window(1, 0)]
)
def test_backends_equal_the_reference(mechanism, backend, pattern):
    attend = made(mechanism)
    q, k, v = tensors(2, H, 4, D, count=1)[0], *tensors(2, H, 6, D, count=2, seed=1)
    results = []
    for name in ("reference", backend):
        attend.backend = name
        values = attend(q, k, v, pattern).values
        results.append([values, *torch.autograd.grad(values.square().sum(), [q, k, v, *attend.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_rows_in_many_chunks_equal_one(mechanism, monkeypatch):
    attend = made(mechanism, backend="rows", dropout=0.3)
    q, k, v = tensors(2, H, 9, D)
    pattern = causal() & padding(torch.tensor([9, 4]))
    attend.eval()
    whole = attend(q, k, v, pattern).values
    grads = torch.autograd.grad(whole.square().sum(), [q, k, v])
    monkeypatch.setattr("toolkit.attention.backends.rows._ELEMENTS", 60)
    cut = attend(q, k, v, pattern).values
    torch.testing.assert_close(cut, whole)
    for one, other in zip(torch.autograd.grad(cut.square().sum(), [q, k, v]), grads, strict=True):
        torch.testing.assert_close(one, other)
    attend.train()  # the chunks' dropout is drawn again alike in the backward pass
    ones = torch.ones_like(v, requires_grad=True)
    noisy = attend(q, k, ones, pattern).values
    slope = torch.autograd.grad(noisy.sum(), ones)[0].sum()
    torch.testing.assert_close(slope, noisy.sum())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_edges_in_many_chunks_equal_one(mechanism, monkeypatch):
    attend, pattern = made(mechanism), graph()
    inputs = [*tensors(6, H, D, count=1), *tensors(8, H, D, count=2, seed=1)]

    def result():
        values = attend(*inputs, pattern).values
        return [values, *torch.autograd.grad(values.square().sum(), [*inputs, *attend.parameters()])]

    whole = result()
    monkeypatch.setattr("toolkit.attention.segment._CHUNK", 40)
    monkeypatch.setattr("toolkit.attention.backends.edges._CHUNK", 40)
    for one, other in zip(result(), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_gradcheck_on_edges(mechanism, backend):
    attend, pattern = made(mechanism, backend=backend), graph(4, 5, 9)
    inputs = [*tensors(4, H, D, count=1), *tensors(5, H, D, count=2, seed=1), *tensors(9, H, count=1, seed=2)]

    def run(q, k, v, bias, *_):
        return attend(q, k, v, pattern, bias=bias).values

    assert torch.autograd.gradcheck(run, (*inputs, *attend.parameters()))
    if backend == "reference":
        assert torch.autograd.gradgradcheck(run, (*inputs, *attend.parameters()))
    else:
        with pytest.raises(CapabilityError, match="backend='reference'"):
            torch.autograd.grad(run(*inputs).sum(), inputs[2], create_graph=True)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
def test_gradcheck_on_dense(mechanism, backend):
    attend = made(mechanism, backend=backend)
    inputs = [
        *tensors(1, H, 2, D, count=1),
        *tensors(1, H, 3, D, count=2, seed=1),
        *tensors(1, H, 2, 3, count=1, seed=2),
    ]
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias, *_: attend(q, k, v, causal(), bias=bias).values, (*inputs, *attend.parameters())
    )


def test_scaled_dot_product_equals_torch_with_grouped_heads():
    attend = ScaledDotProduct(heads=4, dim=8)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, causal()).values, wanted)


def test_scaled_dot_product_equals_multihead_attention():
    torch.manual_seed(0)
    layer, attend = nn.MultiheadAttention(12, 3, batch_first=True).eval(), ScaledDotProduct(heads=3, dim=4).eval()
    x = torch.randn(2, 5, 12)
    padded = torch.tensor([[False] * 5, [False, False, False, True, True]])
    blocked = torch.ones(5, 5).triu(1).bool()
    wanted, wanted_weights = layer(x, x, x, padded, attn_mask=blocked, average_attn_weights=False)
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in F.linear(x, layer.in_proj_weight).chunk(3, -1))
    pattern, bias = from_multihead(blocked, padded)
    output = attend(q, k, v, pattern, bias=bias, need=Need())
    torch.testing.assert_close(layer.out_proj(output.values.transpose(1, 2).flatten(2)), wanted)
    torch.testing.assert_close(output.weights.values, wanted_weights)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
def test_rows_that_look_at_nothing_give_zero_and_no_gradient(mechanism, backend):
    attend = made(mechanism, backend=backend)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    q, k, v = tensors(2, H, 4, D)
    bias = tensors(1, 1, 4, 4, count=1)[0]
    values = attend(q, k, v, dense(mask) & padding(torch.tensor([4, 0])), bias=bias).values
    assert not values[0, :, 1].any()
    assert not values[1].any()
    assert values[0, :, 0].any()
    grads = torch.autograd.grad(values.sum() + values[0, :, 1].exp().sum(), [q, k, v, bias])
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not grads[0][0, :, 1].any()
    assert not any(grad[1].any() for grad in grads[:3])


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_targets_and_graphs_without_edges(mechanism, backend):
    attend = made(mechanism, backend=backend)
    for index, nodes in ((torch.tensor([[0], [1]]), 3), (torch.empty(2, 0, dtype=torch.long), 3)):
        q, k, v = tensors(nodes, H, D)
        values = attend(q, k, v, edges(index, nodes)).values
        assert not values[[0, 2]].any()
        assert values[1].any() == bool(index.shape[1])
        for grad in torch.autograd.grad(values.sum(), [q, k, v], materialize_grads=True, allow_unused=True):
            assert torch.isfinite(grad).all()
    nothing = edges(torch.empty(2, 0, dtype=torch.long), 0, 3)
    assert attend(torch.zeros(0, H, D), *tensors(3, H, D, count=2), nothing).values.shape == (0, H, D)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poison_stays_with_the_rows_that_look_at_it(mechanism, backend, poison):
    attend = made(mechanism, backend=backend)
    q, k, v = tensors(2, H, 5, D, grad=False)
    clean = attend(q, k, v, causal() & padding(torch.tensor([5, 4]))).values
    k[:, :, 4], v[:, :, 4] = poison, poison
    for each in (q, k, v):
        each.requires_grad_()
    values = attend(q, k, v, causal() & padding(torch.tensor([5, 4]))).values
    assert values[0, :, 4].isnan().all()
    torch.testing.assert_close(values[0, :, :4], clean[0, :, :4])
    torch.testing.assert_close(values[1], clean[1])
    grads = torch.autograd.grad(values[1].sum() + values[0, :, :4].sum(), [q, k, v, *attend.parameters()])
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_poison_at_a_source_reaches_its_targets_only(mechanism, backend):
    attend = made(mechanism, backend=backend)
    pattern = edges(torch.tensor([[0, 1, 1], [0, 1, 0]]), 2, 3)
    q, k, v = tensors(2, H, D, count=1)[0], *tensors(3, H, D, count=2, grad=False)
    k[0], v[2] = float("nan"), float("nan")
    k.requires_grad_()
    values = attend(q, k, v, pattern).values
    assert values[0].isnan().all()
    assert torch.isfinite(values[1]).all()
    grads = torch.autograd.grad(values[1].sum(), [q, k, *attend.parameters()])
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (2, 6), (6, 4)])
def test_causal_attention_reads_nothing_later_than_itself(mechanism, backend, queries, keys):
    attend = made(mechanism, backend=backend)
    q, k, v = tensors(1, H, queries, D, count=1)[0], *tensors(1, H, keys, D, count=2, seed=1)
    values = attend(q, k, v, causal()).values
    for row in range(queries):
        seen = torch.autograd.grad(values[0, :, row].sum(), v, retain_graph=True)[0][0].abs().sum((0, 2)) > 0
        assert seen.tolist() == [j <= row + keys - queries for j in range(keys)]


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
def test_samples_and_padding_do_not_leak(mechanism, backend):
    attend = made(mechanism, backend=backend)
    q, k, v = tensors(2, H, 5, D, grad=False)
    pattern = padding(torch.tensor([3, 5]))
    before = attend(q, k, v, pattern).values
    for each in (k, v):
        each[0, :, 3:] += 10.0
    torch.testing.assert_close(attend(q, k, v, pattern).values, before, rtol=0, atol=0)
    q[1], k[1], v[1] = 5.0, -3.0, 8.0
    after = attend(q, k, v, pattern).values
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-14)
    assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_weights_times_values_give_the_output_and_need_chooses(mechanism, monkeypatch):
    attend = made(mechanism)
    q, k, v = tensors(2, H, 6, D)
    pattern = causal() & padding(torch.tensor([6, 3]))
    every = attend(q, k, v, pattern, need=Need(received=True, lse=True))
    torch.testing.assert_close(every.weights.values @ v, every.values)
    torch.testing.assert_close(every.weights.values.sum(2), every.weights.received)
    scores = attend.scores(q, k).masked_fill(~pattern.mask(6, 6, batch=2), -torch.inf)
    torch.testing.assert_close(every.lse, scores.logsumexp(-1))
    monkeypatch.setattr("toolkit.attention.weighing._STEP", 40)  # many steps of a few rows
    some = attend(q, k, v, pattern, need=Need(rows=[4, 1], heads=[2], received=True, lse=True))
    torch.testing.assert_close(some.weights.values, every.weights.values[:, [2]][:, :, [4, 1]])
    torch.testing.assert_close(some.weights.received, some.weights.values.sum(2))
    torch.testing.assert_close(some.lse, every.lse)
    assert some.weights.rows.tolist() == [4, 1]
    assert some.weights.heads == (2,)
    alone = attend(q, k, v, pattern, need=Need(weights=False, received=True))
    assert alone.weights.values is None
    torch.testing.assert_close(alone.weights.received, every.weights.received)
    assert attend(q, k, v, pattern).weights is None


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_edge_weights_keep_the_callers_order_and_need_chooses(mechanism):
    attend, pattern = made(mechanism), graph()
    q, (k, v) = tensors(6, H, D, count=1)[0], tensors(8, H, D, count=2, seed=1)
    output = attend(q, k, v, pattern, need=Need())
    source, target = pattern.index
    mixed = torch.zeros(6, H, D).double().index_add(0, target, output.weights.values[:, :, None] * v[source])
    torch.testing.assert_close(mixed, output.values)
    order = torch.randperm(pattern.num_edges, generator=torch.Generator().manual_seed(1))
    shuffled = attend(q, k, v, edges(pattern.index[:, order], 6, 8), need=Need())
    torch.testing.assert_close(shuffled.weights.values, output.weights.values[order])
    torch.testing.assert_close(shuffled.values, output.values)
    some = attend(q, k, v, pattern, need=Need(rows=[2, 5], heads=[0, 2], received=True)).weights
    assert torch.equal(some.edges, torch.isin(target, torch.tensor([2, 5])).nonzero()[:, 0])
    torch.testing.assert_close(some.values, output.weights.values[some.edges][:, [0, 2]])
    torch.testing.assert_close(some.received.sum(0), torch.full((2,), 2.0).double())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_weights_with_gradient(mechanism):
    attend, pattern = made(mechanism), graph()
    q, (k, v) = tensors(6, H, D, count=1)[0], tensors(8, H, D, count=2, seed=1)
    assert not attend(q, k, v, pattern, need=Need()).weights.values.requires_grad
    assert torch.autograd.gradcheck(
        lambda q, k: attend(q, k, v, pattern, need=Need(rows=[1, 2], gradient=True)).weights.values, (q, k)
    )
    assert attend.explain(Request(q=q, k=k, v=v, pattern=pattern, need=Need(gradient=True))).name == "reference"
    attend.backend = "edges"
    with pytest.raises(CapabilityError, match=r"no gradient. What can: reference"):
        attend(q, k, v, pattern, need=Need(gradient=True))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_dropout_on_edges_keeps_the_mean_and_its_own_gradient(mechanism, backend):
    attend = made(mechanism, dropout=0.25, backend=backend)
    pattern = edges(torch.stack([torch.arange(4000) % 8, torch.zeros(4000).long()]), 1, 8)
    q, k, v = tensors(1, H, D, count=1)[0], tensors(8, H, D, count=1)[0], torch.ones(8, H, D, dtype=torch.double)
    v.requires_grad_()
    torch.manual_seed(0)
    values = attend(q, k, v, pattern).values
    assert values.std() > 0
    assert abs(values.mean() - 1) < 0.05
    torch.testing.assert_close(torch.autograd.grad(values.sum(), v)[0].sum(), values.sum())
    torch.manual_seed(0)
    assert torch.equal(attend(q, k, v, pattern).values, values)
    assert torch.equal(attend.eval()(q, k, v, pattern).values, attend(q, k, v, pattern).values)

    def seeded(q, k, v):
        torch.manual_seed(3)
        return attend(q, k, v, small).values

    attend.train()
    small = graph(4, 5, 12)
    assert torch.autograd.gradcheck(seeded, (*tensors(4, H, D, count=1), *tensors(5, H, D, count=2)))


def test_dropout_on_dense_keeps_the_mean():
    for mechanism, backend in DENSE:
        attend = made(mechanism, dropout=0.5, backend=backend)
        q, k = tensors(4, H, 50, D, count=2)
        values = attend(q, k, torch.ones_like(k)).values
        assert values.std() > 0
        assert abs(values.mean() - 1) < 0.05
        assert torch.allclose(attend.eval()(q, k, torch.ones_like(k)).values, torch.ones_like(k))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_bf16_autocast_runs_and_is_near(mechanism):
    attend, pattern = mechanism(heads=H, dim=D), graph()
    x, w = torch.randn(8, H * D), torch.randn(H * D, H * D, requires_grad=True)

    def run():
        h = (x @ w).view(8, H, D)
        return attend(h[:6], h, h, pattern).values

    with torch.autocast("cpu", torch.bfloat16):
        half = run()
    half.float().sum().backward()
    assert torch.isfinite(w.grad).all()
    torch.testing.assert_close(half.float(), run(), atol=0.1, rtol=0.1)


def test_unsupported_requests_raise_and_name_what_works():
    attend, pattern = made(GAT), graph()
    q, (k, v) = tensors(6, H, D, count=1)[0], tensors(8, H, D, count=2, seed=1)
    with pytest.raises(CapabilityError, match=r"to_edges"):
        attend(q, k, v, causal())
    with pytest.raises(CapabilityError, match="no state"):
        attend(q, k, v, pattern, state=1)
    with pytest.raises(ShapeError, match="8 sources"):
        attend(q, q, q, pattern)
    with pytest.raises(ShapeError, match=r"heads=3, dim=4"):
        attend(q[:, :2], k, v, pattern)
    with pytest.raises(ShapeError, match="bias"):
        attend(q, k, v, pattern, bias=torch.zeros(7, H))
    with pytest.raises(ShapeError):
        attend(q[0], k, v, pattern)
    with pytest.raises(ShapeError):
        attend(q[None].transpose(1, 2), k[None].transpose(1, 2), v[None, :7].transpose(1, 2))
    attend.backend = "sdpa"
    with pytest.raises(CapabilityError, match=r"not an inner product. What can: edges, reference"):
        attend(q, k, v, pattern)
    with pytest.raises(UnknownNameError, match="reference"):
        GAT(heads=1, dim=1, backend="referense")
    with pytest.raises(ValueError, match="dropout"):
        GAT(heads=1, dim=1, dropout=1.0)
    with pytest.raises(TypeError):
        GAT(heads=1, dim=1, droput=0.1)


def test_explain_says_which_backend_and_why():
    q, k, v = tensors(1, H, 4, D)
    choice = made(GATv2).explain(Request(q=q, k=k, v=v, pattern=causal()))
    assert choice.name == "rows"
    assert choice.refused["sdpa"] == "its score is not an inner product"
    assert str(choice).startswith("rows: ")
    assert made(ScaledDotProduct).explain(Request(q=q, k=k, v=v)).name == "sdpa"
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    loop = edges(torch.zeros(2, 1).long(), 4)
    assert made(GAT).explain(Request(q=q, k=k, v=v, pattern=loop)).name == "edges"


def test_build_finds_mechanisms_by_name():
    from toolkit import attention

    built = attention.build("gatv2", heads=2, dim=5, dropout=0.1)
    assert isinstance(built, GATv2)
    assert (built.heads, built.dim, built.dropout) == (2, 5, 0.1)
    with pytest.raises(UnknownNameError):
        attention.build("no_such_mechanism", heads=1, dim=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_of_a_node_with_thousands_of_edges(dtype):
    """A sum of 4000 small numbers in half precision stands still; gradients are added up in single."""
    attend = GATv2(heads=1, dim=4)
    torch.nn.init.ones_(attend.weight)
    index = torch.stack([torch.arange(8000) % 2, torch.arange(8000) // 2])
    pattern, v = edges(index, 4000, 2), torch.tensor([[[1.0, 0, 0, 0]], [[0.0, 0, 0, 0]]])

    def gradient(kind):
        k = torch.tensor([[[0.5, 0.25, 0, 0]], [[0.25, 0.5, 0, 0]]], dtype=kind, requires_grad=True)
        q = torch.zeros(4000, 1, 4, dtype=kind)
        made = attend.to(kind)
        return torch.autograd.grad(made(q, k, v.to(kind), pattern).values[..., 0].float().sum(), k)[0].double()

    exact = gradient(torch.double)
    assert (gradient(dtype) - exact).norm() < 0.02 * exact.norm()


def test_a_score_may_leave_out_a_parameter():
    class Halfway(GATv2):
        def __init__(self, **options):
            super().__init__(**options)
            self.unused = nn.Parameter(torch.ones(1))

    attend, (k,) = Halfway(heads=H, dim=D).double(), tensors(8, H, D, count=1)
    attend(tensors(6, H, D, count=1)[0], k, k, graph()).values.sum().backward()
    assert attend.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("need", [Need(rows=[6]), Need(rows=[-1]), Need(rows=[1, 1]), Need(heads=[H])])
def test_rows_and_heads_that_are_not_there_are_refused_in_both_layouts(need):
    q, k = tensors(6, H, D, count=1)[0], tensors(8, H, D, count=1)[0]
    with pytest.raises(ShapeError, match="different places"):
        made(GAT)(q, k, k, graph(), need=need)
    with pytest.raises(ShapeError, match="different places"):
        made(GAT)(*(x.transpose(0, 1)[None] for x in (q, k, k)), need=need)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dropout_keeps_the_type_and_the_mean(dtype):
    from toolkit.attention.dropout import dropout

    found = dropout(torch.ones(20000, dtype=dtype), 0.5, True)
    assert found.dtype == dtype
    assert abs(float(found.double().mean()) - 1) < 0.05
