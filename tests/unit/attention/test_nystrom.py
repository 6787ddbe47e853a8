"""Nystrom attention against its formula, and that samples and padding keep to themselves."""

import pytest
import torch
from torch.nn import functional as F

from toolkit.attention import Need, build, causal, dense, padding, segments
from toolkit.attention.nystrom import Nystrom, pseudo_inverse
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError

H, D = 3, 4


def made(**options):
    torch.manual_seed(7)
    return Nystrom(heads=H, dim=D, **options).double()


def tensors(length=12, batch=2, width=5, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, H, length, D), (batch, H, length, D), (batch, H, length, width)]
    return [torch.randn(shape, dtype=torch.double, generator=generator).requires_grad_(grad) for shape in shapes]


def formula(q, k, v, landmarks, iterations):
    """One head of one sample without padding, as in algorithm 1 of the paper. Shapes: (L, D)."""
    length = len(q)
    m = min(landmarks, length)
    ends = [[i for i in range(length) if i * m // length == s] for s in range(m)]
    at_q, at_k = (torch.stack([x[each].mean(0) for each in ends]) for x in (q, k))
    left, middle, right = ((one @ other.T / D**0.5).softmax(-1) for one, other in ((q, at_k), (at_q, at_k), (at_q, k)))
    z = middle.T / (middle.sum(0).max() * middle.sum(1).max())
    one = torch.eye(m, dtype=torch.double)
    for _ in range(iterations):
        z = z @ (13 * one - middle @ z @ (15 * one - middle @ z @ (7 * one - middle @ z))) / 4
    return left @ z @ right @ v


@pytest.mark.parametrize("landmarks", [1, 3, 5, 12, 64])
@pytest.mark.parametrize("iterations", [1, 6])
def test_it_is_the_formula_of_the_paper_on_the_real_tokens_of_each_sample(landmarks, iterations):
    attend = made(landmarks=landmarks, iterations=iterations)
    q, k, v = tensors(batch=3)
    lengths = [12, 7, 2]
    found = attend(q, k, v, padding(torch.tensor(lengths))).values
    for b, length in enumerate(lengths):
        for h in range(H):
            wanted = formula(*(x[b, h, :length] for x in (q, k, v)), landmarks, iterations)
            torch.testing.assert_close(found[b, h, :length], wanted)


def test_landmarks_are_means_of_equal_segments_where_they_divide_the_length():
    attend = made(landmarks=4)
    q, k, v = tensors(grad=False)
    means = q.unflatten(2, (4, 3)).mean(3, keepdim=True).expand(-1, -1, -1, 3, -1).flatten(2, 3)
    left, middle, _ = attend._factors(_call(attend, q, k, v), torch.ones(1, 1, 12, dtype=torch.bool))
    at_keys = k.unflatten(2, (4, 3)).mean(3)
    torch.testing.assert_close(left, (q @ at_keys.mT / 2).softmax(-1))
    torch.testing.assert_close(middle, (means[:, :, ::3] @ at_keys.mT / 2).softmax(-1))


def _call(attend, q, k, v):
    from toolkit.attention import Request
    from toolkit.attention.call import checked

    return checked(Request(q=q, k=k, v=v), attend)


def test_as_many_landmarks_as_tokens_give_softmax_attention():
    q, k, v = tensors(20)
    pattern = padding(torch.tensor([20, 9]))
    wanted = ScaledDotProduct(heads=H, dim=D)(q, k, v, pattern).values
    found = made(landmarks=20, iterations=40)(q, k, v, pattern).values
    torch.testing.assert_close(found[0], wanted[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1, :, :9], wanted[1, :, :9], atol=1e-6, rtol=1e-6)
    errors = [
        (made(landmarks=20, iterations=steps)(q, k, v, pattern).values - wanted)[0].norm().item()
        for steps in (2, 6, 12)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_the_inverse_is_that_of_moore_and_penrose():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(2, 3, 5, 5, dtype=torch.double, generator=generator)
    matrix[0, 0, 3:], matrix[0, 0, :, 3:] = 0, 0  # landmarks that a short sample does not have
    matrix[1, 2] = 0
    found = pseudo_inverse(matrix, 60)
    torch.testing.assert_close(found, torch.linalg.pinv(matrix), atol=1e-6, rtol=1e-6)
    assert not found[0, 0, 3:].any()
    scaled = matrix * torch.logspace(-3, 3, 6, dtype=torch.double).view(2, 3, 1, 1)  # each is scaled by itself
    sizes = torch.logspace(3, -3, 6, dtype=torch.double).view(2, 3, 1, 1)
    torch.testing.assert_close(pseudo_inverse(scaled, 3), pseudo_inverse(matrix, 3) * sizes)


@pytest.mark.parametrize("conv_kernel", [None, 3])
def test_samples_and_the_amount_of_padding_do_not_show(conv_kernel):
    attend = made(landmarks=4, conv_kernel=conv_kernel)
    q, k, v = tensors(6, grad=False)
    pattern = padding(torch.tensor([6, 5]))
    before = attend(q, k, v, pattern).values
    alone = attend(q[1:, :, :5], k[1:, :, :5], v[1:, :, :5]).values
    torch.testing.assert_close(before[1:, :, :5], alone)
    longer = [torch.cat([x, torch.full_like(x, 50.0), torch.full_like(x, float("nan"))], 2) for x in (q, k, v)]
    torch.testing.assert_close(attend(*longer, pattern).values[:, :, :5], before[:, :, :5])
    loud = [torch.cat([50 * x[:1], x[1:]]) for x in (q, k, v)]
    torch.testing.assert_close(attend(*loud, pattern).values[1], before[1], rtol=0, atol=1e-14)
    assert not torch.allclose(attend(*loud, pattern).values[0], before[0])
    heads = [torch.cat([50 * x[:, :1], x[:, 1:]], 1) for x in (q, k, v)]
    torch.testing.assert_close(attend(*heads, pattern).values[:, 1:], before[:, 1:], rtol=0, atol=1e-14)


def test_tokens_hidden_in_the_middle_are_left_out():
    attend = made(landmarks=2)
    q, k, v = tensors(6)
    kept = torch.tensor([0, 2, 3, 5])
    mask = torch.zeros(1, 1, 1, 6, dtype=torch.bool)
    mask[..., kept] = True
    short = attend(q[:, :, kept], k[:, :, kept], v[:, :, kept]).values
    torch.testing.assert_close(attend(q, k, v, dense(mask)).values[:, :, kept], short)


@pytest.mark.parametrize("conv_kernel", [1, 3, 5])
def test_the_convolution_runs_along_the_real_values_of_each_head(conv_kernel):
    attend, without = made(landmarks=4, conv_kernel=conv_kernel), made(landmarks=4)
    q, k, v = tensors(8)
    pattern = padding(torch.tensor([8, 5]))
    added = attend(q, k, v, pattern).values - without(q, k, v, pattern).values
    half = conv_kernel // 2
    for b, length in ((0, 8), (1, 5)):
        for h in range(H):
            for i in range(length):
                near = range(max(0, i - half), min(length, i + half + 1))
                wanted = sum(attend.conv_weight[h, j - i + half] * v[b, h, j] for j in near)
                torch.testing.assert_close(added[b, h, i], wanted)
    depthwise = F.conv1d(v[:1, 1].mT, attend.conv_weight[1].expand(5, 1, -1), padding=half, groups=5).mT
    torch.testing.assert_close(added[:1, 1], depthwise)


@pytest.mark.parametrize("options", [{"landmarks": 2}, {"landmarks": 8, "iterations": 2, "conv_kernel": 3}])
def test_gradcheck(options):
    attend = made(**options)
    inputs = tensors(5, width=2)
    pattern = padding(torch.tensor([5, 3]))
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(
            lambda q, k, v, *_: attend(q, k, v, pattern).values, (*inputs, *attend.parameters()), fast_mode=True
        )


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poison_stays_in_its_sample_and_head(poison):
    attend = made(landmarks=4, conv_kernel=3)
    q, k, v = tensors(grad=False)
    pattern = padding(torch.tensor([12, 6]))
    before = attend(q, k, v, pattern).values
    k[0, 1, 3], v[1, :, 6:], k[1, :, 6:] = poison, poison, poison
    for each in (q, k, v):
        each.requires_grad_()
    values = attend(q, k, v, pattern).values
    assert values[0, 1].isnan().all()
    torch.testing.assert_close(values[0, [0, 2]], before[0, [0, 2]])
    torch.testing.assert_close(values[1], before[1])
    grads = torch.autograd.grad(values[1].sum() + values[0, 0].sum(), [q, k, v, *attend.parameters()])
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_a_sample_without_tokens_gives_zero_and_no_gradient():
    attend = made(landmarks=4, conv_kernel=3)
    inputs = tensors()
    values = attend(*inputs, padding(torch.tensor([12, 0]))).values
    assert not values[1].any()
    assert values[0].any()
    leaves = [*inputs, *attend.parameters()]
    grads = torch.autograd.grad(values.exp().sum(), leaves, retain_graph=True)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not any(grad.any() for grad in torch.autograd.grad(values[1].exp().sum(), leaves))
    assert attend(*tensors(0)).values.shape == (2, H, 0, 5)


@pytest.mark.parametrize("conv_kernel", [None, 3])
def test_weights_give_the_output_and_need_chooses(conv_kernel):
    attend = made(landmarks=4, conv_kernel=conv_kernel)
    q, k, v = tensors()
    pattern = padding(torch.tensor([12, 5]))
    output = attend(q, k, v, pattern, need=Need(received=True))
    weights = output.weights.values
    torch.testing.assert_close(weights @ v, output.values)
    torch.testing.assert_close(output.weights.received, weights.sum(2))
    assert not weights[1, :, :, 5:].any()
    assert not weights.requires_grad
    some = attend(q, k, v, pattern, need=Need(rows=[3], heads=[1], gradient=True)).weights.values
    torch.testing.assert_close(some, weights[:, [1]][:, :, [3]])
    assert torch.autograd.grad(some.sum(), q)[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inverts_in_single(dtype):
    attend = made(landmarks=4, conv_kernel=3).to(dtype)
    inputs = [each.detach().to(dtype) for each in tensors()]
    found = attend(*inputs).values
    assert found.dtype == dtype
    exact = attend.double()(*(each.double() for each in inputs)).values
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=tolerance)
    with torch.autocast("cpu", torch.bfloat16):
        under = attend.float()(*(each.float() for each in inputs)).values
    torch.testing.assert_close(under.double(), exact, atol=1e-3, rtol=1e-3)


def test_what_cannot_be_answered_is_refused():
    attend = build("nystrom", heads=H, dim=D).double()
    q, k, v = tensors()
    for pattern in (causal(), causal() & padding(torch.tensor([3, 4])), segments(torch.zeros(2, 12).long())):
        with pytest.raises(CapabilityError, match=r"nystrom .*padding.*scaled_dot_product"):
            attend(q, k, v, pattern)
    with pytest.raises(CapabilityError, match=r"12 queries and 5 keys; linformer and performer"):
        attend(q, k[:, :, :5], v[:, :, :5])
    with pytest.raises(CapabilityError, match="bias"):
        attend(q, k, v, bias=torch.zeros(12, 12))
    with pytest.raises(CapabilityError, match="state"):
        attend(q, k, v, state=1)
    with pytest.raises(CapabilityError, match="lse"):
        attend(q, k, v, need=Need(lse=True))
    for options in ({"landmarks": 0}, {"iterations": 0}, {"conv_kernel": 4}, {"conv_kernel": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            made(**options)
    with pytest.raises(TypeError):
        made(landmark=3)
