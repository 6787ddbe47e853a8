"""Differential attention: the difference of two maps, against its formula, and honest about its norm."""

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

from toolkit.attention import MultiHeadAttention, Need, Request, build, causal, dense, padding, pushed, window
from toolkit.attention.differential import Differential
from toolkit.attention.rotary import Rotary
from toolkit.errors import CapabilityError, ShapeError


def made(**options):
    return filled(Differential(heads=H, dim=D, **options))


def wanted(attend, q, k, v, mask=None, normed=True):
    """The paper's formula, one head at a time, and both maps."""
    a, b = attend.query_vectors.tolist(), attend.key_vectors.tolist()
    dots = [sum(x * y for x, y in zip(*pair, strict=True)) for pair in zip(a, b, strict=True)]
    factor = math.exp(dots[0]) - math.exp(dots[1]) + attend.lambda_init
    half, heads, maps = D // 2, [], []
    for h in range(H):
        both = []
        for part in (slice(0, half), slice(half, D)):
            scores = q[:, h, :, part] @ k[:, h, :, part].transpose(1, 2) / half**0.5
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            both.append(scores.softmax(-1))
        weights = both[0] - factor * both[1]
        out = weights @ v[:, h]
        if normed:
            out = out / (out.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (1 - attend.lambda_init)
        heads.append(out)
        maps.append(weights)
    return torch.stack(heads, 1), torch.stack(maps, 1)


@pytest.mark.parametrize("norm", ["rms", "none"])
@pytest.mark.parametrize("width", [D, 3, 7])
def test_it_is_the_papers_formula(norm, width):
    attend, (q, k, v) = made(norm=norm, lambda_init=0.3), qkv(width=width)
    mask = torch.ones(4, 6, dtype=torch.bool).tril(2)
    values, weights = wanted(attend, q, k, v, mask, norm == "rms")
    found = attend(q, k, v, causal(), need=Need())
    torch.testing.assert_close(found.values, values)
    torch.testing.assert_close(found.weights.values, weights)
    assert attend.capabilities.weights == ("proxy" if norm == "rms" else "exact")


def test_weights_times_values_are_the_output_before_the_norm():
    attend, (q, k, v) = made(), qkv()
    output = attend(q, k, v, causal(), need=Need())
    before = output.weights.values @ v
    scale = (before.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * (1 - attend.lambda_init)
    torch.testing.assert_close(output.values, before * scale)
    with pytest.raises(CapabilityError, match="proxy weights"):
        pushed(attend, Request(q=q, k=k, v=v), torch.ones(2, H, 4, 1, dtype=torch.double))


@pytest.mark.parametrize("options", [{}, {"norm": "none", "lambda_init": 0.5}, {"normalize": "sparsemax"}])
def test_the_contract(options):
    attend = made(**options)
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_half(attend)
    pattern = causal() & padding(torch.tensor([4, 6]))
    check_gradients(attend, pattern, qkv(grad=True), bias=drawn(1, H, 4, 6, seed=5))


def test_exact_weights_rows_received_and_rollout():
    attend = made(norm="none")
    weights = check_weights(attend)
    torch.testing.assert_close(weights.sum(-1), (1 - attend.factor()).expand(2, H, 4))
    q, k, v = qkv()
    mass = drawn(2, H, 4, 3, seed=8)
    request = Request(q=q, k=k, v=v, pattern=causal())
    shown = attend(q, k, v, causal(), need=Need()).weights.values
    torch.testing.assert_close(pushed(attend, request, mass), shown.transpose(2, 3) @ mass)


def test_edges_equal_dense():
    class Chosen(Differential):
        """With the backend of both maps to be set, as the check does."""

        normalize = "softmax"

        def __setattr__(self, name, value):
            if name == "backend":
                self.score.backend = value
            else:
                super().__setattr__(name, value)

    check_edges_equal_dense(filled(Chosen(heads=H, dim=D)))
    attend, pattern = made(norm="none"), graph()
    q, k, v = nodes(pattern, grad=True)
    check_gradients(attend, pattern, [q, k, v])
    output = attend(q, k, v, pattern, need=Need())
    source, target = pattern.index
    total = torch.zeros_like(output.values).index_add(0, target, output.weights.values[..., None] * v[source])
    torch.testing.assert_close(total, output.values)


def test_a_gradient_flows_through_weights_when_asked():
    attend, (q, k, v) = made(), qkv(grad=True)
    weights = attend(q, k, v, causal(), need=Need(gradient=True)).weights.values
    assert weights.requires_grad
    assert torch.autograd.grad(weights.square().sum(), attend.query_vectors)[0].abs().min() > 0
    assert not attend(q, k, v, causal(), need=Need()).weights.values.requires_grad


def test_nan_in_a_query_gives_lambda_no_nan():
    attend, (q, k, v) = made(backend="rows"), qkv()
    q[0, :, 1] = float("nan")
    values = attend(q, k, v).values
    assert values[0, :, 1].isnan().all()
    loss = values[1].sum() + values[0, :, [0, 2, 3]].sum()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, list(attend.parameters())))


@pytest.mark.parametrize("broken", ["k", "v"])
def test_nan_in_one_head_is_nan_in_all_whose_scores_are_mixed(broken):
    options = {"score": "talking_heads", "score_options": {"noise": 0.5}, "norm": "none"}
    attend, given = made(**options), dict(zip("qkv", qkv(5, 5, grad=True), strict=True))
    clean = attend(*given.values(), window(1, 0)).values
    bad = {name: x.detach().clone() for name, x in given.items()}
    bad[broken][0, 1, 2, 0] = float("nan")  # in the first half alone
    output = attend(*bad.values(), window(1, 0), need=Need())
    for shown, whole in ((output.values, clean), (output.weights.values, None)):
        assert shown[0, :, 2:4].isnan().all()
        assert shown[0, :, [0, 1, 4]].isfinite().all()
        assert shown[1].isfinite().all()
        if whole is not None:
            torch.testing.assert_close(shown[0, :, [0, 1, 4]], whole[0, :, [0, 1, 4]])
            torch.testing.assert_close(shown[1], whole[1])


