"""saliency_pooling: against its formula, on sequences and graphs; what queries hold is not read."""

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

from toolkit.attention import MultiHeadAttention, Need, build, causal
from toolkit.attention.saliency_pooling import SaliencyPooling

OPTIONS = ({}, {"hidden": 3})
every = pytest.mark.parametrize("options", OPTIONS, ids=str)


def made(**options):
    return filled(SaliencyPooling(heads=H, dim=D, **options))


def formula(attend, k, h):
    """u . tanh(W k + b) of one key, number by number. Shapes: k (D,)."""
    hidden = [
        torch.tanh(sum(attend.weight[h, d, c] * k[d] for d in range(D)) + attend.offset[h, c])
        for c in range(attend.hidden)
    ]
    return sum(attend.context[h, c] * value for c, value in enumerate(hidden))


@every
@pytest.mark.parametrize("normalize", ["softmax", "sigmoid"])
def test_dense_equals_the_formula(options, normalize):
    attend = made(normalize=normalize, **options)
    q, k, v = qkv(3, 4, width=5)
    output = attend(q, k, v, causal(), need=Need())
    for b in range(2):
        for h in range(H):
            for i in range(3):
                scores = torch.stack([formula(attend, k[b, h, j], h) for j in range(i + 2)])
                weights = scores.softmax(0) if normalize == "softmax" else scores.sigmoid()
                torch.testing.assert_close(output.weights.values[b, h, i, : i + 2], weights)
                torch.testing.assert_close(output.values[b, h, i], weights @ v[b, h, : i + 2])


@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_edges_equal_the_formula(backend):
    attend, pattern = made(backend=backend), graph()
    q, k, v = nodes(pattern, width=3)
    output = attend(q, k, v, pattern, need=Need())
    source, target = pattern.index
    assert not output.values[0].any()
    for i in range(1, 5):
        entering = (target == i).nonzero()[:, 0]
        for h in range(H):
            weights = torch.stack([formula(attend, k[j, h], h) for j in source[entering].tolist()]).softmax(0)
            torch.testing.assert_close(output.weights.values[entering, h], weights)
            torch.testing.assert_close(output.values[i, h], weights @ v[source[entering], h])


@every
def test_contract(options):
    attend = made(**options)
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_weights(attend, width=5)
    check_half(attend)
    check_edges_equal_dense(attend)


@every
def test_gradients(options):
    attend = made(**options)
    check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))
    pattern = graph(3, 4, 6)
    check_gradients(attend, pattern, nodes(pattern, grad=True))


@pytest.mark.parametrize("backend", ["reference", "rows"])
def test_what_queries_hold_is_not_read(backend):
    attend = made(backend=backend)
    q, k, v = qkv(grad=True)
    values = attend(q, k, v).values
    torch.testing.assert_close(values, values[:, :, :1].expand_as(values))
    torch.testing.assert_close(attend(torch.full_like(q, torch.nan), k, v).values, values)
    values.sum().backward()
    assert not q.grad.any()
    assert k.grad.any()


def test_one_head_equals_the_paper():
    """s = sum_t a_t h_t with a = softmax(u_t . u_w), u_t = tanh(W h_t + b): written as matrices of nn.Linear."""
    attend = filled(SaliencyPooling(heads=1, dim=6))
    h = torch.randn(2, 5, 6, dtype=torch.double)
    word = torch.nn.Linear(6, 6).double()
    with torch.no_grad():
        word.weight.copy_(attend.weight[0].T)
        word.bias.copy_(attend.offset[0])
    weights = (word(h).tanh() @ attend.context[0]).softmax(1)
    found = attend(h[:, None, :1], h[:, None], h[:, None]).values[:, 0, 0]
    torch.testing.assert_close(found, (weights[..., None] * h).sum(1))


def test_registered_and_its_mistakes():
    assert build("saliency_pooling", heads=2, dim=3, hidden=5, dropout=0.1).context.shape == (2, 5)
    with pytest.raises(ValueError, match="positive number of hidden units"):
        build("saliency_pooling", heads=2, dim=3, hidden=0)
    with pytest.raises(TypeError):
        build("saliency_pooling", heads=2, dim=3, hiden=5)
    layer = MultiHeadAttention(dim=6, heads=2, attention="saliency_pooling")
    assert layer(torch.randn(2, 4, 6)).values.shape == (2, 4, 6)
