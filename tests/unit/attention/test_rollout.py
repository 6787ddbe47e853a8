"""Mass pushed back through layers equals what explicit weights give."""

import pytest
import torch

from toolkit.attention import Need, Request, build, causal, edges, padding, pushed, rollout, window
from toolkit.errors import CapabilityError, ShapeError

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


SPOILED = [
    ("scaled_dot_product", {}),
    ("bottom_up", {}),
    ("luong", {}),
    ("luong", {"local": "predictive", "window": 3}),
    ("luong", {"local": "monotonic", "window": 2}),
    ("differential", {"norm": "none"}),
    ("hard", {}),
    ("din", {}),
    ("sliding_window", {"window": 2}),
    ("linear", {}),
]


@pytest.mark.parametrize(("name", "options"), SPOILED, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("where", "kv")
@pytest.mark.parametrize("looks", ["full", "causal", "window"])
def test_mass_is_nan_where_received_mass_is(name, options, where, looks):
    pattern = {"full": None, "causal": causal(), "window": window(2, 0)}[looks]
    if name == "linear" and looks == "window":
        with pytest.raises(CapabilityError, match="window"):
            build(name, heads=2, dim=D)(*(drawn(B, 2, L, D, seed=seed).float() for seed in range(3)), pattern)
        return
    mechanism = build(name, heads=2, dim=D, **options).double().eval()
    q, k, v = (drawn(B, 2, L, D, seed=seed) for seed in range(3))
    spoilt = {"q": q, "k": k.clone(), "v": v.clone()}
    spoilt[where][0, 1, 4] = float("nan")
    received = mechanism(*spoilt.values(), pattern, need=Need(weights=False, received=True)).weights.received
    mass = torch.ones(B, 1, L, 1, dtype=torch.double)
    found = pushed(mechanism, Request(**spoilt, pattern=pattern), mass)[..., 0]
    torch.testing.assert_close(found, received, equal_nan=True)
    assert not found[1].isnan().any()
    if pattern is not None:
        assert found[0, 1].isnan().all()
        mass[:, :, 4:] = 0  # of the rows that look there none has mass
        clean = pushed(mechanism, Request(q=q, k=k, v=v, pattern=pattern), mass)
        if options.get("local") is None:
            torch.testing.assert_close(pushed(mechanism, Request(**spoilt, pattern=pattern), mass), clean)


@pytest.mark.parametrize(
    ("name", "options"), [("bottom_up", {}), ("luong", {}), ("hard", {}), ("differential", {"norm": "none"})]
)
def test_mass_is_nan_along_the_edges_of_nodes_that_look_at_nan(name, options):
    mechanism = build(name, heads=2, dim=D, **options).double().eval()
    index = torch.tensor([[0, 1, 2, 3, 0, 2], [0, 0, 1, 1, 2, 2]])
    q, k, v = drawn(3, 2, D), drawn(4, 2, D, seed=1), drawn(4, 2, D, seed=2)
    k[3, 1] = float("nan")
    asked = Request(q=q, k=k, v=v, pattern=edges(index, 3, 4))
    found = pushed(mechanism, asked, torch.ones(3, 1, 1, dtype=torch.double))[..., 0]
    received = mechanism(q, k, v, asked.pattern, need=Need(weights=False, received=True)).weights.received
    torch.testing.assert_close(found, received, equal_nan=True)
    assert found.isnan().sum() == 2  # nodes 2 and 3, which node 1 looks at, in one head
    mass = torch.tensor([1.0, 0.0, 1.0], dtype=torch.double)[:, None, None]
    assert not pushed(mechanism, asked, mass).isnan().any()


@pytest.mark.parametrize(
    ("name", "options"),
    [("bottom_up", {}), ("din", {}), ("luong", {}), ("luong", {"local": "predictive", "window": 3})],
)
def test_a_mechanism_that_leaves_its_weights_alone_is_weighed_without_gradients(name, options, monkeypatch):
    mechanism = build(name, heads=H, dim=D, **options).double().eval()
    asked, mass = request(4, causal()), drawn(B, 1, L, 2, seed=9)
    expected = weights(mechanism, asked).transpose(2, 3) @ mass
    monkeypatch.setitem(pushed.__globals__, "_pushed", None)
    torch.testing.assert_close(pushed(mechanism, asked, mass), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_parameters_take_no_gradient_meanwhile_and_as_before_afterwards(fails, monkeypatch):
    mechanism = build("differential", heads=H, dim=D, norm="none", score="t5_relative").double()
    first, *others = mechanism.parameters()
    first.requires_grad_(False)
    attend, seen = mechanism.attend, []

    def watched(asked):
        seen.append(any(parameter.requires_grad for parameter in mechanism.parameters()) or asked.bias.requires_grad)
        if fails:
            raise RuntimeError("no")
        return attend(asked)

    monkeypatch.setattr(mechanism, "attend", watched)
    asked = request(0, causal())
    asked = Request(q=asked.q, k=asked.k, v=asked.v, pattern=causal(), bias=drawn(L, L).requires_grad_())
    try:
        pushed(mechanism, asked, drawn(B, 1, L, 1))
    except RuntimeError:
        assert fails
    assert seen == [False]
    assert not first.requires_grad
    assert others
    assert all(parameter.requires_grad for parameter in others)
