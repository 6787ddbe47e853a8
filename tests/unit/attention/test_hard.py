"""Hard attention: draws follow the weights, REINFORCE estimates the true gradient, and the contract holds."""

import pytest
import torch
from contract_checks import (
    D,
    H,
    check_dense,
    check_empty_rows,
    check_half,
    check_poison,
    check_weights,
    filled,
    graph,
    nodes,
    qkv,
)
from torch.nn import functional as F

from toolkit.attention import Need, build, causal, dense, edges, padding
from toolkit.attention.additive import Additive
from toolkit.attention.hard import Hard, ReinforceLoss
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.binding import bind
from toolkit.errors import CapabilityError, ShapeError

ESTIMATORS = ["reinforce", "straight_through"]


def made(training=True, **options):
    return filled(Hard(heads=H, dim=D, **options)).train(training)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("layout", ["dense", "edges"])
def test_each_row_draws_one_key_as_often_as_its_weight_says(estimator, layout):
    torch.manual_seed(0)
    attend = made(estimator=estimator)
    if layout == "dense":
        pattern, (q, k, v) = padding(torch.tensor([4, 6])), qkv()
    else:
        pattern = graph()
        q, k, v = nodes(pattern)
    soft = attend.score(q, k, v, pattern, need=Need()).weights.values
    total = torch.zeros_like(soft)
    for _ in range(2000):
        output = attend(q, k, v, pattern, need=Need())
        drawn = output.weights.values
        assert ((drawn == 0) | (drawn == 1)).all()
        total += drawn
    if layout == "dense":
        assert (drawn.sum(-1) == 1).all()
        torch.testing.assert_close(drawn @ v, output.values)
    torch.testing.assert_close(total / 2000, soft, atol=0.05, rtol=0)
    if estimator == "reinforce":
        chosen = (drawn * soft).sum(-1) if layout == "dense" else torch.zeros(5, H).double()
        plain = -(soft * soft.clamp_min(1e-300).log())
        entropy = plain.sum(-1) if layout == "dense" else chosen.index_add(0, pattern.index[1], plain)
        if layout == "edges":
            chosen = chosen.index_add(0, pattern.index[1], drawn * soft)
            chosen[0] = 1  # target 0 has no edges: nothing is drawn, with certainty
        torch.testing.assert_close(output.aux["log_prob"], chosen.log())
        torch.testing.assert_close(output.aux["entropy"], entropy)
    else:
        assert not output.aux


@pytest.mark.parametrize("evaluation", ["expectation", "argmax"])
def test_evaluation_is_certain(evaluation):
    attend = made(training=False, evaluation=evaluation)
    q, k, v = qkv()
    pattern = causal() & padding(torch.tensor([4, 6]))
    soft = attend.score(q, k, v, pattern, need=Need()).weights.values
    output = attend(q, k, v, pattern, need=Need())
    wanted = soft if evaluation == "expectation" else F.one_hot(soft.argmax(-1), 6).double()
    torch.testing.assert_close(output.weights.values, wanted)
    torch.testing.assert_close(output.values, wanted @ v)
    assert not output.aux
    where = graph()
    q, k, v = nodes(where)
    values = attend(q, k, v, where, need=Need()).weights.values
    totals = torch.zeros(5, H).double().index_add(0, where.index[1], values)
    torch.testing.assert_close(totals[1:], torch.ones(4, H).double())
    soft = attend.score(q, k, v, where, need=Need()).weights.values
    best = (
        torch.zeros(5, H)
        .double()
        .scatter_reduce(0, where.index[1][:, None].expand_as(soft), soft, "amax")[where.index[1]]
    )
    if evaluation == "argmax":
        assert (values[soft < best] == 0).all()
        assert (values[soft == best] > 0).all()
    else:
        torch.testing.assert_close(values, soft)


def test_reinforce_estimates_the_gradient_of_the_expected_reward():
    torch.manual_seed(0)
    attend, (q, k, _) = Hard(heads=1, dim=D).double().train(), qkv(1, 4, batch=1, heads=1)
    q, prize = q.requires_grad_(), torch.tensor([1.0, -1.0, 3.0, 0.5]).double()
    p = (q @ k.transpose(-2, -1) / D**0.5).softmax(-1)[0, 0, 0]
    wanted = torch.autograd.grad((p * prize).sum() - 0.1 * (p * p.log()).sum(), q)[0]
    loss = ReinforceLoss(entropy_weight=0.1).double()
    many = 40000
    output = attend(
        q.expand(many, -1, -1, -1), k.expand(many, -1, -1, -1), prize.view(1, 1, 4, 1).expand(many, 1, 4, 1)
    )
    reward = output.values[:, 0, 0, 0]
    for _ in range(2):  # the second time a baseline is taken off, which leaves the mean alone
        found = torch.autograd.grad(-loss(reward, output.aux), q, retain_graph=True)[0]
        torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
    assert loss.baseline > 0