def test_nan_beyond_the_window_of_the_score_reaches_nothing():
    attend = made(score="sliding_window", score_options={"window": 1}, norm="none")
    q, k, v = qkv(5, 5)
    for pattern in (None, causal()):
        clean = attend(q, k, v, pattern).values
        bad = k.clone()
        bad[0, 0, 0] = float("nan")
        found = attend(q, bad, v, pattern).values
        assert found[0, 0, 0].isnan().all()
        torch.testing.assert_close(found[0, :, 2:], clean[0, :, 2:])
        torch.testing.assert_close(found[0, 1:], clean[0, 1:])


@pytest.mark.parametrize(
    ("layer", "value"), [(1, 0.2), (2, 0.8 - 0.6 * math.exp(-0.3)), (12, 0.8 - 0.6 * math.exp(-3.3))]
)
def test_lambda_starts_by_the_layer(layer, value):
    assert Differential(heads=1, dim=4, layer=layer).lambda_init == pytest.approx(value)
    torch.manual_seed(0)
    attend = Differential(heads=1, dim=256, layer=layer)
    assert abs(attend.factor().item() - value) < 1
    assert 0.08 < attend.query_vectors.std().item() < 0.12


def test_any_inner_product_by_name():
    q, k, v = qkv(heads=H, dim=8)
    rotary = filled(Differential(heads=H, dim=8, score="rotary", score_options={"base": 100.0}, norm="none"))
    assert rotary.capabilities.positional
    assert rotary.capabilities.layouts == {"dense"}
    inner = Rotary(heads=H, dim=4, base=100.0)
    both = [inner(a, b, v, causal()).values for a, b in zip(q.chunk(2, -1), k.chunk(2, -1), strict=True)]
    torch.testing.assert_close(rotary(q, k, v, causal()).values, both[0] - rotary.factor() * both[1])
    near = filled(Differential(heads=H, dim=8, score="sliding_window", score_options={"window": 1}))
    plain = filled(Differential(heads=H, dim=8))
    torch.testing.assert_close(near(q, k, v).values, plain(q, k, v, window(1, 1)).values)
    with pytest.raises(CapabilityError, match="runs on dense"):
        rotary(q[0], k[0], v[0])


def test_it_uses_the_backends_of_its_maps():
    q = torch.zeros(1, H, 2048, 64)
    attend = Differential(heads=H, dim=64)
    assert attend.explain(Request(q=q, k=q, v=q, pattern=causal())).name == "sdpa"
    assert attend.explain(Request(q=q, k=q[:, :1], v=q[:, :1], pattern=window(20, 20))).name == "chunked"
    with pytest.raises(CapabilityError, match="edges"):
        Differential(heads=H, dim=64, backend="edges")(q, q, q)


def test_dropout_drops_from_each_map():
    attend, (q, k, v) = made(norm="none", dropout=0.5), qkv()
    calm = attend.eval()(q, k, v).values
    torch.testing.assert_close(calm, made(norm="none")(q, k, v).values)
    assert not torch.equal(attend.train()(q, k, v).values, calm)
    assert attend.dropout == attend.score.dropout == 0.5


def test_grouped_heads_in_a_layer():
    layer = MultiHeadAttention(dim=16, heads=4, kv_heads=2, attention="differential", layer=3).double()
    x = drawn(2, 5, 16)
    after = layer(x, pattern=causal()).values
    x[:, 4] += 1
    torch.testing.assert_close(layer(x, pattern=causal()).values[:, :4], after[:, :4])


def test_what_it_cannot_do_is_told():
    q, k, v = qkv()
    with pytest.raises(ShapeError, match="even dim, but dim=5"):
        Differential(heads=1, dim=5)
    for options, match in (
        ({"norm": "layer"}, "'rms' and 'none'"),
        ({"layer": 1, "lambda_init": 0.5}, "layer or lambda_init"),
        ({"layer": 0}, "from 1"),
        ({"score": "gatv2"}, "inner products with exact weights, and gatv2 is none"),
        ({"score": "memory_hops"}, "memory_hops is none"),
        ({"score": "cbam"}, "inner products with exact weights, and cbam is none"),
        ({"score": "linear"}, "linear is none"),
    ):
        with pytest.raises(ValueError, match=match):
            Differential(heads=1, dim=4, **options)
    for name, value in (("dropout", 0.5), ("normalize", "sparsemax"), ("backend", "rows"), ("heads", 2), ("dim", 2)):
        with pytest.raises(TypeError, match=rf"score_options has {name}; give them to differential"):
            Differential(heads=1, dim=4, score_options={name: value})
    with pytest.raises(AttributeError):
        made().dropout = 0.5  # a rate that neither map would have
    with pytest.raises(CapabilityError, match="no log-sum-exp"):
        made()(q, k, v, need=Need(lse=True))
    with pytest.raises(CapabilityError, match="no state"):
        made()(q, k, v, state=1)
    with pytest.raises(TypeError, match="nrom"):
        build("differential", heads=1, dim=4, nrom="rms")
    assert "lambda_init=0.8, norm='rms'" in repr(made())
    assert not made()(q, k, v, dense(torch.zeros(4, 6, dtype=torch.bool))).values.any()
