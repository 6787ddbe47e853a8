"""Every mechanism in every layout and backend, against its formula in double precision."""

import pytest
import torch
from mechanism_samples import DENSE, MECHANISMS, D, H, formula, graph, made, tensors
from torch import nn
from torch.nn import functional as F

from toolkit.attention import (
    Need,
    Request,
    blocks,
    causal,
    dense,
    from_multihead,
    global_tokens,
    padding,
    to_edges,
    window,
)
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_edges_equal_the_formula(mechanism, backend):
    attend, pattern = made(mechanism, backend=backend), graph()
    q, k, v = tensors(6, H, D)[0], *tensors(8, H, D, count=2, seed=1)
    bias = tensors(pattern.num_edges, H, count=1, seed=2)[0]
    output = attend(q, k, v, pattern, bias=bias, need=Need(lse=True, received=True))
    score, values, received = formula(attend, q, k), torch.zeros(6, H, D), torch.zeros(8, H)
    for i in range(6):
        entering = (pattern.index[1] == i).nonzero()[:, 0].tolist()
        for h in range(H):
            if not entering:
                assert output.lse[i, h] == -torch.inf
                continue
            scores = torch.stack([score(i, int(pattern.index[0, e]), h) + bias[e, h] for e in entering])
            share = scores.softmax(0)
            torch.testing.assert_close(output.weights.values[entering, h], share)
            torch.testing.assert_close(output.lse[i, h], scores.logsumexp(0))
            for weight, edge in zip(share, entering, strict=True):
                values[i, h] = values[i, h] + weight * v[pattern.index[0, edge], h]
                received[pattern.index[0, edge], h] += weight.item()
    torch.testing.assert_close(output.values, values.double())
    torch.testing.assert_close(output.weights.received, received.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
@pytest.mark.parametrize("width", [3, 5])
def test_dense_equals_edges(mechanism, backend, width):
    attend = made(mechanism)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[2] = False
    q, k, v = (
        tensors(5, H, D, count=1)[0],
        tensors(7, H, D, count=1, seed=1)[0],
        tensors(7, H, width, count=1, seed=2)[0],
    )
    listed = to_edges(dense(mask), 5, 7)
    bias = tensors(5, 7, H, count=1, seed=4)[0]
    sparse = attend(q, k, v, listed, bias=bias[listed.index[1], listed.index[0]]).values
    attend.backend = backend
    turned = [each.transpose(0, 1)[None] for each in (q, k, v)]
    full = attend(*turned, dense(mask), bias=bias.permute(2, 0, 1)[None]).values[0].transpose(0, 1)
    torch.testing.assert_close(full, sparse)
    wanted = [q, k, v, bias, *attend.parameters()]
    for one, other in zip(
        torch.autograd.grad(full.square().sum(), wanted),
        torch.autograd.grad(sparse.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
@pytest.mark.parametrize(
    "pattern", [None, causal(), window(2, 1), blocks(2) | global_tokens([1]), causal() & window(1, 0)]
)
def test_backends_equal_the_reference(mechanism, backend, pattern):
    attend = made(mechanism)
    q, k, v = tensors(2, H, 4, D, count=1)[0], *tensors(2, H, 6, D, count=2, seed=1)
    results = []
    for name in ("reference", backend):
        attend.backend = name
        values = attend(q, k, v, pattern).values
        results.append([values, *torch.autograd.grad(values.square().sum(), [q, k, v, *attend.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_rows_in_many_chunks_equal_one(mechanism, monkeypatch):
    attend = made(mechanism, backend="rows", dropout=0.3)
    q, k, v = tensors(2, H, 9, D)
    pattern = causal() & padding(torch.tensor([9, 4]))
    attend.eval()
    whole = attend(q, k, v, pattern).values
    grads = torch.autograd.grad(whole.square().sum(), [q, k, v])
    monkeypatch.setattr("toolkit.attention.backends.rows._BYTES", 480)
    cut = attend(q, k, v, pattern).values
    torch.testing.assert_close(cut, whole)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, pattern).values, whole)
    for one, other in zip(torch.autograd.grad(cut.square().sum(), [q, k, v]), grads, strict=True):
        torch.testing.assert_close(one, other)
    attend.train()  # the chunks' dropout is drawn again alike in the backward pass
    ones = torch.ones_like(v, requires_grad=True)
    noisy = attend(q, k, ones, pattern).values
    slope = torch.autograd.grad(noisy.sum(), ones)[0].sum()
    torch.testing.assert_close(slope, noisy.sum())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_edges_in_many_chunks_equal_one(mechanism, monkeypatch):
    attend, pattern = made(mechanism), graph()
    inputs = [*tensors(6, H, D, count=1), *tensors(8, H, D, count=2, seed=1)]

    def result():
        values = attend(*inputs, pattern).values
        return [values, *torch.autograd.grad(values.square().sum(), [*inputs, *attend.parameters()])]

    whole = result()
    monkeypatch.setattr("toolkit.attention.segment._CHUNK", 40)
    monkeypatch.setattr("toolkit.attention.backends.edges._CHUNK", 40)
    for one, other in zip(result(), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_gradcheck_on_edges(mechanism, backend):
    attend, pattern = made(mechanism, backend=backend), graph(4, 5, 9)
    inputs = [*tensors(4, H, D, count=1), *tensors(5, H, D, count=2, seed=1), *tensors(9, H, count=1, seed=2)]

    def run(q, k, v, bias, *_):
        return attend(q, k, v, pattern, bias=bias).values

    assert torch.autograd.gradcheck(run, (*inputs, *attend.parameters()))
    if backend == "reference":
        assert torch.autograd.gradgradcheck(run, (*inputs, *attend.parameters()))
    else:
        with pytest.raises(CapabilityError, match="backend='reference'"):
            torch.autograd.grad(run(*inputs).sum(), inputs[2], create_graph=True)


@pytest.mark.parametrize(("mechanism", "backend"), DENSE)
def test_gradcheck_on_dense(mechanism, backend):
    attend = made(mechanism, backend=backend)
    inputs = [
        *tensors(1, H, 2, D, count=1),
        *tensors(1, H, 3, D, count=2, seed=1),
        *tensors(1, H, 2, 3, count=1, seed=2),
    ]
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias, *_: attend(q, k, v, causal(), bias=bias).values, (*inputs, *attend.parameters())
    )


def test_scaled_dot_product_equals_torch_with_grouped_heads():
    attend = ScaledDotProduct(heads=4, dim=8)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, causal()).values, wanted)


def test_scaled_dot_product_equals_multihead_attention():
    torch.manual_seed(0)
    layer, attend = nn.MultiheadAttention(12, 3, batch_first=True).eval(), ScaledDotProduct(heads=3, dim=4).eval()
    x = torch.randn(2, 5, 12)
    padded = torch.tensor([[False] * 5, [False, False, False, True, True]])
    blocked = torch.ones(5, 5).triu(1).bool()
    wanted, wanted_weights = layer(x, x, x, padded, attn_mask=blocked, average_attn_weights=False)
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in F.linear(x, layer.in_proj_weight).chunk(3, -1))
    pattern, bias = from_multihead(blocked, padded)
    output = attend(q, k, v, pattern, bias=bias, need=Need())
    torch.testing.assert_close(layer.out_proj(output.values.transpose(1, 2).flatten(2)), wanted)
    torch.testing.assert_close(output.weights.values, wanted_weights)


@pytest.mark.parametrize(
    ("length", "dtype", "learns", "wanted"),
    [
        (64, torch.bfloat16, True, "rows"),
        (193, torch.bfloat16, True, "sdpa"),
        (64, torch.float32, True, "sdpa"),
        (64, torch.bfloat16, False, "sdpa"),
    ],
)
def test_short_sequences_train_by_plain_maths_in_half_precision_on_a_cpu(length, dtype, learns, wanted):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, length, 8, dtype=dtype, requires_grad=learns) for _ in range(3))
    request = Request(q=q, k=k, v=v, pattern=padding(torch.tensor([length, length - 3])))
    chosen = ScaledDotProduct(heads=2, dim=8).explain(request)
    assert chosen.name == wanted
    if wanted != "sdpa":
        assert "slower than plain maths" in chosen.refused["sdpa"]
