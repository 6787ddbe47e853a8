"""Linformer against its formula, and that nothing hidden reaches a slot."""

import pytest
import torch

from toolkit.attention import Need, build, causal, dense, full, padding, window
from toolkit.attention.linformer import Linformer
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, ShapeError, UnknownNameError

H, D, K, LONGEST = 3, 4, 3, 8
SHARES = ["none", "heads", "kv"]
PATTERN = padding(torch.tensor([6, 2]))


def made(**options):
    torch.manual_seed(7)
    return Linformer(heads=H, dim=D, **{"max_length": LONGEST, "projected_length": K, **options}).double()


def tensors(queries=6, keys=6, batch=2, width=5, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, H, queries, D), (batch, H, keys, D), (batch, H, keys, width)]
    return [torch.randn(shape, dtype=torch.double, generator=generator).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (4, 8), (8, 3)])
def test_it_is_the_formula_of_the_paper(share, queries, keys):
    attend = made(share=share)
    q, k, v = tensors(queries, keys)
    lengths = [keys, 2]
    found = attend(q, k, v, padding(torch.tensor(lengths))).values
    for b in range(2):
        for h in range(H):
            of_keys = attend.key_projection[h if share == "none" else 0]
            of_values = attend.value_projection[h if share == "none" else 0]
            seen = range(lengths[b])
            slots_k = torch.stack([sum(of_keys[s, j] * k[b, h, j] for j in seen) for s in range(K)])
            slots_v = torch.stack([sum(of_values[s, j] * v[b, h, j] for j in seen) for s in range(K)])
            for i in range(queries):
                weights = torch.stack([q[b, h, i] @ slot / D**0.5 for slot in slots_k]).softmax(0)
                torch.testing.assert_close(found[b, h, i], weights @ slots_v)


def test_projections_that_mix_nothing_give_softmax_attention():
    attend = made(projected_length=6, max_length=6, share="kv")
    attend.key_projection.data = torch.eye(6, dtype=torch.double)[None]
    attend.value_projection = attend.key_projection
    inputs = tensors()
    torch.testing.assert_close(attend(*inputs).values, ScaledDotProduct(heads=H, dim=D)(*inputs).values)


@pytest.mark.parametrize("share", SHARES)
def test_sharing_counts_parameters(share):
    attend = made(share=share)
    each = K * LONGEST
    assert sum(p.numel() for p in attend.parameters()) == {"none": 2 * H * each, "heads": 2 * each, "kv": each}[share]
    assert (attend.key_projection is attend.value_projection) == (share == "kv")
    wide = Linformer(heads=1, dim=D, max_length=500, projected_length=100)
    assert wide.key_projection.std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("share", SHARES)
def test_gradcheck(share):
    attend = made(share=share)
    inputs = tensors(3, 4, width=2)
    pattern = padding(torch.tensor([4, 2]))
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(
            lambda q, k, v, *_: attend(q, k, v, pattern).values, (*inputs, *attend.parameters()), fast_mode=True
        )


def test_padded_content_and_its_amount_do_not_show():
    attend = made()
    q, k, v = tensors(grad=False)
    before = attend(q, k, v, PATTERN).values
    for fill in (1e9, float("nan"), float("inf")):
        k[1, :, 2:], v[1, :, 2:] = fill, fill
        for each in (q, k, v):
            each.requires_grad_()
        values = attend(q, k, v, PATTERN).values
        torch.testing.assert_close(values, before, rtol=0, atol=0)
        grads = torch.autograd.grad(values.sum(), [q, k, v, *attend.parameters()])
        assert all(torch.isfinite(grad).all() for grad in grads)
        q, k, v = (each.detach() for each in (q, k, v))
    torch.testing.assert_close(attend(q[1:], k[1:, :, :2], v[1:, :, :2]).values, before[1:])
    holes = torch.tensor([[[[True, False, True, True, False, True]]]] * 2)
    hidden = k.clone()
    hidden[0, :, [1, 4]] = 1e9
    pattern = full() & dense(holes)
    torch.testing.assert_close(attend(q, hidden, v, pattern).values[0], attend(q, k, v, pattern).values[0])


def test_poison_stays_in_its_sample():
    attend = made()
    q, k, v = tensors(grad=False)
    before = attend(q, k, v, PATTERN).values
    k[0, 1, 3] = float("nan")
    q.requires_grad_()
    values = attend(q, k, v, PATTERN).values
    assert values[0, 1].isnan().all()
    torch.testing.assert_close(values[1], before[1])
    grads = torch.autograd.grad(values[1].sum(), [q, *attend.parameters()])
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_a_sample_without_keys_gives_zero_and_no_gradient():
    attend = made()
    inputs = tensors()
    values = attend(*inputs, padding(torch.tensor([6, 0]))).values
    assert not values[1].any()
    assert values[0].any()
    grads = torch.autograd.grad(values[1].exp().sum(), [*inputs, *attend.parameters()])
    assert not any(grad.any() for grad in grads)


def test_weights_give_the_output_and_need_chooses():
    attend = made()
    q, k, v = tensors()
    output = attend(q, k, v, PATTERN, need=Need(received=True))
    weights = output.weights.values
    torch.testing.assert_close(weights @ v, output.values)
    torch.testing.assert_close(output.weights.received, weights.sum(2))
    assert not weights[1, :, :, 2:].any()
    assert not weights.requires_grad
    some = attend(q, k, v, PATTERN, need=Need(rows=[3], heads=[1], gradient=True)).weights.values
    torch.testing.assert_close(some, weights[:, [1]][:, :, [3]])
    assert torch.autograd.grad(some.sum(), q)[0].any()


def test_dropout_drops_slots_in_training_only():
    attend = made(dropout=0.5, projected_length=8)
    inputs = tensors(grad=False)
    torch.testing.assert_close(attend.eval()(*inputs).values, made(projected_length=8).eval()(*inputs).values)
    torch.manual_seed(0)
    drawn = torch.stack([attend.train()(*inputs).values for _ in range(4000)])
    assert drawn.std(0).min() > 0
    torch.testing.assert_close(drawn.mean(0), attend.eval()(*inputs).values, atol=0.15, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    attend = made().to(dtype)
    inputs = [each.detach().to(dtype) for each in tensors()]
    exact = made().to(dtype).double()(*(each.double() for each in inputs), PATTERN).values
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(attend(*inputs, PATTERN).values.double(), exact, atol=tolerance, rtol=tolerance)


def test_what_cannot_be_answered_is_refused():
    attend = build("linformer", heads=H, dim=D, max_length=LONGEST, projected_length=K).double()
    q, k, v = tensors()
    for pattern in (causal(), causal() & PATTERN, window(1, 1), dense(torch.ones(6, 6).bool())):
        with pytest.raises(CapabilityError, match=r"linformer .*padding.*scaled_dot_product"):
            attend(q, k, v, pattern)
    with pytest.raises(CapabilityError, match="bias"):
        attend(q, k, v, bias=torch.zeros(6, 6))
    with pytest.raises(CapabilityError, match="state"):
        attend(q, k, v, state=1)
    with pytest.raises(CapabilityError, match="lse"):
        attend(q, k, v, need=Need(lse=True))
    with pytest.raises(ShapeError, match=r"max_length=8.*\(2, 3, 9, 4\)"):
        attend(*tensors(9, 9))
    for options, message in (
        ({"projected_length": 9}, "from 1 to max_length=8"),
        ({"dropout": 1.0}, "dropout"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**options)
    with pytest.raises(UnknownNameError, match="Did you mean 'heads'"):
        made(share="head")
    with pytest.raises(TypeError):
        build("linformer", heads=H, dim=D)
