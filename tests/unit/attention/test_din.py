"""The Deep Interest Network's attention against its MLP written out, and Dice against eq. 3 of arXiv:1706.06978."""

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
from torch import nn

from toolkit.attention import Need, Request, build, causal, dense, padding, to_edges
from toolkit.attention.din import DIN, Dice
from toolkit.errors import CapabilityError

ACTIVATIONS = ["dice", "prelu", "sigmoid"]


def made(activation="dice", training=False, **options):
    attend = filled(DIN(heads=H, dim=D, activation=activation, **{"hidden": (5, 3), **options}))
    for each in attend.activations:
        if isinstance(each, Dice):
            each.running_mean.copy_(drawn(*each.running_mean.shape, seed=8))
            each.running_variance.copy_(drawn(*each.running_variance.shape, seed=9).exp())
    return attend.train(training)


def act(activation, layer, x, h, mean, variance):
    if activation == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    alpha = layer.alpha[h]
    if activation == "prelu":
        return torch.where(x > 0, x, alpha * x)
    p = 1 / (1 + torch.exp(-(x - mean) / torch.sqrt(variance + 1e-8)))
    return p * x + (1 - p) * alpha * x


def scores_of(attend, pairs, h, batch_statistics=False):
    """Score pairs of head h as the paper writes it. Shapes: pairs of q and k (P, D) -> (P,)."""
    q, k = pairs
    x = torch.cat([q, k, q - k, q * k], 1)
    for weight, bias, layer in zip(attend.weights, attend.biases, attend.activations, strict=True):
        x = x @ weight[h] + bias[h]
        mean = variance = None
        if attend.activation == "dice":
            mean, variance = layer.running_mean[h], layer.running_variance[h]
            if batch_statistics:
                mean, variance = x.mean(0), x.var(0, unbiased=False)
        x = act(attend.activation, layer, x, h, mean, variance)
    return attend.scale * (x @ attend.weight[h] + attend.offset[h])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "options", [{}, {"normalize": "softmax", "scale": 0.5}, {"hidden": (4,)}, {"hidden": (3, 4, 5)}]
)
def test_equals_the_formula(activation, options):
    attend = made(activation, **options)
    q, k, v = qkv(1, 6, width=3)
    lengths = [4, 6]
    output = attend(q, k, v, padding(torch.tensor(lengths)), need=Need())
    for b, length in enumerate(lengths):
        for h in range(H):
            scores = scores_of(attend, (q[b, h, :1].expand(length, D), k[b, h, :length]), h)
            weights = scores.softmax(0) if attend.normalize == "softmax" else scores
            torch.testing.assert_close(output.weights.values[b, h, 0, :length], weights)
            torch.testing.assert_close(output.values[b, h, 0], weights @ v[b, h, :length])
            assert not output.weights.values[b, h, 0, length:].any()


@pytest.mark.parametrize("layout", ["dense", "edges"])
@pytest.mark.parametrize("normalize", ["none", "softmax"])
def test_dice_in_training_takes_statistics_of_the_pairs_that_may_look(layout, normalize):
    attend = made(training=True, normalize=normalize)
    mean, variance = attend.activations[0].running_mean.clone(), attend.activations[0].running_variance.clone()
    if layout == "edges":
        pattern = graph()
        q, k, v = nodes(pattern)
        source, target = pattern.index
        output = attend(q, k, v, pattern, need=Need())
        pairs = [(q[target, h], k[source, h]) for h in range(H)]
    else:
        q, k, v = qkv()
        mask = (causal() & padding(torch.tensor([4, 6]))).mask(4, 6, batch=2)
        output = attend(q, k, v, causal() & padding(torch.tensor([4, 6])), need=Need())
        b, _, i, j = mask.nonzero(as_tuple=True)
        pairs = [(q[b, h, i], k[b, h, j]) for h in range(H)]
    for h in range(H):
        scores = scores_of(attend, pairs[h], h, batch_statistics=True)
        shown = output.weights.values[:, h] if layout == "edges" else output.weights.values[:, h][b, i, j]
        if normalize == "none":
            torch.testing.assert_close(shown, scores)
        elif layout == "dense":
            weights = torch.full((2, 4, 6), -torch.inf).double().index_put((b, i, j), scores).softmax(-1)
            torch.testing.assert_close(shown, weights[b, i, j])
        q_, k_ = pairs[h]
        x = torch.cat([q_, k_, q_ - k_, q_ * k_], 1) @ attend.weights[0][h] + attend.biases[0][h]
        torch.testing.assert_close(attend.activations[0].running_mean[h], 0.9 * mean[h] + 0.1 * x.mean(0))
        wanted = 0.9 * variance[h] + 0.1 * x.var(0, unbiased=False)
        torch.testing.assert_close(attend.activations[0].running_variance[h], wanted)