def test_reinforce_loss_follows_the_paper():
    loss = ReinforceLoss(decay=0.5, reward_weight=2.0, entropy_weight=0.3)
    aux = {"log_prob": torch.randn(3, H, 4, requires_grad=True), "entropy": torch.rand(3, H, 4)}
    reward = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    first = loss(reward, aux)
    sums = [aux[name].sum((1, 2)) for name in ("log_prob", "entropy")]
    torch.testing.assert_close(first, -(2 * reward * sums[0] + 0.3 * sums[1]).mean())
    assert loss.baseline == 1.5
    second = loss(reward, aux, aux)
    torch.testing.assert_close(second, -(2 * (reward - 1.5) * 2 * sums[0] + 0.3 * 2 * sums[1]).mean())
    assert loss.baseline == 2.25
    loss.eval()(reward, aux)
    assert loss.baseline == 2.25
    assert torch.autograd.grad(second, reward, allow_unused=True)[0] is None
    with pytest.raises(ShapeError, match="3"):
        loss(reward[:2], aux)
    with pytest.raises(CapabilityError, match="reinforce"):
        loss(reward, {})


@pytest.mark.parametrize("layout", ["dense", "edges"])
def test_straight_through_has_the_gradient_of_the_softmax_with_the_same_noise(layout):
    attend = made(estimator="straight_through", temperature=0.7)
    if layout == "dense":
        pattern, (q, k, v) = causal(), qkv(grad=True)
    else:
        pattern = graph()
        q, k, v = nodes(pattern, grad=True)
    torch.manual_seed(1)
    output = attend(q, k, v, pattern, need=Need(gradient=True))
    weights = output.weights.values
    found = torch.autograd.grad((weights * weights.detach().cumsum(-1)).sum(), [q, k], retain_graph=True)
    torch.manual_seed(1)
    p = attend.score(q, k, v, pattern, need=Need(gradient=True)).weights.values
    noise = -torch.empty_like(p).exponential_().log()
    noisy = (p.masked_fill(p == 0, 1).log() + noise).div(0.7).masked_fill(p == 0, -torch.inf)
    if layout == "dense":
        soft = noisy.softmax(-1)
    else:
        total = torch.zeros(5, H).double().index_add(0, pattern.index[1], noisy.exp())
        soft = noisy.exp() / total[pattern.index[1]]
    wanted = torch.autograd.grad((soft * weights.detach().cumsum(-1)).sum(), [q, k])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
        assert one.any()
    assert torch.autograd.grad(output.values.sum(), v)[0].any()


def test_reinforce_gives_the_scores_no_gradient_but_the_values_theirs():
    attend, (q, k, v) = made(), qkv(grad=True)
    output = attend(q, k, v)
    slopes = torch.autograd.grad(output.values.sum(), [q, k, v], allow_unused=True)
    assert slopes[:2] == (None, None)
    assert slopes[2].sum() == output.values.numel()


