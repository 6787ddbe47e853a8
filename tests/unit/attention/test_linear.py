"""Linear attention, and what every kernel attention computes: chunks, lengths, states, segments."""

import pytest
import torch
from kernel_samples import IDS, KERNELS, PATTERNS, SEGMENTED, D, H, kernel, made, quadratic, tensors

from toolkit.attention import Need, causal, padding, segments
from toolkit.attention.kernel import KernelState
from toolkit.attention.linear import Linear


def test_linear_is_the_formula_of_the_paper_token_by_token():
    attend = made(Linear)
    q, k, v = tensors(4, 6, batch=1)
    found = attend(q, k, v, causal()).values

    def phi(x):
        return torch.where(x > 0, x + 1, x.exp())

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
