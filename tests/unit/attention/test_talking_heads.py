"""Talking heads: mixtures of scores and weights, against loops over heads, that let no masked pair in."""

import pytest
import torch
from contract_checks import (
    D,
    H,
    check_dense,
    check_edges_equal_dense,
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

from toolkit.attention import Need, Request, causal, dense, full, padding, window
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.attention.talking_heads import TalkingHeads
from toolkit.errors import CapabilityError

OPTIONS = [{}, {"weights": False}, {"scores": False}, {"normalize": "sparsemax"}]


def made(**options):
    return filled(TalkingHeads(heads=H, dim=D, **options))


def wanted(attend, q, k, v, mask, bias):
    """One head at a time: mixed scores, bias, mask, softmax, mixed weights."""
    eye = torch.eye(H).tolist()
    p, w = (eye if x is None else x.tolist() for x in (attend.score_mixture, attend.weight_mixture))
    raw = [q[:, h] @ k[:, h].transpose(1, 2) / D**0.5 for h in range(H)]
    mixed = [sum(p[h][f] * raw[f] for f in range(H)) + bias[:, h] for h in range(H)]
    soft = [x.masked_fill(~mask, -torch.inf).softmax(-1) for x in mixed]
    weights = [sum(w[g][h] * soft[h] for h in range(H)) for g in range(H)]
    return torch.stack([weights[g] @ v[:, g] for g in range(H)], 1), torch.stack(weights, 1)


@pytest.mark.parametrize("options", OPTIONS[:3])
@pytest.mark.parametrize("backend", ["reference", "rows", "auto"])
def test_it_is_the_papers_formula(options, backend):
    attend, (q, k, v) = made(backend=backend, **options), qkv(width=3)
    mask, bias = torch.ones(4, 6, dtype=torch.bool).tril(2), drawn(1, H, 4, 6, seed=4)
    values, weights = wanted(attend, q, k, v, mask, bias)
    found = attend(q, k, v, causal(), bias=bias, need=Need())
    torch.testing.assert_close(found.values, values)
    torch.testing.assert_close(found.weights.values, weights)
    assert not found.weights.values.masked_fill(mask, 0).any()


def test_edges_equal_the_formula():
    attend, pattern = made(), graph()
    q, k, v = nodes(pattern, grad=True)
    bias = drawn(pattern.num_edges, H, seed=4)
    raw = torch.stack([(q[j] * k[i]).sum(-1) / D**0.5 for i, j in pattern.index.T.tolist()])
    mixed = raw @ attend.score_mixture.T + bias
    soft = torch.zeros_like(mixed)
    for target in pattern.index[1].unique():
        here = pattern.index[1] == target
        soft[here] = mixed[here].softmax(0)
    weights = soft @ attend.weight_mixture.T
    values = torch.zeros_like(q).index_add(0, pattern.index[1], weights[..., None] * v[pattern.index[0]])
    found = attend(q, k, v, pattern, bias=bias, need=Need())
    torch.testing.assert_close(found.values, values)
    torch.testing.assert_close(found.weights.values, weights)
    check_gradients(attend, pattern, [q, k, v], bias=bias)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_contract(options):
    attend = made(**options)
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_half(attend)
    check_weights(attend)
    pattern = causal() & padding(torch.tensor([4, 6]))
    check_gradients(attend, pattern, qkv(grad=True), bias=drawn(1, H, 4, 6, seed=5))


def test_edges_equal_dense():
    attend = made()
    attend.normalize = "mixed"  # no softmax of edges alone: the check leaves that backend out
    check_edges_equal_dense(attend)


def test_minus_infinity_in_a_bias_hides_a_pair_and_makes_no_nan():
    attend, (q, k, v) = made(), qkv()
    bias = torch.zeros(4, 6, dtype=torch.double).masked_fill(torch.ones(4, 6).triu(3).bool(), -torch.inf)
    torch.testing.assert_close(attend(q, k, v, bias=bias).values, attend(q, k, v, causal()).values)


def test_nan_in_one_head_of_a_key_is_nan_in_all_heads_that_look_there():
    attend, (q, k, v) = made(), qkv(4, 4)
    clean = attend(q, k, v, causal()).values
    k[0, 1, 3] = float("nan")
    found = attend(q, k, v, causal()).values
    assert found[0, :, 3].isnan().all()
    torch.testing.assert_close(found[0, :, :3], clean[0, :, :3])
    torch.testing.assert_close(found[1], clean[1])


def test_at_first_it_is_scaled_dot_product_unless_there_is_noise():
    q, k, v = qkv()
    plain = ScaledDotProduct(heads=H, dim=D)(q, k, v, causal()).values
    torch.testing.assert_close(TalkingHeads(heads=H, dim=D).double()(q, k, v, causal()).values, plain)
    torch.manual_seed(0)
    noisy = TalkingHeads(heads=64, dim=D, noise=0.1)
    assert 0.08 < (noisy.score_mixture - torch.eye(64)).std().item() < 0.12
    off = TalkingHeads(heads=H, dim=D, scores=False, weights=False)
    assert not list(off.parameters())
    assert off.explain(Request(q=q, k=k, v=v)).name == "sdpa"
    torch.testing.assert_close(off(q, k, v, causal()).values, plain)


def test_each_matrix_learns_and_matters():
    attend, (q, k, v) = made(), qkv()
    before = attend(q, k, v).values
    grads = torch.autograd.grad(before.square().sum(), [attend.score_mixture, attend.weight_mixture])
    assert all(grad.abs().min() > 0 for grad in grads)
    for mixture in (attend.score_mixture, attend.weight_mixture):
        with torch.no_grad():
            mixture[0, 1] += 0.5
        after = attend(q, k, v).values
        assert not torch.allclose(after, before)
        before = after


def test_what_it_cannot_do_is_told():
    q, k, v = qkv()
    attend = made()
    per_head = dense(torch.ones(1, H, 4, 6, dtype=torch.bool))
    for pattern in (per_head, causal() & per_head):
        with pytest.raises(CapabilityError, match=r"mixes its heads.*one pattern for all heads"):
            attend(q, k, v, pattern)
    for pattern in (full(), window(1, 1), dense(torch.ones(2, 1, 4, 6, dtype=torch.bool))):
        assert attend(q, k, v, pattern).values.isfinite().all()
    choice = attend.explain(Request(q=q, k=k, v=v))
    assert choice.name == "rows"
    assert "mixed around softmax" in choice.refused["sdpa"]
    with pytest.raises(CapabilityError, match=r"mixed around softmax. What can: rows, reference"):
        made(backend="sdpa")(q, k, v)
    with pytest.raises(ValueError, match="noise of 0 or more"):
        TalkingHeads(heads=H, dim=D, noise=-1)
    assert "mixes=['score_mixture', 'weight_mixture'], noise=0.0" in repr(attend)


def test_weights_of_rows_that_look_at_nan_are_nan_in_all_heads():
    attend, (q, k, v) = made(), qkv(4, 4)
    k[0, 1, 3] = float("nan")
    shown = attend(q, k, v, causal(), need=Need()).weights.values
    assert shown[0, :, 3].isnan().all()
    assert shown[0, :, :3].isfinite().all()
