"""The chunked backend gives what the reference gives, for every pattern with a bounded reach."""

import pytest
import torch

from toolkit.attention import (
    Need,
    Request,
    blocks,
    causal,
    dense,
    dilated,
    fixed,
    global_tokens,
    padding,
    random_blocks,
    segments,
    strided,
    window,
)
from toolkit.attention.alibi import ALiBi
from toolkit.attention.backends import chunk_plan, chunked
from toolkit.attention.dot import Dot
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.attention.soft_capped import SoftCapped
from toolkit.attention.t5_relative import T5Relative
from toolkit.attention.top_k import TopK
from toolkit.errors import CapabilityError

H, D = 3, 4
SIZES = [(37, 37), (5, 40), (40, 9), (1, 33)]
PATTERNS = {
    "window": window(3, 2),
    "causal window": causal() & window(5, None),
    "window or global": window(2, 1) | global_tokens([0, 7, 8]),
    "causal, window or global": causal() & (window(2, 1) | global_tokens([0, 7, 8])),
    "blocks": blocks(4),
    "blocks around": blocks(3, 1) | global_tokens([1]),
    "strided": strided(3),
    "causal and strided": strided(3) & causal(),
    "dilated": dilated(2, 1, 3) | global_tokens([5, 30]),
    "fixed": (blocks(4) | fixed(4, 1)) & causal(),
    "random": blocks(4, 1) | random_blocks(4, 2, seed=3) | global_tokens(range(4)),
    "two kinds of random": (
        window(2, 0)
        | random_blocks(4, 2, side="past")
        | random_blocks(2, 3, seed=5)
        | random_blocks(2, 1, side="ahead")
    )
    & causal(),
    "global": global_tokens([3]),
    "blocks and strided": blocks(8) & strided(2),
}


@pytest.fixture
def small(monkeypatch):
    """Make chunks of few queries, and many groups of them, so that short sequences are cut."""
    monkeypatch.setattr(chunk_plan, "_SIZES", (3,))
    monkeypatch.setattr(chunk_plan, "_KEY", 0)
    monkeypatch.setattr(chunked, "_ELEMENTS", 600)


def made(mechanism, **options):
    torch.manual_seed(7)
    return mechanism(heads=H, dim=D, **options).double()


def drawn(batch, queries, keys, width=D):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, H, queries, D), (batch, H, keys, D), (batch, H, keys, width)
    return [torch.randn(shape, dtype=torch.double, generator=generator, requires_grad=True) for shape in shapes]


def results(attend, backend, q, k, v, pattern):
    attend.backend = backend
    values = attend(q, k, v, pattern).values
    return [values, *torch.autograd.grad(values.square().sum(), [q, k, v, *attend.parameters()])]


def compare(attend, q, k, v, pattern):
    both = (results(attend, name, q, k, v, pattern) for name in ("reference", "chunked"))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_chunks_equal_the_reference(small, name, queries, keys):
    pattern, inputs = PATTERNS[name], drawn(1, queries, keys, width=5)
    compare(made(ScaledDotProduct), *inputs, pattern)
    compare(made(GATv2), *inputs, pattern)


@pytest.mark.parametrize("name", ["causal, window or global", "random", "dilated", "blocks around"])
def test_padding_segments_and_heads_stay_exact(small, name):
    ids = torch.arange(37).div(10, rounding_mode="floor").expand(2, -1)
    per_head = dense(torch.rand(1, H, 37, 37, generator=torch.Generator().manual_seed(1)) < 0.6)
    for other in (padding(torch.tensor([37, 12])), segments(ids), per_head, padding(torch.tensor([0, 30])) & per_head):
        compare(made(ScaledDotProduct), *drawn(2, 37, 37), PATTERNS[name] & other)
        compare(made(GAT), *drawn(2, 37, 37), PATTERNS[name] & other)


