"""Performer: the estimate, its error, stabilisers that show nothing. What kernels share: `test_linear`, `_contract`."""

import pytest
import torch
from torch.nn import functional as F

from toolkit.attention import Need, build, causal, padding
from toolkit.attention.performer import Performer
from toolkit.attention.scaled_dot_product import ScaledDotProduct

H, D = 4, 16


def made(seed=0, **options):
    torch.manual_seed(seed)
    return Performer(heads=H, dim=D, **options).double()


def tensors(length=64, batch=1, spread=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, batch, H, length, D, dtype=torch.double, generator=generator)
    return spread * q, spread * k, v


def error(**options):
    """The relative error against softmax attention, over several draws."""
    exact = ScaledDotProduct(heads=H, dim=D)
    found = []
    for seed in range(12):
        inputs = tensors(seed=seed)
        wanted = exact(*inputs).values
        found.append((made(seed, **options)(*inputs).values - wanted).norm() / wanted.norm())
    return torch.stack(found).mean().item()


def test_the_error_falls_with_the_root_of_the_number_of_features():
    few, many = error(features=64), error(features=1024)
    assert 0.2 < few < 0.35
    assert 3 < few / many < 5  # 4 is the root of 16
    assert error(features=64, orthogonal=False) > few  # which is why they are drawn orthogonal


@pytest.mark.parametrize("orthogonal", [True, False])
def test_the_kernel_is_estimated_without_bias(orthogonal):
    q, k, _ = tensors(3, spread=0.7)
    exact = (q @ k.mT / D**0.5).exp()
    estimates = []
    for seed in range(400):
        (one, scale), (other, key_scale) = (made(seed, orthogonal=orthogonal).query_features(x) for x in (q, k))
        estimates.append((one * scale.exp()[..., None]) @ (other * key_scale.exp()[..., None]).mT)
    estimates = torch.stack(estimates)
    deviation = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - exact).abs() < 4.5 * deviation).all()


def test_lse_estimates_that_of_softmax():
    inputs = tensors(spread=0.3)
    need = Need(weights=False, lse=True)
    wanted = ScaledDotProduct(heads=H, dim=D)(*inputs, causal(), need=need).lse
    torch.testing.assert_close(made(features=4096)(*inputs, causal(), need=need).lse, wanted, atol=0.05, rtol=0)


def test_orthogonal_features_are_orthogonal_in_blocks_and_keep_normal_lengths():
    drawn = made(features=40).projection
    gram = drawn @ drawn.T
    for block in (slice(0, 16), slice(16, 32), slice(32, 40)):
        inside = gram[block, block]
        torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-5, rtol=0)
    assert gram[:16, 16:32].abs().max() > 1
    assert made(features=4000).projection.square().sum(1).mean() == pytest.approx(D, rel=0.03)
    assert made(features=4000).projection.square().sum(1).var() == pytest.approx(2 * D, rel=0.15)  # chi squared
    plain = made(features=16, orthogonal=False).projection
    assert (plain @ plain.T - torch.diag(plain.square().sum(1))).abs().max() > 1


@pytest.mark.parametrize("size", [1.0, 30.0, 200.0])
@pytest.mark.parametrize("pattern", [None, causal()])
def test_large_keys_neither_overflow_nor_vanish_in_single_precision(size, pattern):
    attend = made().float()
    q, k, v = (each.float() for each in tensors(12))
    k = size * k
    k[:, :, 5] /= 3  # some far below the others
    found = attend(q, k, v, pattern)
    w = attend.projection.double()
    x, y = q.double() / D**0.25, k.double() / D**0.25
    raised = (x @ w.mT)[..., :, None, :] + (y @ w.mT - y.square().sum(-1, keepdim=True) / 2)[..., None, :, :]
    scores = raised.logsumexp(-1)
    if pattern is not None:
        scores = scores.masked_fill(~pattern.mask(12, 12), -torch.inf)
    torch.testing.assert_close(found.values.double(), scores.softmax(-1) @ v.double(), atol=2e-3, rtol=2e-3)
    ones = attend(q, k, torch.ones_like(v), pattern).values
    torch.testing.assert_close(ones, torch.ones_like(ones))  # the weights add up to one, with no constant added


def test_padding_of_any_size_changes_no_bit():
    attend = made().float()
    q, k, v = (each.float() for each in tensors(10, batch=2))
    pattern = padding(torch.tensor([6, 10]))
    before = attend(q, k, v, pattern).values
    k[0, :, 6:], v[0, :, 6:] = 0.0, 1e30  # the largest exponents that keys can have, of all
    assert torch.equal(attend(q, k, v, pattern).values, before)
    alone = attend(q[:1], k[:1, :, :6], v[:1, :, :6]).values
    torch.testing.assert_close(before[:1], alone, atol=1e-6, rtol=1e-5)


def test_the_draw_is_seeded_and_restored():
    q, k, v = tensors(8)
    one, same, other = made(1), made(1), made(2)
    assert torch.equal(one.projection, same.projection)
    assert not torch.equal(one(q, k, v).values, other(q, k, v).values)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(q, k, v).values, other(q, k, v).values)
    assert not list(one.parameters())


def test_redrawing_happens_in_training_only_and_goes_on_after_a_restore():
    q, k, v = tensors(8)
    attend = made(redraw=3)
    first = attend.projection
    for _ in range(10):
        attend.eval()(q, k, v)
    assert attend.projection is first
    attend.train()
    draws = []
    for _ in range(7):
        attend(q, k, v)
        draws.append(attend.projection)
    assert [draws[place] is draws[place - 1] for place in range(1, 7)] == [True, True, False, True, True, False]
    assert not torch.equal(draws[3], draws[6])
    restored = made(seed=9, redraw=3)
    restored.load_state_dict(attend.state_dict())
    for _ in range(3):
        attend(q, k, v)
        restored(q, k, v)
        assert torch.equal(attend.projection, restored.projection)
    steady = made()
    for _ in range(5):
        steady.train()(q, k, v)
    assert steady.calls == 0


def test_redrawing_leaves_graphs_of_earlier_calls_alone():
    q, k, v = (each.requires_grad_() for each in tensors(8))
    attend = made(redraw=1).train()
    values = attend(q, k, v).values
    attend(q, k, v)
    assert torch.isfinite(torch.autograd.grad(values.sum(), q)[0]).all()


def test_options():
    assert build("performer", heads=1, dim=64).features == 266  # 64 ln 64
    assert made(features=5).projection.shape == (5, D)
    with pytest.raises(ValueError, match="features"):
        Performer(heads=1, dim=4, features=0)
    with pytest.raises(ValueError, match="redraw"):
        Performer(heads=1, dim=4, redraw=0)
    with pytest.raises(TypeError):
        Performer(heads=1, dim=4, feature=8)


def test_a_query_opposite_to_its_only_key_still_gets_its_value():
    attend = made().float()
    k = F.normalize(torch.randn(1, H, 1, D, generator=torch.Generator().manual_seed(0)), dim=-1) * 16 * D**0.25
    assert torch.equal(attend(-k, k, torch.ones(1, H, 1, 2)).values, torch.ones(1, H, 1, 2))
