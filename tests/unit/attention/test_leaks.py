"""Nothing passes where a pattern lets nobody look: empty rows, poison, the future, other samples."""

import pytest
import torch
from mechanism_samples import DENSE, MECHANISMS, D, H, made, tensors

from toolkit.attention import (
    causal,
    dense,
    edges,
    padding,
)


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