def test_dice_normalises_as_batch_norm_does():
    dice, norm = filled(Dice(1, 5)), nn.BatchNorm1d(5, eps=1e-8, affine=False).double()
    x = drawn(20, 1, 5)
    for mode in (True, False):
        dice.train(mode)
        share = torch.sigmoid(norm.train(mode)(x[:, 0]))
        if not mode:  # torch keeps the unbiased variance
            dice.running_variance.copy_(norm.running_var)
        torch.testing.assert_close(dice(x)[:, 0], (share + (1 - share) * dice.alpha[0]) * x[:, 0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalize", ["none", "softmax"])
def test_contract_in_evaluation(activation, normalize):
    attend = made(activation, normalize=normalize)
    check_dense(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_weights(attend, width=5)
    check_half(attend)
    check_edges_equal_dense(attend)


def test_contract_in_training_with_dice():
    attend = made(training=True)
    check_empty_rows(attend)
    q, k, v = qkv()
    pattern = padding(torch.tensor([4, 6]))
    before = attend(q, k, v, pattern, need=Need(received=True))
    torch.testing.assert_close(before.weights.values @ v, before.values)
    k[0, :, 4:], v[0, :, 4:] = 30.0, float("nan")  # padding moves no statistics
    torch.testing.assert_close(attend(q, k, v, pattern).values, before.values)
    turned = [x[0].transpose(0, 1) for x in qkv(batch=1)]
    sparse = attend(*turned, to_edges(causal(), 4, 6)).values
    torch.testing.assert_close(sparse.transpose(0, 1)[None], attend(*qkv(batch=1), causal()).values)
    inputs = qkv(2, 3, batch=1, grad=True)
    check_gradients(attend, causal(), inputs)
    half = attend.to(torch.bfloat16)(*(x.bfloat16() for x in qkv()), causal()).values
    assert torch.isfinite(half).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation):
    attend = made(activation)
    check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))


def test_rows_that_look_at_nan_stay_out_of_the_statistics():
    attend, (q, k, v) = made(training=True), qkv(4, 4, grad=True)
    mask = torch.ones(2, 4, 4).tril().bool()
    poisoned = k.masked_fill((torch.arange(4) == 3)[:, None] & (torch.arange(2) == 0)[:, None, None, None], torch.nan)
    values = attend(q, poisoned, v, dense(mask)).values
    assert values[0, :, 3].isnan().all()
    mask[0, 3] = False
    wanted = attend(q, k, v, dense(mask)).values
    torch.testing.assert_close(values[1], wanted[1])
    torch.testing.assert_close(values[0, :, :3], wanted[0, :, :3])
    grads = torch.autograd.grad(values[1].sum(), [q, k, *attend.parameters()])
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert torch.isfinite(attend.activations[0].running_mean).all()
    pattern = graph()
    q, k, v = nodes(pattern)
    k[2] = torch.nan
    values = attend(q, k, v, pattern).values
    hit = pattern.index[1][pattern.index[0] == 2].unique()
    assert values.isnan().all(-1).all(-1).nonzero()[:, 0].tolist() == hit.tolist()
    assert torch.isfinite(attend.activations[0].running_mean).all()


def test_dice_in_training_is_run_by_the_reference_alone():
    q, k, v = qkv()
    attend = made(training=True)
    assert attend.explain(Request(q=q, k=k, v=v)).name == "reference"
    assert attend.eval().explain(Request(q=q, k=k, v=v)).name == "rows"
    attend = made(training=True, backend="rows")
    with pytest.raises(CapabilityError, match=r"all pairs at once. What can: reference"):
        attend(q, k, v)
    assert torch.isfinite(attend.eval()(q, k, v).values).all()


def test_dice_with_nothing_to_see_keeps_its_averages():
    attend = made(training=True)
    before = attend.activations[0].running_mean.clone()
    q, k, v = qkv()
    assert not attend(q, k, v, padding(torch.tensor([0, 0]))).values.any()
    assert torch.equal(attend.activations[0].running_mean, before)


def test_options_are_checked():
    attend = build("din", heads=2, dim=3)
    assert attend.hidden == (80, 40)
    assert attend.normalize == "none"
    for options in ({"activation": "dise"}, {"hidden": ()}, {"hidden": (4, 0)}):
        with pytest.raises(ValueError, match=r"din (knows|wants)"):
            DIN(heads=1, dim=2, **options)
    with pytest.raises(TypeError):
        DIN(heads=1, dim=2, hiden=(3,))
    dropped = made(dropout=0.5, training=True, activation="sigmoid")
    q, k, v = qkv()
    assert not torch.allclose(dropped(q, k, v).values, dropped.eval()(q, k, v).values)
