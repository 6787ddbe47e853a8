"""Linear attention, and what every kernel attention does: chunks, states, segments, weights."""

import pytest
import torch

from toolkit.attention import Need, blocks, build, causal, dense, from_hugging_face, full, padding, segments, window
from toolkit.attention.kernel import KernelState
from toolkit.attention.linear import Linear
from toolkit.attention.performer import Performer
from toolkit.errors import CapabilityError, ShapeError

H, D = 3, 4
KERNELS = [Linear, Performer]
IDS = torch.tensor([[2, 0, 0, 2, 1, 0, 1], [5, 5, 5, 6, 6, 7, 7]])
PATTERNS = [
    None,
    full() & padding(torch.tensor([7, 3])),
    causal(),
    causal() & padding(torch.tensor([5, 0])),
    causal() & dense(torch.rand(2, H, 1, 7, generator=torch.Generator().manual_seed(0)) < 0.5),
]
SEGMENTED = [
    segments(IDS),
    segments(IDS) & causal(),
    segments(IDS.sort(1).values) & causal() & padding(torch.tensor([7, 4])),
    segments(IDS) & padding(torch.tensor([4, 6])),
]


@pytest.fixture(params=[2, 3, 128])
def chunk(request, monkeypatch):
    """Chunks that divide the length or not, and one that holds it."""
    monkeypatch.setattr("toolkit.attention.running_sums._CHUNK", request.param)


def made(mechanism, **options):
    torch.manual_seed(7)
    return mechanism(heads=H, dim=D, **options).double()


def tensors(queries, keys, batch=2, width=5, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, H, queries, D), (batch, H, keys, D), (batch, H, keys, width)]
    return [torch.randn(shape, dtype=torch.double, generator=generator).requires_grad_(grad) for shape in shapes]


def kernel(attend, q, k):
    """phi(q) . phi(k) of every pair, as the papers write it. Shapes: (..., Lq, D), (..., Lk, D) -> (..., Lq, Lk)."""
    if isinstance(attend, Linear):
        return (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).mT
    x, y = q / D**0.25, k / D**0.25
    w = attend.projection
    squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    raised = (x @ w.mT)[..., :, None, :] + (y @ w.mT)[..., None, :, :] - squares[..., None] / 2
    return raised.exp().mean(-1)


def quadratic(attend, q, k, v, pattern):
    """The same attention by its definition, all pairs at once -> values, weights, what normalises them."""
    mask = (pattern or full()).mask(q.shape[2], k.shape[2], batch=q.shape[0], heads=H)
    pairs = kernel(attend, q, k) * mask
    total = pairs.sum(-1, keepdim=True)
    weights = pairs / total.masked_fill(total == 0, 1)
    return weights @ v, weights, total[..., 0]


def test_linear_is_the_formula_of_the_paper_token_by_token():
    attend = made(Linear)
    q, k, v = tensors(4, 6, batch=1)
    found = attend(q, k, v, causal()).values
    phi = lambda x: torch.where(x > 0, x + 1, x.exp())  # noqa: E731
    for h in range(H):
        for i in range(4):
            sums, total = torch.zeros(D, 5, dtype=torch.double), torch.zeros(D, dtype=torch.double)
            for j in range(i + 3):  # the last query stands at the last key
                sums, total = sums + torch.outer(phi(k[0, h, j]), v[0, h, j]), total + phi(k[0, h, j])
            torch.testing.assert_close(found[0, h, i], phi(q[0, h, i]) @ sums / (phi(q[0, h, i]) @ total))


