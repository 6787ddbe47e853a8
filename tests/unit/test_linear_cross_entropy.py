"""Cross-entropy in chunks: what the plain way gives, values and gradients, in any chunk and precision."""

import pytest
import torch
from torch.nn import functional as F

from toolkit import linear_cross_entropy as module
from toolkit.linear_cross_entropy import linear_cross_entropy


def draws(items=7, dim=5, classes=11, dtype=torch.float64):
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(items, dim, generator=chance, dtype=dtype, requires_grad=True)
    weight = torch.randn(classes, dim, generator=chance, dtype=dtype, requires_grad=True)
    return x, weight, torch.randint(classes, (items,), generator=chance)


@pytest.mark.parametrize("chunk", [1, 22, 33, 1 << 20])
def test_values_and_gradients_are_those_of_the_plain_way(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    x, weight, target = draws()
    mean, each = linear_cross_entropy(x, weight, target)
    plain = F.cross_entropy(x @ weight.T, target, reduction="none")
    torch.testing.assert_close(each, plain.detach())
    torch.testing.assert_close(mean, plain.mean())
    assert not each.requires_grad
    found = torch.autograd.grad(3 * mean, [x, weight])
    torch.testing.assert_close(found, torch.autograd.grad(3 * plain.mean(), [x, weight]))


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_wants_no_gradient_gets_none(frozen):
    parts = list(draws())
    parts[frozen] = parts[frozen].detach()
    mean, _ = linear_cross_entropy(*parts)
    wanted = parts[1 - frozen]
    plain = F.cross_entropy(parts[0] @ parts[1].T, parts[2])
    torch.testing.assert_close(torch.autograd.grad(mean, wanted), torch.autograd.grad(plain, wanted))
    assert not linear_cross_entropy(*(part.detach() for part in parts))[0].requires_grad


def test_under_autocast_sums_are_taken_in_single_precision():
    x, weight, target = draws(items=64, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mean, each = linear_cross_entropy(x, weight, target)
    assert each.dtype == mean.dtype == torch.float32
    exact = F.cross_entropy(x.bfloat16().float() @ weight.bfloat16().float().T, target)
    torch.testing.assert_close(mean, exact, rtol=0.01, atol=0.01)
    mean.backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    wanted = torch.autograd.grad(F.cross_entropy(x @ weight.T, target), [x, weight])
    torch.testing.assert_close([x.grad, weight.grad], list(wanted), rtol=0.05, atol=2e-3)


def test_of_no_items_the_mean_and_the_gradient_are_0():
    x, weight, target = draws(items=0)
    mean, each = linear_cross_entropy(x, weight, target)
    mean.backward()
    assert mean == 0
    assert len(each) == 0
    assert not weight.grad.any()


def test_a_second_derivative_raises():
    x, weight, target = draws()
    mean, _ = linear_cross_entropy(x, weight, target)
    (slope,) = torch.autograd.grad(mean * x.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_large_logits_stay_finite():
    x, weight, target = draws(dtype=torch.float32)
    mean, each = linear_cross_entropy(x * 1e4, weight, target)
    assert each.isfinite().all()
    mean.backward()
    assert x.grad.isfinite().all()
