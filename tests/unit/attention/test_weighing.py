"""Weights on demand hold no more than they must, and say NaN where values do."""

import pytest
import torch
from contract_checks import D, H, drawn, graph, nodes, qkv
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.attention import Need, Request, build, causal, dense, padding, pushed, rollout, weighing, window
from toolkit.attention.backends import edges as edges_backend
from toolkit.attention.backends import rows as rows_backend
from toolkit.attention.pairwise import Pairwise
from toolkit.attention.pattern import Lengths


class Largest(TorchDispatchMode):
    """Remember the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.untyped_storage().nbytes() // max(1, each.element_size()))
        return out


def held(run):
    with Largest() as largest:
        run()
    return largest.numel


@pytest.mark.parametrize("name", ["scaled_dot_product", "gat", "gatv2", "din"])
@pytest.mark.parametrize("gradient", [False, True])
def test_rows_that_look_at_nan_show_nan(name, gradient):
    attend = build(name, heads=H, dim=D).double().eval()
    q, k, v = qkv(4, 4)
    k[0, :, 3], v[1, 0, 2] = float("nan"), float("nan")
    lse = attend.normalize == "softmax"
    output = attend(q, k, v, causal(), need=Need(received=True, lse=lse, gradient=gradient))
    bad = torch.zeros(2, H, 4, dtype=torch.bool)
    bad[0, :, 3], bad[1, 0, 2:] = True, True
    assert torch.equal(output.values.isnan().all(-1), bad)
    assert torch.equal(output.weights.values.isnan(), bad[..., None].expand(2, H, 4, 4))
    assert torch.equal(output.weights.received.isnan(), bad.any(2, keepdim=True).expand(2, H, 4))
    assert not lse or torch.equal(output.lse.isnan(), bad)
    some = attend(q, k, v, causal(), need=Need(rows=[1, 2], heads=[1], received=True, gradient=gradient)).weights
    assert not some.values.isnan().any()
    assert not some.received.isnan().any()


@pytest.mark.parametrize("name", ["scaled_dot_product", "gat", "gatv2", "din", "hard"])
@pytest.mark.parametrize("gradient", [False, True])
def test_targets_that_look_at_nan_show_nan(name, gradient):
    attend, pattern = build(name, heads=H, dim=D).double().eval(), graph()
    q, k, v = nodes(pattern)
    k[2] = float("nan")
    output = attend(q, k, v, pattern, need=Need(received=True, gradient=gradient))
    source, target = pattern.index
    bad = torch.zeros(pattern.num_targets, dtype=torch.bool)
    bad[target[source == 2]] = True
    assert bad.any()
    assert not bad.all()
    shared = torch.zeros(pattern.num_sources, dtype=torch.bool)
    shared[source[bad[target]]] = True
    assert torch.equal(output.values.isnan().flatten(1).all(1), bad)
    assert torch.equal(output.weights.values.isnan().all(1), bad[target])
    assert torch.equal(output.weights.received.isnan().all(1), shared)
    good = (~bad).nonzero()[:, 0]
    assert not attend(q, k, v, pattern, need=Need(rows=good, received=True)).weights.received.isnan().any()


@pytest.mark.parametrize("name", ["linear", "nystrom", "linformer", "memory_hops", "location_aware"])
def test_what_is_not_pairwise_shows_nan_too(name):
    options = {"max_length": 6, "projected_length": 3} if name == "linformer" else {}
    attend = build(name, heads=H, dim=D, **options).double().eval()
    q, k, v = qkv(6, 6)
    k[0, :, 1] = float("nan")
    output = attend(q, k, v, padding(torch.tensor([6, 6])), need=Need(received=True))
    assert output.weights.values[0].isnan().all()
    assert output.weights.received[0].isnan().all()
    assert not output.weights.values[1].isnan().any()


@pytest.mark.parametrize("name", ["gat", "scaled_dot_product", "gatv2", "top_k"])
def test_rows_of_a_graph_score_their_own_edges_only(name, monkeypatch):
    attend, pattern = build(name, heads=H, dim=D).double(), graph(num=40)
    q, k, v = nodes(pattern)
    bias = drawn(40, H, seed=3)
    every = attend(q, k, v, pattern, bias=bias, need=Need(received=True)).weights
    scored = []
    whole = type(attend).score
    monkeypatch.setattr(type(attend), "score", lambda self, q, k: (scored.append(len(q)), whole(self, q, k))[1])
    monkeypatch.setattr(weighing, "_STEP", 3 * H * D)
    call = attend.read(Request(q=q, k=k, v=v, pattern=pattern, bias=bias, need=Need(rows=[3, 1], received=True)))
    some, _ = weighing.weigh(attend, call)
    mine = torch.isin(pattern.index[1], torch.tensor([1, 3]))
    assert sum(scored) == int(mine.sum())
    assert max(scored) <= 3
    torch.testing.assert_close(some.values, every.values[mine])
    assert torch.equal(some.edges, mine.nonzero()[:, 0])
    torch.testing.assert_close(some.received, drawn(6, H).zero_().index_add(0, pattern.index[0, mine], some.values))
    assert weighing.weigh(attend, call)[0].pattern is pattern


def test_a_bias_of_edges_may_be_one_for_all_of_a_head():
    attend, pattern = build("gatv2", heads=H, dim=D, normalize="sigmoid").double(), graph()
    bias = drawn(1, H, seed=3)
    for backend in ("auto", "reference"):
        attend.backend = backend
        one, other = (attend(*nodes(pattern), pattern, bias=each).values for each in (bias, bias.expand(14, H)))
        torch.testing.assert_close(one, other)
    soft = build("gatv2", heads=H, dim=D).double()
    torch.testing.assert_close(soft(*nodes(pattern), pattern, bias=bias).values, soft(*nodes(pattern), pattern).values)


PATTERNS = {
    "none": None,
    "causal": causal(),
    "window": window(3, 1) & padding(torch.tensor([40, 30])),
    "dense": dense(torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) < 0.3),
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("name", ["scaled_dot_product", "gat", "additive", "alibi", "luong"])
def test_received_mass_and_pushing_equal_all_weights_and_hold_a_chunk(name, pattern, monkeypatch):
    attend = build(name, heads=H, dim=D).double()
    q, k, v = qkv(40, 40)
    bias = drawn(1, H, 1, 40, seed=8)
    weights = attend(q, k, v, pattern, bias=bias, need=Need()).weights.values
    monkeypatch.setattr(weighing, "_STEP", 40 * 2 * H * D)
    asked = Request(q=q, k=k, v=v, pattern=pattern, bias=bias)
    call = attend.read(asked)
    found = attend(q, k, v, pattern, bias=bias, need=Need(weights=False, received=True)).weights
    assert found.values is None
    torch.testing.assert_close(found.received, weights.sum(2))
    some = attend(q, k, v, pattern, bias=bias, need=Need(weights=False, received=True, rows=[30, 3], heads=[1])).weights
    torch.testing.assert_close(some.received, weights[:, [1]][:, :, [30, 3]].sum(2))
    mass = drawn(2, 1, 40, 3, seed=9)
    mass[:, :, 5:20] = 0
    torch.testing.assert_close(pushed(attend, asked, mass), weights.mT @ mass)
    if name != "luong":  # which has an `attend` of its own, so mass goes the way of the gradient
        limit = 40 * 2 * H * max(2 * D, 8)
        assert held(lambda: weighing.push(attend, call, mass)) <= limit < weights.numel() * 2


def test_mass_on_rows_that_look_at_nan_is_nan_and_other_rows_are_not_asked():
    attend = build("scaled_dot_product", heads=H, dim=D).double()
    q, k, v = qkv(5, 5)
    k[0, :, 4] = float("nan")
    asked = Request(q=q, k=k, v=v, pattern=causal())
    assert rollout([(attend, asked)], [4])[0].isnan().all()
    assert not rollout([(attend, asked)], [4])[1].isnan().any()
    assert not rollout([(attend, asked)], [3]).isnan().any()
    pattern = graph()
    q, k, v = nodes(pattern)
    k[2] = float("nan")
    target = int(pattern.index[1][pattern.index[0] == 2][0])
    mass = torch.zeros(pattern.num_targets, 1, 2, dtype=torch.double)
    mass[target, :, 1] = 1
    found = pushed(attend, Request(q=q, k=k, v=v, pattern=pattern), mass)
    assert not found[..., 0].isnan().any()
    assert found[2, :, 1].isnan().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [("din", {"hidden": (64,), "activation": "prelu"}), ("luong", {"score": "concat"}), ("luong", {"score": "dot"})],
)
def test_chunks_are_chosen_by_what_a_pair_holds_while_it_is_scored(name, options, monkeypatch):
    attend = build(name, heads=H, dim=D, **options).double()
    monkeypatch.setattr(rows_backend, "_BYTES", 4096 * 8)
    for module, size in ((edges_backend, "_CHUNK"), (weighing, "_STEP")):
        monkeypatch.setattr(module, size, 4096)
    q, k, v = qkv(48, 24, batch=1)
    limit = max(4096, 48 * 24 * H)
    attend.backend = "rows"
    over = limit + 24 * H * attend.pair_width  # the last row of a chunk goes over
    assert held(lambda: attend(q, k, v, causal())) <= over
    assert held(lambda: attend(q, k, v, causal(), need=Need(rows=[0, 5]))) <= over
    pattern = graph(num=600)
    attend.backend = "auto" if attend.normalize == "none" else "edges"
    x = nodes(pattern)
    with torch.no_grad():
        if attend.normalize == "softmax":
            assert held(lambda: attend(*x, pattern)) <= limit
        call = attend.read(Request(q=x[0], k=x[1], v=x[2], pattern=pattern, need=Need()))
        assert held(lambda: weighing.weigh(attend, call)) <= limit
    assert isinstance(attend, Pairwise)


@pytest.mark.parametrize("name", ["scaled_dot_product", "sliding_window", "linear"])
def test_a_compiled_module_cleans_keys_that_nobody_may_look_at(name):
    attend = build(name, heads=H, dim=D).double()
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[1, ..., 4:] = False
    for pattern in (causal() & padding(torch.tensor([6, 4])), dense(mask)):
        q, k, v = qkv(6, 6, grad=True)
        wanted = attend(q, k, v, pattern).values
        torch.compiler.reset()
        poison = torch.where(mask[:, :, 0, :, None], 0.0, float("nan"))
        found = compiled(q, k + poison, v + poison, pattern).values
        torch.testing.assert_close(found, wanted)
        one, other = (torch.autograd.grad(values.sum(), [q, k, v]) for values in (found, wanted))
        torch.testing.assert_close(one, other)


def test_hidden_keys_are_those_of_no_row():
    shape, padded = Lengths(3, 4), padding(torch.tensor([4, 2]))
    table = dense(torch.tensor([[True, False, False, True]]).expand(3, 4))
    for pattern in (padded, table, padded & causal() & table, padded | table):
        torch.testing.assert_close(
            pattern.hidden(shape).expand(2, 1, 4), ~pattern.mask(3, 4, batch=2).any(2).expand(2, 1, 4)
        )
    for pattern in (causal(), padded | causal(), causal() & window(1, 0)):
        assert pattern.hidden(shape) is None
