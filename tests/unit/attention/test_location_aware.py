"""Location-aware attention against eq. 8 and 9 of arXiv:1506.07503, one step, key and head at a time."""

import pytest
import torch
from contract_checks import (
    D,
    H,
    check_dense,
    check_empty_rows,
    check_gradients,
    check_half,
    check_poison,
    check_weights,
    drawn,
    filled,
    graph,
    nodes,
    qkv,
)

from toolkit.attention import Need, build, causal, dense, padding, window
from toolkit.attention.additive import Additive
from toolkit.attention.location_aware import LocationAware
from toolkit.errors import CapabilityError, ShapeError


def made(**options):
    return filled(LocationAware(heads=H, dim=D, **{"channels": 3, "width": 5, **options}))


@pytest.mark.parametrize(
    "options", [{}, {"start": "uniform"}, {"sharpening": 2.0}, {"smoothing": True}, {"channels": 1, "width": 1}]
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_the_formula(options, with_bias):
    attend = made(**options)
    q, k, v = qkv(3, 6, width=5)
    bias = drawn(2, 1, 3, 6, seed=5) if with_bias else None
    lengths = [4, 6]
    output = attend(q, k, v, padding(torch.tensor(lengths)), bias=bias, need=Need(lse=True))
    reach = attend.filters.shape[2] // 2
    for b, length in enumerate(lengths):
        for h in range(H):
            before = torch.zeros(length).double()
            if attend.start == "uniform":
                before += 1 / length
            for i in range(3):
                scores = torch.zeros(length).double()
                for j in range(length):
                    f = torch.zeros(attend.filters.shape[1]).double()
                    for step in range(-reach, reach + 1):
                        if 0 <= j + step < length:
                            f = f + attend.filters[h, :, step + reach] * before[j + step]
                    inner = torch.tanh(q[b, h, i] + k[b, h, j] + attend.location[h] @ f + attend.offset[h])
                    scores[j] = attend.sharpening * (attend.weight[h] @ inner) + (bias[b, 0, i, j] if with_bias else 0)
                if attend.smoothing:
                    before = scores.sigmoid() / scores.sigmoid().sum()
                else:
                    before = scores.softmax(0)
                    torch.testing.assert_close(output.lse[b, h, i], scores.logsumexp(0))
                torch.testing.assert_close(output.weights.values[b, h, i, :length], before)
                torch.testing.assert_close(output.values[b, h, i], before @ v[b, h, :length])
            torch.testing.assert_close(output.state[b, h, :length], before)


def test_contract():
    attend = made()
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_weights(attend, width=5)
    check_half(attend)
    check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))
    check_dense(made(start="uniform"))
    check_empty_rows(made(start="uniform"))


@pytest.mark.parametrize("start", ["zeros", "uniform"])
@pytest.mark.parametrize("cut", [1, 3])
def test_one_call_equals_several_with_state(start, cut):
    attend = made(start=start)
    q, k, v = qkv(5, 6)
    pattern = padding(torch.tensor([4, 6]))
    whole, state, parts = attend(q, k, v, pattern), None, []
    for some in q.split(cut, 2):
        output = attend(some, k, v, pattern, state=state)
        state = output.state
        parts.append(output.values)
    torch.testing.assert_close(torch.cat(parts, 2), whole.values)
    torch.testing.assert_close(state, whole.state)


def test_keys_that_are_appended_have_had_no_weight():
    attend = made()
    q, k, v = qkv(6, 6)
    whole, state, rows = attend(q, k, v, causal()), None, []
    for i in range(6):
        output = attend(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1], causal(), state=state)
        state = output.state
        rows.append(output.values)
    torch.testing.assert_close(torch.cat(rows, 2), whole.values)


def test_the_first_step_from_zeros_is_additive_attention():
    attend, other = made(), filled(Additive(heads=H, dim=D))
    other.load_state_dict({"weight": attend.weight, "offset": attend.offset})
    q, k, v = qkv(1)
    torch.testing.assert_close(attend(q, k, v).values, other(q, k, v).values)
    assert not torch.allclose(made(start="uniform")(q, k, v).values, other(q, k, v).values)


def test_a_query_without_keys_hands_on_nothing():
    attend = made()
    q, k, v = qkv(3, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1] = False
    output = attend(q, k, v, dense(mask))
    assert not output.values[:, :, 1].any()
    torch.testing.assert_close(output.values[:, :, 2:], attend(q[:, :, 2:], k, v).values)


def test_nan_goes_on_with_the_weights_until_a_query_without_keys():
    attend = made()
    q, k, v = qkv(4, 6, batch=1)
    k[0, :, 0] = float("nan")
    mask = window(0, 0).mask(4, 6)[0, 0]
    mask = torch.stack(
        [torch.arange(6) == 0, torch.arange(6) > 2, torch.zeros(6, dtype=torch.bool), torch.arange(6) > 2]
    )
    output = attend(q, k, v, dense(mask))
    assert output.values[0, 0].isnan().all(-1).tolist() == [True, True, False, False]
    assert not output.state.isnan().any()
    state = attend(q[:, :, :2], k, v, dense(mask[:2])).state
    assert state.isnan().all()
    assert attend(q[:, :, 3:], k, v, dense(mask[3:]), state=state).values.isnan().all()


def test_unfit_requests_raise():
    attend, (q, k, v) = made(), qkv()
    with pytest.raises(CapabilityError, match="runs on dense"):
        attend(*nodes(graph()), graph())
    with pytest.raises(CapabilityError, match="the tensor that it gave, not int"):
        attend(q, k, v, state=3)
    with pytest.raises(ShapeError, match=r"\(2, 2, 6\), or of fewer keys"):
        attend(q, k, v, state=torch.zeros(2, H, 7))
    assert attend(q[:, :, :0], k, v, need=Need(lse=True)).values.shape == (2, H, 0, D)
    for options in ({"width": 4}, {"channels": 0}, {"start": "ones"}, {"sharpening": 0.0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match="location_aware"):
            LocationAware(heads=1, dim=2, **options)
    assert build("location_aware", heads=1, dim=2).filters.shape == (1, 10, 201)


def test_dropout_spares_the_weights_that_are_handed_on():
    attend, (q, k, v) = made(dropout=0.5), qkv()
    noisy, whole = attend(q, k, v), attend.eval()(q, k, v)
    assert not torch.allclose(noisy.values, whole.values)
    torch.testing.assert_close(noisy.state, whole.state)