@pytest.mark.parametrize("mechanism", KERNELS)
@pytest.mark.parametrize("pattern", [*PATTERNS, *SEGMENTED])
@pytest.mark.usefixtures("chunk")
def test_chunks_equal_the_quadratic_form(mechanism, pattern):
    attend = made(mechanism)
    inputs = tensors(7, 7)
    output = attend(*inputs, pattern, need=Need(lse=True, received=True))
    values, weights, total = quadratic(attend, *inputs, pattern)
    torch.testing.assert_close(output.values, values)
    torch.testing.assert_close(output.weights.values, weights)
    torch.testing.assert_close(output.weights.received, weights.sum(2))
    torch.testing.assert_close(output.lse, total.log())
    torch.testing.assert_close(output.weights.values @ inputs[2], output.values)
    for one, other in zip(
        torch.autograd.grad(output.values.square().sum(), inputs),
        torch.autograd.grad(values.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mechanism", KERNELS)
@pytest.mark.parametrize("pattern", [None, causal(), causal() & padding(torch.tensor([2, 1]))])
@pytest.mark.parametrize(("queries", "keys"), [(3, 7), (7, 3), (1, 5), (2, 2), (0, 3)])
@pytest.mark.usefixtures("chunk")
def test_lengths_that_differ(mechanism, pattern, queries, keys):
    attend = made(mechanism)
    inputs = tensors(queries, keys)
    torch.testing.assert_close(attend(*inputs, pattern).values, quadratic(attend, *inputs, pattern)[0])
    nothing = attend(inputs[0], inputs[1][:, :, :0], inputs[2][:, :, :0], causal()).values
    assert nothing.shape == (2, H, queries, 5)
    assert not nothing.any()


@pytest.mark.parametrize("mechanism", KERNELS)
@pytest.mark.parametrize("pattern", [None, causal() & padding(torch.tensor([3, 0])), SEGMENTED[1], SEGMENTED[3]])
def test_gradcheck(mechanism, pattern, monkeypatch):
    monkeypatch.setattr("toolkit.attention.running_sums._CHUNK", 2)
    attend = made(mechanism)
    inputs = tensors(7, 7, width=2)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda q, k, v: attend(q, k, v, pattern).values, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda q, k: attend(q, k, inputs[2], pattern, need=Need(rows=[5], gradient=True)).weights.values,
        inputs[:2],
        fast_mode=True,
    )
    assert not attend(*inputs, pattern, need=Need()).weights.values.requires_grad


@pytest.mark.parametrize("mechanism", KERNELS)
def test_token_by_token_equals_the_whole(mechanism):
    attend = made(mechanism)
    q, k, v = tensors(9, 9)
    q, k = 3 * q, 3 * k  # with peaks that rise and stay
    whole = attend(q, k, v, causal())
    for sizes in ([1] * 9, [4, 1, 3, 1], [8, 1]):
        state, parts = None, []
        for some in torch.arange(9).split(sizes):
            output = attend(q[:, :, some], k[:, :, some], v[:, :, some], causal(), state=state)
            state = output.state
            parts.append(output.values)
        torch.testing.assert_close(torch.cat(parts, 2), whole.values)
        for one, other in zip(state, whole.state, strict=True):
            torch.testing.assert_close(one, other)
    first, last = torch.autograd.grad(parts[-1].sum(), [k, v])  # gradients flow through the state
    assert first[:, :, :8].any()
    assert last[:, :, :8].any()


@pytest.mark.parametrize("mechanism", KERNELS)
def test_a_padded_prompt_leaves_no_trace_in_the_state(mechanism):
    attend = made(mechanism)
    q, k, v = tensors(6, 6)
    prompt = attend(q[:, :, :5], k[:, :, :5], v[:, :, :5], causal() & padding(torch.tensor([5, 2])))
    output = attend(
        q[:, :, 5:], k[:, :, 5:], v[:, :, 5:], causal(), state=prompt.state, need=Need(weights=False, lse=True)
    )
    kept = torch.tensor([0, 1, 5])
    alone = attend(q[1:, :, 5:], k[1:, :, kept], v[1:, :, kept], causal(), need=Need(lse=True))
    torch.testing.assert_close(output.values[1:], alone.values)
    torch.testing.assert_close(output.lse[1:], alone.lse)
    everything = attend(q, k, v, state=prompt.state).state  # without a pattern, a state goes on as well
    assert isinstance(everything, KernelState)
    assert attend(q, k, v).state is None
    assert attend(q[:, :, :3], k[:, :, :3], v[:, :, :3], segments(IDS[:, :3]) & causal()).state is None


def test_single_precision_is_near_double_at_full_length():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 65536, 16).unbind()
    attend = Linear(heads=1, dim=16)
    inputs = [each.clone().requires_grad_() for each in (q, k, v)]
    doubled = [each.double().requires_grad_() for each in (q, k, v)]
    found, exact = attend(*inputs, causal()).values, attend(*doubled, causal()).values
    assert (found - exact).norm() < 1e-5 * exact.norm()
    mixture = torch.randn(found.shape)
    slopes = torch.autograd.grad((found * mixture).sum(), inputs)
    for one, other in zip(slopes, torch.autograd.grad((exact * mixture).sum(), doubled), strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()
    for row in (100, 65535):  # and that is the quadratic form
        pairs = kernel(attend, doubled[0][:, :, row : row + 1], doubled[1][:, :, : row + 1])
        wanted = (pairs / pairs.sum(-1, keepdim=True)) @ doubled[2][:, :, : row + 1]
        torch.testing.assert_close(exact[:, :, row : row + 1], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mechanism", KERNELS)
@pytest.mark.parametrize("segmented", [False, True])
def test_what_is_kept_for_the_backward_pass_is_linear_in_the_length(mechanism, segmented):
    attend = mechanism(heads=2, dim=8)

    def kept(length):
        held = {}

        def keep(x):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        q, k, v = (torch.randn(1, 2, length, 8, requires_grad=True) for _ in range(3))
        pattern = causal() & segments(torch.arange(length)[None] // 50) if segmented else causal()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            values = attend(q, k, v, pattern).values
        del values
        return sum(held.values())

    assert kept(4096) < 2.2 * kept(2048)
    assert kept(4096) < 4096 * 2 * 4096 * 4 / 4  # bytes: a quarter of one table of all pairs


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
