"""What every kernel attention owes: no leaks, no poison, half precision, weights on demand, clear refusals."""

import pytest
import torch
from kernel_samples import KERNELS, SEGMENTED, D, H, made, tensors

from toolkit.attention import Need, blocks, build, causal, dense, from_hugging_face, padding, segments, window
from toolkit.attention.linear import Linear
from toolkit.errors import CapabilityError, ShapeError


@pytest.mark.parametrize("mechanism", KERNELS)
@pytest.mark.usefixtures("chunk")
def test_the_future_other_documents_and_other_samples_do_not_show(mechanism):
    attend = made(mechanism).float()
    q, k, v = (each.detach().float() for each in tensors(7, 7))
    for pattern in (causal(), *SEGMENTED):
        mask = pattern.mask(7, 7, batch=2)
        before = attend(q, k, v, pattern).values
        for j in range(7):
            loud_k, loud_v = k.clone(), v.clone()
            loud_k[0, :, j], loud_v[0, :, j] = 25.0 * k[0, :, j].sign(), 1e6  # far above every other peak
            after = attend(q, loud_k, loud_v, pattern).values
            for i in range(7):
                if not mask[0, 0, i, j]:
                    assert torch.equal(after[0, :, i], before[0, :, i])
            assert torch.equal(after[1], before[1])


@pytest.mark.parametrize("mechanism", KERNELS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poison_reaches_only_who_looks_at_it(mechanism, poison):
    attend = made(mechanism)
    q, k, v = tensors(5, 5, grad=False)
    pattern = causal() & padding(torch.tensor([5, 3]))
    clean = attend(q, k, v, pattern)
    k[:, :, 3], v[:, :, 4] = poison, poison
    for each in (q, k, v):
        each.requires_grad_()
    output = attend(q, k, v, pattern)
    assert output.values[0, :, 3:].isnan().all()
    torch.testing.assert_close(output.values[0, :, :3], clean.values[0, :, :3])
    torch.testing.assert_close(output.values[1], clean.values[1])
    assert output.state.sums[0].isnan().all()  # later queries would look at it
    torch.testing.assert_close(output.state.sums[1], clean.state.sums[1])
    grads = torch.autograd.grad(output.values[1].sum() + output.values[0, :, :3].sum(), [q, k, v])
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("mechanism", KERNELS)
def test_rows_that_look_at_nothing_give_zero_and_no_gradient(mechanism):
    attend = made(mechanism)
    for inputs, pattern in ((tensors(4, 2), causal()), (tensors(3, 3), padding(torch.tensor([3, 0])))):
        mask = pattern.mask(inputs[0].shape[2], inputs[1].shape[2], batch=2).expand(2, -1, -1, -1)
        nothing = ~mask.any(-1)[..., None]
        output = attend(*inputs, pattern, need=Need(lse=True))
        assert not output.values[nothing.expand_as(output.values)].any()
        assert (output.lse[nothing[..., 0].expand_as(output.lse)] == -torch.inf).all()
        grads = torch.autograd.grad(output.values.exp().sum(), inputs, retain_graph=True)
        assert all(torch.isfinite(grad).all() for grad in grads)
        grads = torch.autograd.grad((output.values * nothing).exp().sum(), inputs)
        assert not any(grad.any() for grad in grads)


def test_far_negative_features_still_count():
    attend = Linear(heads=1, dim=1)
    q, v = torch.zeros(1, 1, 1, 1), torch.tensor([1.0, 2.0])[None, None, :, None]
    k = torch.tensor([-40.0, -40.0])[None, None, :, None]  # elu(-40) + 1 is 0 in single precision
    assert attend(q, k, v).values.item() == pytest.approx(1.5)


@pytest.mark.parametrize("mechanism", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_single(mechanism, dtype):
    attend = made(mechanism).float()
    q, k, v = (each.detach().to(dtype) for each in tensors(300, 300))
    output = attend(q, k, v, causal())
    assert output.values.dtype == dtype
    assert output.state.sums.dtype == torch.float32
    exact = made(mechanism)(q.double(), k.double(), v.double(), causal()).values
    torch.testing.assert_close(output.values.double(), exact, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)
    with torch.autocast("cpu", torch.bfloat16):
        under = attend(q.float(), k.float(), v.float(), causal()).values
    assert under.dtype == torch.float32
    torch.testing.assert_close(under.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mechanism", KERNELS)
def test_need_chooses_rows_and_heads_and_groups_share_keys(mechanism):
    attend = made(mechanism)
    q, k, v = tensors(6, 6)
    every = attend(q, k, v, causal(), need=Need()).weights.values
    some = attend(q, k, v, causal(), need=Need(rows=[4, 1], heads=[2], received=True)).weights
    torch.testing.assert_close(some.values, every[:, [2]][:, :, [4, 1]])
    torch.testing.assert_close(some.received, some.values.sum(2))
    assert attend(q, k, v, causal()).weights is None
    shared = attend(q, k[:, :1], v[:, :1], causal()).values
    torch.testing.assert_close(shared, attend(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v), causal()).values)


def test_hugging_face_masks_are_read_as_padding():
    attend = made(Linear)
    q, k, v = tensors(4, 4)
    pattern, _ = from_hugging_face(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    wanted = attend(q, k, v, padding(torch.tensor([4, 2])) & causal()).values
    torch.testing.assert_close(attend(q, k, v, pattern & causal()).values, wanted)


def test_what_cannot_be_answered_is_refused():
    attend = build("linear", heads=H, dim=D).double()
    q, k, v = tensors(4, 4)
    other = torch.tensor([[0, 0, 1, 1]] * 2)
    for pattern in (window(2, 0), blocks(2), dense(torch.ones(4, 4).bool()), causal() | padding(torch.tensor([1, 2]))):
        with pytest.raises(CapabilityError, match=r"answers full.*causal.*scaled_dot_product answers any"):
            attend(q, k, v, pattern)
    with pytest.raises(CapabilityError, match="segments"):
        attend(q, k, v, segments(other, other.clone()))
    with pytest.raises(CapabilityError, match=r"bias.*scaled_dot_product"):
        attend(q, k, v, bias=torch.zeros(4, 4))
    state = attend(q, k, v, causal()).state
    with pytest.raises(CapabilityError, match="a state and a need for weights"):
        attend(q, k, v, causal(), state=state, need=Need())
    with pytest.raises(CapabilityError, match="a state and segments"):
        attend(q, k, v, segments(other), state=state)
    with pytest.raises(CapabilityError, match="2 queries more than keys"):
        attend(q, k[:, :, :2], v[:, :, :2], causal(), state=state)
    with pytest.raises(ShapeError, match="state of an earlier call"):
        attend(q, k, v[..., :2], causal(), state=state)
    with pytest.raises(ShapeError, match="tuple"):
        attend(q, k, v, causal(), state=tuple(state))
    with pytest.raises(ShapeError, match="lengths of shape"):
        attend(q, k, v, padding(torch.tensor([1, 2, 3])))
    with pytest.raises(CapabilityError, match="runs on dense"):
        attend(q[0], k[0], v[0])
    with pytest.raises(TypeError):
        build("linear", heads=H, dim=D, dropout=0.1)
