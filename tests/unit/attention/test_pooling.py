"""AttentionPooling: texts, graphs and sets to one vector or a few, by any mechanism."""

import pytest
import torch
from contract_checks import filled

from toolkit.attention import AttentionPooling, Need, causal, dense, edges, padding
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, ShapeError

NAMES = ["saliency_pooling", "scaled_dot_product", "additive", "gat", "gatv2", "top_k", "linear", "performer"]
every = pytest.mark.parametrize("name", NAMES)
LENGTHS = torch.tensor([5, 2, 0])


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def made(name="saliency_pooling", **options):
    torch.manual_seed(3)
    return filled(AttentionPooling(dim=6, heads=2, attention=name, **options)).eval()


@every
def test_padding_and_other_samples_do_not_matter(name):
    pool, x = made(name), drawn(3, 5, 6)
    pooled = pool(x, padding(LENGTHS)).values
    assert pooled.shape == (3, 6)
    torch.testing.assert_close(pool(x[1:2, :2]).values, pooled[1:2])
    x[1, 2:], x[2] = float("nan"), float("inf")
    torch.testing.assert_close(pool(x, padding(LENGTHS)).values, pooled)
    mask = torch.arange(5) < LENGTHS[:, None]
    torch.testing.assert_close(pool(x, dense(mask[:, None])).values, pooled)


@every
def test_empty_samples_give_0_with_gradient_0(name):
    pool, x = made(name), drawn(3, 5, 6).requires_grad_()
    pooled = pool(x, padding(LENGTHS)).values
    assert not pooled[2].any()
    assert pooled[:2].any()
    grads = torch.autograd.grad(pooled[2].exp().sum(), [x, *pool.parameters()], materialize_grads=True)
    assert not any(grad.any() for grad in grads)
    assert not pool(x[:, :0]).values.any()


@pytest.mark.parametrize("name", ["saliency_pooling", "scaled_dot_product", "gat", "gatv2", "additive"])
def test_graphs_are_pooled_as_sequences_are(name):
    pool, x, order = made(name), drawn(7, 6), torch.tensor([4, 0, 6, 2, 5, 1, 3])
    graph = torch.tensor([0, 0, 0, 2, 2, 2, 2])[order]
    index = torch.stack([torch.arange(7), graph])
    output = pool(x, edges(index, 3, 7), need=Need())
    for one in (0, 2):
        alone = pool(x[graph == one][None], need=Need())
        torch.testing.assert_close(output.values[one], alone.values[0])
        torch.testing.assert_close(output.weights.values[graph == one], alone.weights.values[0, :, 0].T)
    assert not output.values[1].any()


def test_hierarchical_attention_networks_are_one_head_without_projections():
    pool, x = filled(AttentionPooling(dim=6, heads=1, project=False)), drawn(2, 4, 6)
    assert [name for name, _ in pool.named_parameters()] == [
        "mechanism.weight",
        "mechanism.offset",
        "mechanism.context",
    ]
    attend = pool.mechanism
    weights = ((x @ attend.weight[0] + attend.offset[0]).tanh() @ attend.context[0]).softmax(1)
    torch.testing.assert_close(pool(x).values, (weights[..., None] * x).sum(1))


def test_pooling_by_multihead_attention_equals_torch():
    """The same as nn.MultiheadAttention from learned queries to x; ours has W_q in its queries, and no bias of W_o."""
    theirs = torch.nn.MultiheadAttention(6, 2, batch_first=True).double()
    pool, x, seeds = made("scaled_dot_product", queries=3), drawn(3, 5, 6), drawn(3, 6, seed=1)
    with torch.no_grad():
        theirs.in_proj_bias.normal_()
        query, key, value = theirs.in_proj_weight.chunk(3)
        biases = theirs.in_proj_bias.chunk(3)
        pool.query.copy_((seeds @ query.T + biases[0]).unflatten(-1, (2, 3)))
        for linear, weight, bias in ((pool.key, key, biases[1]), (pool.value, value, biases[2])):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        pool.out.weight.copy_(theirs.out_proj.weight)
    hidden = torch.arange(5) >= torch.tensor([5, 2, 4])[:, None]
    wanted, weights = theirs(seeds.expand(3, -1, -1), x, x, key_padding_mask=hidden, average_attn_weights=False)
    output = pool(x, padding(torch.tensor([5, 2, 4])), need=Need())
    torch.testing.assert_close(output.values, wanted)
    torch.testing.assert_close(output.weights.values, weights)


def test_queries_are_an_axis_only_when_asked_for():
    x = drawn(2, 4, 6)
    assert made("additive", queries=3)(x).values.shape == (2, 3, 6)
    assert made("additive", queries=1)(x).values.shape == (2, 1, 6)
    assert made("additive")(x).values.shape == (2, 6)
    pooled = made("additive", queries=3)(x).values
    assert not torch.allclose(pooled[:, 0], pooled[:, 1])