@pytest.mark.parametrize("mechanism", [ALiBi, T5Relative, SoftCapped, TopK, Dot])
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_biases_links_and_ranks_are_cut_too(small, mechanism, queries, keys):
    options = {SoftCapped: {"cap": 0.5}, TopK: {"keep": 2}}.get(mechanism, {})
    pattern = (window(3, 2) | global_tokens([1])) & padding(torch.tensor([keys, keys // 2]))
    compare(made(mechanism, **options), *drawn(2, queries, keys), pattern)


@pytest.mark.parametrize("normalize", ["softmax_plus_one", "sparsemax", "sigmoid"])
def test_normalizers(small, normalize):
    compare(made(ScaledDotProduct, normalize=normalize), *drawn(1, 20, 20), causal() & window(4, 0))


def test_the_plan_cuts_and_counts_each_key_once(small):
    attend, (q, k, v) = made(ScaledDotProduct, backend="chunked"), drawn(1, 37, 37)
    for name, pattern in PATTERNS.items():
        call = attend.read(Request(q=q, k=k, v=v, pattern=pattern))
        plan = chunk_plan.make_plan(call)
        assert plan.num * plan.stride > 1, name
        blocks_drawn = [chunk_plan.draw_blocks(plan, each, q.device) for each in plan.reach.scattered]
        i, j = chunk_plan.places(plan, blocks_drawn, q.device)
        assert i[(i >= 0) & (i < 37)].sort().values.tolist() == list(range(37))
        for row in j:
            kept = row[row >= 0]
            assert len(kept) == len(kept.unique())


def test_grouped_heads(small):
    attend, (q, _, _) = ScaledDotProduct(heads=4, dim=D).double(), drawn(2, 20, 20)
    q = torch.cat([q, q[:, :1]], 1)
    k, v = (each[:, :2] for each in drawn(2, 20, 20)[1:])
    compare_to = attend(q, k, v, causal() & window(3, 0)).values
    attend.backend = "chunked"
    torch.testing.assert_close(attend(q, k, v, causal() & window(3, 0)).values, compare_to)


def test_gradcheck(small):
    attend = made(ScaledDotProduct, backend="chunked")
    pattern = (window(1, 1) | global_tokens([4])) & padding(torch.tensor([8]))
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, pattern).values, drawn(1, 9, 9))


def test_dropout_keeps_the_mean_and_its_own_gradient(small):
    q, k, _ = drawn(4, 50, 50)
    v = torch.ones_like(k, requires_grad=True)
    for mechanism in (ScaledDotProduct, GAT):
        attend = made(mechanism, backend="chunked", dropout=0.5)
        values = attend(q, k, v, window(6, 6) | global_tokens([0])).values
        assert values.std() > 0
        assert abs(values.mean() - 1) < 0.05
        torch.testing.assert_close(torch.autograd.grad(values.sum(), v)[0].sum(), values.sum())
        ones = attend.eval()(q, k, v, window(6, 6)).values
        torch.testing.assert_close(ones, torch.ones_like(ones))


def test_rows_without_keys_and_poisoned_keys(small):
    attend = made(ScaledDotProduct, backend="chunked")
    q, k, v = drawn(2, 20, 20)
    with torch.no_grad():
        k[0, :, 10], v[0, :, 10] = float("nan"), float("inf")
    values = attend(q, k, v, window(2, 0) & padding(torch.tensor([20, 5]))).values
    assert values[0, :, 10:13].isnan().all()
    assert torch.isfinite(values[0, :, :10]).all()
    assert torch.isfinite(values[0, :, 13:]).all()
    assert not values[1, :, 7:].any()
    grads = torch.autograd.grad(values[0, :, :10].sum() + values[1].sum(), [q, k, v])
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not grads[0][1, :, 7:].any()


def test_nothing_later_or_padded_leaks(small):
    attend = made(ScaledDotProduct, backend="chunked")
    q, k, v = (each.detach() for each in drawn(1, 20, 20))
    pattern = causal() & (window(4, 4) | global_tokens([2])) & padding(torch.tensor([15]))
    before = attend(q, k, v, pattern).values
    k[:, :, 8:], v[:, :, 8:] = 5.0, -3.0
    after = attend(q, k, v, pattern).values
    torch.testing.assert_close(after[:, :, :8], before[:, :, :8], rtol=0, atol=0)
    assert not torch.allclose(after[:, :, 8:12], before[:, :, 8:12])
    k[:, :, 15:], v[:, :, 15:] = 50.0, 30.0
    torch.testing.assert_close(attend(q, k, v, pattern).values, after, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions(small, kind):
    attend, inputs = made(ScaledDotProduct), [each.detach() for each in drawn(1, 20, 20)]
    pattern = window(3, 3) | global_tokens([0])
    wanted = attend(*inputs, pattern).values
    attend.backend = "chunked"
    values = attend.to(kind)(*(each.to(kind) for each in inputs), pattern).values
    assert values.dtype == kind
    bound = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[kind]
    torch.testing.assert_close(values.double(), wanted, atol=bound, rtol=bound)


def test_it_is_chosen_where_it_pays_and_refuses_with_a_reason():
    q, k, v = (torch.zeros(1, 8, 1024, 8) for _ in range(3))

    def choice(pattern, mechanism=ScaledDotProduct, length=1024, **more):
        part = {"q": q[:, :, :length], "k": k[:, :, :length], "v": v[:, :, :length]}
        return mechanism(heads=8, dim=8).explain(Request(**part, pattern=pattern, **more))

    near = causal() & window(64, 0) & padding(torch.tensor([900]))
    assert choice(near).name == "chunked"
    assert choice(near, GATv2).name == "chunked"
    assert choice(near, need=Need(rows=[3])).name == "chunked"
    assert "masked" in choice(near, length=128).refused["chunked"]
    assert "too little" in choice(causal() & window(600, 0)).refused["chunked"]
    assert "without limit" in choice(causal()).refused["chunked"]
    assert "without limit" in choice(window(3, 0) | padding(torch.tensor([9]))).refused["chunked"]
    assert "bias" in choice(near, bias=torch.zeros(1, 1, 1, 1024)).refused["chunked"]
    assert "gradient" in choice(near, need=Need(gradient=True)).refused["chunked"]
    attend = ScaledDotProduct(heads=8, dim=8, backend="chunked")
    with pytest.raises(CapabilityError, match=r"causal\(\), looks without limit. What can: flex, sdpa, rows, ref"):
        attend(q, k, v, causal())


def test_memory_grows_with_the_length_not_with_its_square():
    """At 2^17 tokens one dense mask would take 16 GiB, so that this ends at all shows that none is made."""
    q, k, v = (torch.randn(1, 1, 1 << 17, 8, requires_grad=True) for _ in range(3))
    attend = ScaledDotProduct(heads=1, dim=8)
    values = attend(q, k, v, causal() & window(7, 0)).values
    values.sum().backward()
    last = torch.softmax((k[0, 0, -8:] @ q[0, 0, -1]) * 8**-0.5, 0) @ v[0, 0, -8:]
    torch.testing.assert_close(values[0, 0, -1], last)
