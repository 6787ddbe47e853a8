"""Luong's attention against eq. 7 to 10 of arXiv:1508.04025, one query, key and head at a time."""

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
    filled,
    graph,
    nodes,
    qkv,
)

from toolkit.attention import Need, Request, build, causal, dense, padding, window
from toolkit.attention.dot import General
from toolkit.attention.luong import Luong
from toolkit.errors import CapabilityError

FORMS = ["dot", "general", "concat"]
LOCAL = ["none", "monotonic", "predictive"]


def made(score="general", local="none", window=2, **options):
    options |= {} if local == "none" else {"window": window}
    return filled(Luong(heads=H, dim=D, score=score, local=local, **options))


def formula(attend, q, k, h):
    if attend.form == "dot":
        return q @ k
    if attend.form == "general":
        return q @ attend.weight[h] @ k
    return attend.vector[h] @ torch.tanh(torch.cat([q, k]) @ attend.weight[h])


@pytest.mark.parametrize("score", FORMS)
@pytest.mark.parametrize("local", LOCAL)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_equals_the_formula(score, local, size):
    attend = made(score, local, size)
    lengths, (q, k, v) = [4, 6], qkv(width=3)
    output = attend(q, k, v, padding(torch.tensor(lengths)), need=Need())
    for b, length in enumerate(lengths):
        for h in range(H):
            for t in range(4):
                center = t
                if local == "predictive":
                    inner = torch.tanh(q[b, h, t] @ attend.position_weight[h])
                    center = length * torch.sigmoid(attend.position_vector[h] @ inner)
                near = [j for j in range(length) if local == "none" or abs(j - center) <= size]
                wanted = torch.zeros(6).double()
                if near:
                    wanted[near] = torch.stack([formula(attend, q[b, h, t], k[b, h, j], h) for j in near]).softmax(0)
                if local == "predictive":
                    for j in near:
                        wanted[j] *= torch.exp(-((j - center) ** 2) / (2 * (size / 2) ** 2))
                torch.testing.assert_close(output.weights.values[b, h, t], wanted)
                torch.testing.assert_close(output.values[b, h, t], wanted @ v[b, h])


@pytest.mark.parametrize("score", FORMS)
@pytest.mark.parametrize("local", LOCAL)
def test_contract(score, local):
    attend = made(score, local, 6)
    check_empty_rows(attend)
    check_poison(attend)
    weights = check_weights(attend, width=5)
    total = weights.sum(-1)
    if local == "predictive":
        assert total.amax() <= 1 + 1e-9
        assert total[1].amin() < 0.99
    if local != "none":
        assert attend.capabilities.sums == "below_one"
    if local == "none":
        torch.testing.assert_close(total, torch.ones_like(total))
        check_half(attend)
    check_dense(attend)
    attend.backend = "reference"
    check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))


@pytest.mark.parametrize("score", FORMS)
def test_global_attention_on_edges(score):
    check_edges_equal_dense(made(score))
    attend, pattern = made(score), graph()
    q, k, v = nodes(pattern)
    output = attend(q, k, v, pattern, need=Need())
    source, target = pattern.index
    for i in range(1, 5):
        entering = (target == i).nonzero()[:, 0]
        scores = torch.stack([formula(attend, q[i, 1], k[j, 1], 1) for j in source[entering].tolist()])
        torch.testing.assert_close(output.weights.values[entering, 1], scores.softmax(0))


@pytest.mark.parametrize("local", ["monotonic", "predictive"])
def test_local_attention_refuses_edges_and_backends_that_cannot(local):
    attend, pattern = made(local=local), graph()
    with pytest.raises(CapabilityError, match=r"local='none' works"):
        attend(*nodes(pattern), pattern)
    attend.backend = "sdpa"
    with pytest.raises(CapabilityError, match=r"What can: .*rows, reference"):
        attend(*qkv())
    assert attend.capabilities.layouts == {"dense"}
    assert made().capabilities.layouts == {"dense", "edges"}


def test_monotonic_goes_on_from_the_queries_before():
    attend = made(local="monotonic")
    q, k, v = qkv()
    whole = attend(q, k, v)
    assert whole.state == 4
    first = attend(q[:, :, :3], k, v)
    second = attend(q[:, :, 3:], k, v, state=first.state)
    torch.testing.assert_close(torch.cat([first.values, second.values], 2), whole.values)
    torch.testing.assert_close(attend(q[:, :, 2:3], k, v, state=2).values, whole.values[:, :, 2:3])
    with pytest.raises(CapabilityError, match="an int, not str"):
        attend(q, k, v, state="3")
    with pytest.raises(CapabilityError, match="none, not int"):
        made(local="predictive")(q, k, v, state=1)


@pytest.mark.parametrize("local", LOCAL)
def test_rows_in_chunks_equal_one_and_gradients_reach_the_center(local, monkeypatch):
    attend = made(local=local)
    inputs = qkv(9, 9, grad=True)
    pattern = window(6, 3) & padding(torch.tensor([9, 5]))

    def run(backend):
        attend.backend = backend
        values = attend(*inputs, pattern).values
        return [values, *torch.autograd.grad(values.square().sum(), [*inputs, *attend.parameters()])]

    wanted = run("reference")
    monkeypatch.setattr("toolkit.attention.backends.rows._BYTES", 800)
    for one, other in zip(run("rows"), wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert all(grad.any() for grad in wanted)


def test_the_length_of_a_sample_is_that_of_its_keys_on_either_side():
    attend = made(local="predictive", window=3)
    q, k, v = qkv(batch=1, keys=5)
    blank = torch.zeros(1, H, 3, D).double()
    alone = attend(q, k, v).values
    right = attend(q, torch.cat([k, blank], 2), torch.cat([v, blank], 2), padding(torch.tensor([5])))
    torch.testing.assert_close(right.values, alone)
    left = torch.arange(8)[None, None, None] >= 3
    shifted = attend(q, torch.cat([blank, k], 2), torch.cat([blank, v], 2), dense(left))
    torch.testing.assert_close(shifted.values, alone)


def test_general_is_the_registered_general():
    attend, other = made(), filled(General(heads=H, dim=D))
    torch.testing.assert_close(attend(*qkv()).values, other(*qkv()).values)
    q, k, v = qkv()
    assert attend.explain(Request(q=q, k=k, v=v)).name == "rows"


def test_options_are_checked():
    assert build("luong", heads=1, dim=2, score="concat", local="predictive", window=3).window == 3
    assert Luong(heads=1, dim=2, local="monotonic").window == 10
    with pytest.raises(ValueError, match=r"local='monotonic' or 'predictive' only, but window=5"):
        Luong(heads=1, dim=2, window=5)
    for options in ({"score": "dott"}, {"local": "predicted"}, {"window": 0, "local": "monotonic"}):
        with pytest.raises(ValueError, match=r"luong (knows|wants)"):
            Luong(heads=1, dim=2, **options)
    with pytest.raises(TypeError):
        Luong(heads=1, dim=2, windw=3)
