"""Mass pushed back through layers equals what explicit weights give."""

import pytest
import torch

from toolkit.attention import Need, Request, build, causal, edges, padding, pushed, rollout
from toolkit.errors import ShapeError

B, H, L, D = 2, 3, 9, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def request(seed, pattern=None, kv_heads=H):
    q, k, v = (
        drawn(B, H, L, D, seed=seed),
        drawn(B, kv_heads, L, D, seed=seed + 1),
        drawn(B, kv_heads, L, D, seed=seed + 2),
    )
    return Request(q=q, k=k, v=v, pattern=pattern)


def weights(mechanism, asked):
    return mechanism(asked.q, asked.k, asked.v, asked.pattern, need=Need()).weights.values


@pytest.mark.parametrize("name", ["scaled_dot_product", "gat", "gatv2"])
@pytest.mark.parametrize("pattern", [None, causal(), padding(torch.tensor([9, 5]))], ids=["full", "causal", "padding"])
@pytest.mark.parametrize("kv_heads", [1, H])
def test_pushing_is_the_transposed_weights(name, pattern, kv_heads):
    mechanism = build(name, heads=H, dim=D, dropout=0.5).double().train()
    asked = request(3, pattern, kv_heads)
    for heads, masses in ((H, 2), (1, 7)):  # more masses than the head is wide go in parts
        mass = drawn(B, heads, L, masses, seed=9)
        expected = weights(mechanism.eval(), asked).transpose(2, 3) @ mass
        mechanism.train()
        torch.testing.assert_close(pushed(mechanism, asked, mass), expected)
    assert mechanism.training


def test_pushing_follows_edges():
    mechanism = build("gatv2", heads=H, dim=D).double()
    index = torch.tensor([[0, 1, 2, 3, 0, 2], [0, 0, 1, 1, 2, 2]])
    asked = Request(q=drawn(3, H, D), k=drawn(4, H, D, seed=1), v=drawn(4, H, D, seed=2), pattern=edges(index, 3, 4))
    mass = drawn(3, 1, 2, seed=5)
    found = weights(mechanism, asked)  # (E, H)
    expected = torch.zeros(4, H, 2, dtype=torch.double).index_add(0, index[0], found[..., None] * mass[index[1]])
    torch.testing.assert_close(pushed(mechanism, asked, mass), expected)


def test_rollout_is_the_product_of_the_layers():
    layers = [(build("scaled_dot_product", heads=H, dim=D), request(seed, causal())) for seed in (0, 10, 20)]
    explicit = torch.eye(L, dtype=torch.double)
    for mechanism, asked in layers:
        explicit = (0.3 * torch.eye(L, dtype=torch.double) + 0.7 * weights(mechanism, asked).mean(1)) @ explicit
    found = rollout(layers, [8, 2, 5], residual=0.3)
    torch.testing.assert_close(found, explicit[:, [8, 2, 5]])
    torch.testing.assert_close(found.sum(-1), torch.ones(B, 3, dtype=torch.double))


def test_what_does_not_fit_is_told():
    mechanism = build("scaled_dot_product", heads=H, dim=D)
    with pytest.raises(ShapeError, match="does not lie on the queries"):
        pushed(mechanism, request(0), drawn(B, H, L + 1, 1))
    with pytest.raises(ValueError, match="at least one layer"):
        rollout([], [0])
    crossed = Request(q=drawn(B, H, 4, D), k=drawn(B, H, L, D), v=drawn(B, H, L, D))
    with pytest.raises(ShapeError, match="self-attention over 4 positions"):
        rollout([(mechanism, crossed)], [0])


def test_it_works_where_no_gradient_is_kept_and_leaves_modes_alone():
    layers = [(build("scaled_dot_product", heads=H, dim=D), request(0, causal()))]
    expected = rollout(layers, [3])
    with torch.inference_mode():
        layers = [(layers[0][0], request(0, causal()))]
        torch.testing.assert_close(rollout(layers, [3]), expected)
    outer = build("gat", heads=H, dim=D).double().train()
    outer.inner = torch.nn.Dropout().eval()  # a part that somebody put in evaluation stays there
    rollout([(outer, request(0))], [0])
    assert (outer.training, outer.inner.training) == (True, False)
    with pytest.raises(ValueError, match="from 0 to 1, but 3"):
        rollout(layers, [3], residual=3)