def test_need_and_bias_pass_through():
    pool, x = made(), drawn(2, 4, 6)
    output = pool(x, need=Need(heads=[1], received=True))
    assert output.weights.values.shape == (2, 1, 1, 4)
    torch.testing.assert_close(output.weights.values.sum(-1), torch.ones(2, 1, 1).double())
    lowest = torch.zeros(2, 1, 1, 4).double()
    lowest[..., 1:] = -1e9
    torch.testing.assert_close(pool(x, bias=lowest).values, pool(x[:, :1]).values)
    assert pool(x).weights is None
    torch.testing.assert_close(pool(x, causal()).values, pool(x).values)  # one query stands at the end


def test_parameters_are_those_that_do_something():
    for name in NAMES:
        pool, x = made(name, queries=None if name == "saliency_pooling" else 2), drawn(3, 5, 6)
        pool(x).values.square().sum().backward()
        for parameter, value in pool.named_parameters():
            assert value.grad is not None, (name, parameter)
        assert (pool.query is None) == (name == "saliency_pooling")
        assert (pool.key is pool.value) == (name in ("gat", "gatv2"))


def test_options_reach_the_mechanism_and_training_learns_a_pooling():
    """The label is the sign of the one salient token; the mean of all tokens hides it."""
    torch.manual_seed(0)
    pool = AttentionPooling(dim=4, heads=2, normalize="sparsemax", dropout=0.1, head_dim=3)
    assert (pool.mechanism.normalize, pool.mechanism.dropout, pool.key.out_features) == ("sparsemax", 0.1, 6)
    pool = AttentionPooling(dim=4, heads=1)
    x = torch.randn(256, 12, 4)
    x[..., 0] = 0
    place, label = torch.randint(0, 12, (256,)), torch.randint(0, 2, (256,))
    x[torch.arange(256), place, 0] = 4.0
    x[torch.arange(256), place, 1] = label * 2.0 - 1
    optimizer = torch.optim.Adam(pool.parameters(), lr=0.02)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(pool(x).values[:, :2], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = pool(x, need=Need())
    assert (output.values[:, :2].argmax(1) == label).float().mean() > 0.97
    found = (output.weights.values[:, 0, 0].argmax(1) == place).float()
    assert max(found[label == 0].mean(), found[label == 1].mean()) > 0.97  # to find one of two labels is enough


def test_half_precision_and_autocast():
    pool, x = AttentionPooling(dim=6, heads=2, attention="scaled_dot_product"), torch.randn(2, 5, 6)
    wanted = pool(x).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(pool(x).values.float(), wanted, atol=0.03, rtol=0.03)
    torch.testing.assert_close(pool.bfloat16()(x.bfloat16()).values.float(), wanted, atol=0.03, rtol=0.03)


def test_mistakes_say_what_would_work():
    with pytest.raises(CapabilityError, match="does not read queries, so 3 of them would all pool alike"):
        AttentionPooling(dim=6, heads=2, queries=3)
    with pytest.raises(CapabilityError, match="as many queries as keys"):
        AttentionPooling(dim=6, heads=2, attention="nystrom")
    with pytest.raises(ShapeError, match="give heads that divide dim"):
        AttentionPooling(dim=6, heads=4)
    with pytest.raises(ShapeError, match="positive sizes"):
        AttentionPooling(dim=6, heads=2, queries=0)
    with pytest.raises(ShapeError, match="head_dim=2 does not fit"):
        AttentionPooling(dim=6, heads=2, head_dim=2, project=False)
    with pytest.raises(ShapeError, match=r"edges\(index, num_graphs, num_nodes\)"):
        made()(drawn(5, 6))
    with pytest.raises(ShapeError, match=r"given \(2, 5, 7\)"):
        made()(drawn(2, 5, 7))
    with pytest.raises(CapabilityError, match="one vector a graph"):
        made("additive", queries=2)(drawn(2, 6), edges(torch.tensor([[0, 1], [0, 0]]), 1, 2))
    with pytest.raises(TypeError):
        AttentionPooling(dim=6, heads=2, hiden=3)
    with pytest.raises(ShapeError, match="made for heads=3"):
        AttentionPooling(dim=6, heads=2, attention=ScaledDotProduct(heads=3, dim=3))


@pytest.mark.parametrize("name", ["rotary", "alibi", "t5_relative", "sliding_window", "block_local", "strided"])
def test_mechanisms_with_places_do_not_pool(name):
    """The query that pools stands nowhere: at the last key, as in a sequence, padding would move it."""
    with pytest.raises(CapabilityError, match="places matter"):
        AttentionPooling(dim=16, heads=2, attention=name)
