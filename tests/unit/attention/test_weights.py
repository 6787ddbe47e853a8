"""Weights on demand, dropout, precision, and what a mechanism says when it is asked too much."""

import pytest
import torch
from mechanism_samples import DENSE, MECHANISMS, D, H, graph, made, tensors
from torch import nn

from toolkit.attention import (
    Need,
    Request,
    causal,
    edges,
    padding,
)
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, ShapeError, UnknownNameError


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


def test_half_precision_scores_on_edges_do_not_overflow_before_they_are_scaled():
    attend = ScaledDotProduct(heads=1, dim=64).half()
    q = torch.full((2, 1, 64), 40.0, dtype=torch.half)
    index = torch.tensor([[0, 1], [0, 0]])
    assert attend(q, q, q, edges(index, 2), need=Need()).weights.values.isfinite().all()
