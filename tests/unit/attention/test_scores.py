"""dot, general, cosine and additive: each against its formula, and the contract on sequences and edges."""

import math

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
from torch.nn import functional as F

from toolkit.attention import Need, Request, build, causal
from toolkit.attention.additive import Additive
from toolkit.attention.dot import Cosine, Dot, General

MADE = {
    "dot": lambda: Dot(heads=H, dim=D),
    "general": lambda: General(heads=H, dim=D),
    "general, scaled": lambda: General(heads=H, dim=D, scale=0.3),
    "cosine": lambda: Cosine(heads=H, dim=D),
    "cosine, fixed": lambda: Cosine(heads=H, dim=D, temperature=0.25, learned=False),
    "additive": lambda: Additive(heads=H, dim=D),
    "additive, no offset": lambda: Additive(heads=H, dim=D, offset=False),
}
every = pytest.mark.parametrize("name", MADE)


def formula(name, attend, q, k, h):
    """The score of one query and one key of head h, as the paper writes it. Shapes: q (D,), k (D,)."""
    if name.startswith("dot"):
        return q @ k
    if name.startswith("general"):
        return attend.scale * sum(q[a] * attend.weight[h, a, b] * k[b] for a in range(D) for b in range(D))
    if name.startswith("cosine"):
        temperature = 0.25 if "fixed" in name else max(math.exp(attend.log_temperature[h].item()), 0.01)
        return q @ k / math.sqrt(q @ q) / math.sqrt(k @ k) / temperature
    offset = attend.offset[h] if "no" not in name else 0
    return sum(attend.weight[h] * torch.tanh(q + k + offset))


@every
@pytest.mark.parametrize("normalize", ["softmax", "sigmoid"])
def test_dense_equals_the_formula(name, normalize):
    attend = filled(MADE[name]())
    attend = filled(type(attend)(heads=H, dim=D, normalize=normalize, **options_of(name)))
    q, k, v = qkv(3, 4, width=5)
    output = attend(q, k, v, causal(), need=Need(lse=normalize == "softmax"))
    for b in range(2):
        for h in range(H):
            for i in range(3):
                scores = torch.stack([formula(name, attend, q[b, h, i], k[b, h, j], h) for j in range(i + 2)])
                weights = scores.softmax(0) if normalize == "softmax" else scores.sigmoid()
                torch.testing.assert_close(output.weights.values[b, h, i, : i + 2], weights)
                torch.testing.assert_close(output.values[b, h, i], weights @ v[b, h, : i + 2])
                if normalize == "softmax":
                    torch.testing.assert_close(output.lse[b, h, i], scores.logsumexp(0))


def options_of(name):
    return {
        "general, scaled": {"scale": 0.3},
        "cosine, fixed": {"temperature": 0.25, "learned": False},
        "additive, no offset": {"offset": False},
    }.get(name, {})


@every
@pytest.mark.parametrize("backend", ["edges", "reference"])
def test_edges_equal_the_formula(name, backend):
    attend, pattern = filled(MADE[name]()), graph()
    attend.backend = backend
    q, k, v = nodes(pattern, width=3)
    output = attend(q, k, v, pattern, need=Need())
    source, target = pattern.index
    assert not output.values[0].any()
    for i in range(1, 5):
        entering = (target == i).nonzero()[:, 0]
        for h in range(H):
            scores = torch.stack([formula(name, attend, q[i, h], k[j, h], h) for j in source[entering].tolist()])
            torch.testing.assert_close(output.weights.values[entering, h], scores.softmax(0))
            torch.testing.assert_close(output.values[i, h], scores.softmax(0) @ v[source[entering], h])


@every
def test_contract(name):
    attend = filled(MADE[name]())
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_weights(attend, width=5)
    check_half(attend)


@every
def test_edges_equal_dense_with_gradients(name):
    check_edges_equal_dense(filled(MADE[name]()))


@every
def test_gradients(name):
    attend = filled(MADE[name]())
    check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))
    pattern = graph(3, 4, 6)
    check_gradients(attend, pattern, nodes(pattern, grad=True))


@pytest.mark.parametrize(("name", "attend"), [("dot", Dot), ("general", General), ("cosine", Cosine)])
def test_inner_products_run_on_torch_kernels(name, attend):
    attend = filled(attend(heads=H, dim=D))
    q, k, v = qkv()
    assert attend.explain(Request(q=q, k=k, v=v, pattern=causal())).name == "sdpa"
    fast = attend(q, k, v, causal()).values
    attend.backend = "reference"
    torch.testing.assert_close(attend(q, k, v, causal()).values, fast)


def test_dot_and_cosine_equal_torch():
    q, k, v = qkv()
    wanted = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    torch.testing.assert_close(Dot(heads=H, dim=D)(q, k, v).values, wanted)
    wanted = F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1).div(0.5).softmax(-1) @ v
    torch.testing.assert_close(Cosine(heads=H, dim=D, temperature=0.5, learned=False)(q, k, v).values, wanted)


@pytest.mark.parametrize("kind", [torch.double, torch.float32, torch.float16])
@pytest.mark.parametrize("learned", [True, False])
def test_cosine_is_safe_for_zeros_and_extremes(kind, learned):
    attend = Cosine(heads=1, dim=2, temperature=1.0, learned=learned).to(kind)
    q = torch.tensor([[0.0, 0.0], [3e-5, 4e-5], [3e4, 4e4]], dtype=kind)[None, None].requires_grad_()
    k = torch.tensor([[0.0, 0.0], [6e4, 0.0]], dtype=kind)[None, None].requires_grad_()
    scores = attend.scores(q, k)[0, 0]
    torch.testing.assert_close(scores[:2], torch.tensor([[0.0, 0.0], [0, 0.6]], dtype=kind), atol=5e-3, rtol=0)
    torch.testing.assert_close(scores[2], scores[1], atol=5e-3, rtol=0)
    attend(q, k, torch.eye(2, dtype=kind)[None, None]).values[..., 0].sum().backward()
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(k.grad).all()


def test_the_learned_temperature_stays_above_its_floor():
    attend = Cosine(heads=H, dim=D).double()
    torch.testing.assert_close(attend.log_temperature.exp(), torch.full((H,), 0.1).double(), rtol=1e-6, atol=0)
    q, k, _ = qkv()
    with torch.no_grad():
        attend.log_temperature.fill_(-20.0)
    torch.testing.assert_close(attend.scores(q, k).abs().amax() < 100.0001, torch.tensor(True))
    assert "log_temperature" not in Cosine(heads=H, dim=D, learned=False).state_dict()
    with pytest.raises(ValueError, match=r"0.01 or above"):
        Cosine(heads=1, dim=1, temperature=0.001)


@pytest.mark.parametrize("name", ["dot", "general", "cosine", "additive"])
def test_registered_under_their_names(name):
    made = build(name, heads=2, dim=3, dropout=0.1, normalize="sparsemax")
    assert made.name == name
    assert made.dropout == 0.1
    with pytest.raises(TypeError):
        build(name, heads=2, dim=3, tempreature=0.1)


def test_dropout_keeps_the_mean():
    attend = Additive(heads=H, dim=D, dropout=0.5)
    q, k = drawn(4, H, 50, D).float(), drawn(4, H, 50, D, seed=1).float()
    values = attend(q, k, torch.ones_like(k)).values
    assert values.std() > 0
    assert abs(values.mean() - 1) < 0.05