@pytest.mark.parametrize("evaluation", ["expectation", "argmax"])
@pytest.mark.parametrize("score", ["scaled_dot_product", "additive", "gat", "cosine"])
def test_contract_in_evaluation(evaluation, score):
    attend = made(training=False, evaluation=evaluation, score=score)
    if evaluation == "expectation":
        check_dense(attend)
        check_half(attend)
    check_empty_rows(attend)
    check_poison(attend)
    check_weights(attend, width=5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_contract_in_training(estimator):
    attend = made(estimator=estimator)
    check_empty_rows(attend)
    q, k, v = qkv()
    k[0, :, 4:], v[0, :, 4:] = float("nan"), float("inf")
    output = attend(q, k, v, padding(torch.tensor([4, 0])))
    assert torch.isfinite(output.values).all()
    assert all(torch.isfinite(each).all() and not each[1].any() for each in output.aux.values())
    q[0, 0, 1] = float("nan")
    values = attend(q, k, v, padding(torch.tensor([4, 6]))).values
    assert values[0].isnan().all(-1).tolist() == [[False, True, False, False], [False] * 4]
    assert attend.to(torch.bfloat16)(*(x.bfloat16() for x in qkv()), causal()).values.dtype == torch.bfloat16


def test_repeated_edges_are_drawn_one_by_one():
    attend, pattern = made(), edges(torch.zeros(2, 3).long(), 1)
    q, k, v = nodes(pattern)
    k = v = k * 0  # three edges with the same score
    output = attend(q, k, v, pattern, need=Need())
    assert (output.weights.values.sum(0) == 1).all()
    assert (attend.eval().score(q, k, v, pattern, need=Need()).weights.values == 1 / 3).all()
    attend.evaluation = "argmax"
    assert (attend(q, k, v, pattern, need=Need()).weights.values == 1 / 3).all()  # equals share, whatever their order


def test_some_samples_take_the_expectation():
    torch.manual_seed(0)
    attend = made(expected=0.5)
    q, k, v = qkv(batch=200)
    output = attend(q, k, v, need=Need())
    soft = attend.score(q, k, v, need=Need()).weights.values
    mean = (output.weights.values == soft).flatten(1).all(1)
    assert 60 < mean.sum() < 140
    assert not output.aux["log_prob"][mean].any()
    assert output.aux["log_prob"][~mean].all()
    pattern = graph()
    weights = made(expected=1.0)(*nodes(pattern), pattern, need=Need()).weights.values
    torch.testing.assert_close(weights, made().score(*nodes(pattern), pattern, need=Need()).weights.values)


def test_the_score_is_any_pairwise_mechanism_with_weights_that_add_up_to_one():
    assert isinstance(build("hard", heads=2, dim=3, score="additive").score, Additive)
    assert Hard(heads=2, dim=3, score="scaled_dot_product", score_options={"scale": 2.0}).score.scale == 2.0
    ready = ScaledDotProduct(heads=2, dim=3, normalize="sparsemax")
    assert Hard(heads=2, dim=3, score=ready).score is ready
    assert bind(Hard, {"score": "additive", "heads": 1, "dim": 2}, where="attention")["score"] == "additive"
    for score, options in (
        ("scaled_dot_product", {"normalize": "sigmoid"}),
        ("luong", {"local": "predictive"}),
        ("din", {}),
        ("persistent_memory", {}),
        ("location_aware", {}),
    ):
        with pytest.raises(ValueError, match="add up to one"):
            Hard(heads=2, dim=3, score=score, score_options=options)
    with pytest.raises(ValueError, match="dropout=0"):
        Hard(heads=2, dim=3, score_options={"dropout": 0.5})
    with pytest.raises(ShapeError, match="heads=2, dim=3"):
        Hard(heads=1, dim=3, score=ready)
    with pytest.raises(TypeError, match="ready made"):
        Hard(heads=2, dim=3, score=ready, score_options={"scale": 1.0})


def test_options_and_requests_are_checked():
    for options in ({"estimator": "reenforce"}, {"evaluation": "mean"}, {"temperature": 0.0}, {"expected": 1.5}):
        with pytest.raises(ValueError, match=r"hard (knows|wants)"):
            Hard(heads=1, dim=2, **options)
    with pytest.raises(ValueError, match="estimator='reinforce'"):
        Hard(heads=1, dim=2, estimator="straight_through", expected=0.5)
    with pytest.raises(ValueError, match=r"temperature=1.0 goes with estimator='straight_through'"):
        Hard(heads=1, dim=2, temperature=1.0)
    assert Hard(heads=1, dim=2, estimator="straight_through").temperature == 1
    attend, (q, k, v) = made(), qkv()
    with pytest.raises(CapabilityError, match="no state"):
        attend(q, k, v, state=1)
    lse = attend(q, k, v, need=Need(lse=True)).lse
    torch.testing.assert_close(lse, attend.score.scores(q, k).logsumexp(-1))
    mask = dense(torch.ones(4, 6).bool())
    torch.testing.assert_close(
        attend(
            q, k, v, mask, bias=torch.full((1, 1, 4, 6), -1e9).double().index_fill(3, torch.tensor([2]), 0.0)
        ).values,
        v[:, :, 2:3].expand(-1, -1, 4, -1),
    )
