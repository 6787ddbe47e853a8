"""Mechanisms that look at few keys, against masks and ranks written out pair by pair."""

import copy
import io
import math

import pytest
import torch

from toolkit.attention import KVCache, Need, Request, build, causal, dense, edges, full, padding, to_edges
from toolkit.attention.backends import chunk_plan
from toolkit.attention.block_sparse import BigBird, BlockLocal
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.attention.sliding_window import SlidingWindow
from toolkit.attention.sparse_transformer import FixedSparse, StridedSparse
from toolkit.attention.top_k import TopK
from toolkit.errors import CapabilityError

H, D = 2, 4
SIZES = [(12, 12), (3, 13), (13, 5)]
RULES = [
    (SlidingWindow, {"window": 2}, lambda i, j: abs(i - j) <= 2),
    (SlidingWindow, {"window": 1, "global_tokens": (0, 5)}, lambda i, j: abs(i - j) <= 1 or {i, j} & {0, 5}),
    (SlidingWindow, {"window": 2, "dilation": 3}, lambda i, j: abs(i - j) in (0, 3, 6)),
    (BlockLocal, {"block": 4}, lambda i, j: i // 4 == j // 4),
    (BlockLocal, {"block": 2, "around": 1}, lambda i, j: abs(i // 2 - j // 2) <= 1),
    (StridedSparse, {"stride": 4}, lambda i, j: abs(i - j) <= 4 or (i - j) % 4 == 0),
    (StridedSparse, {"stride": 3, "part": "near"}, lambda i, j: abs(i - j) <= 3),
    (StridedSparse, {"stride": 3, "part": "far"}, lambda i, j: (i - j) % 3 == 0),
    (FixedSparse, {"stride": 4, "summary": 2}, lambda i, j: i // 4 == j // 4 or j % 4 in (2, 3)),
    (FixedSparse, {"stride": 4, "summary": 1, "part": "far"}, lambda i, j: j % 4 == 3),
    (BigBird, {"block": 2, "around": 1, "global_blocks": 1, "random": 0}, lambda i, j: near_or_global(i, j)),
]
NARROW = [*RULES, (BigBird, {"block": 2, "random": 1, "around": 0, "global_blocks": 1}, None)]


def near_or_global(i, j):
    return abs(i // 2 - j // 2) <= 1 or 0 <= i < 2 or j < 2


def made(mechanism, **options):
    torch.manual_seed(7)
    return mechanism(heads=H, dim=D, **options).double()


def drawn(queries, keys, batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, H, queries, D), (batch, H, keys, D), (batch, H, keys, 3))
    return [torch.randn(shape, dtype=torch.double, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("mechanism", "options", "rule"), RULES)
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_own_pattern_is_the_rule_and_narrows_the_callers(mechanism, options, rule, queries, keys, monkeypatch):
    monkeypatch.setattr(chunk_plan, "_SIZES", (4,))
    attend, (q, k, v) = made(mechanism, **options), drawn(queries, keys)
    shift = keys - queries
    own = torch.tensor([[bool(rule(i + shift, j)) for j in range(keys)] for i in range(queries)])
    for given in (None, causal(), causal() & padding(torch.tensor([keys, 4]))):
        mask = own[None, None] if given is None else own & given.mask(queries, keys, batch=2)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(D)).masked_fill(~mask, -1e9)
        weights = scores.softmax(-1) * mask.any(-1, keepdim=True)
        output = attend(q, k, v, given, need=Need())
        torch.testing.assert_close(output.values, weights @ v)
        torch.testing.assert_close(output.weights.values, weights)
        if attend.explain(Request(q=q, k=k, v=v, pattern=given)).refused["chunked"].startswith("so few"):
            attend.backend = "chunked"
            torch.testing.assert_close(attend(q, k, v, given).values, weights @ v)
            attend.backend = "auto"


@pytest.mark.parametrize(("mechanism", "options", "rule"), NARROW)
def test_decoding_with_cached_keys_gives_the_whole(mechanism, options, rule):
    attend, (q, k, v) = made(mechanism, **options), drawn(12, 12)
    whole = attend(q, k, v, causal()).values
    for step in range(12):
        now, past = slice(step, step + 1), slice(0, step + 1)
        one = attend(q[:, :, now], k[:, :, past], v[:, :, past], causal()).values
        torch.testing.assert_close(one, whole[:, :, now])


@pytest.mark.parametrize(("mechanism", "options", "rule"), NARROW)
def test_gradcheck_and_no_edges(mechanism, options, rule):
    attend, inputs = made(mechanism, **options), drawn(4, 5, batch=1)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, causal()).values, inputs)
    x = torch.zeros(2, H, D, dtype=torch.double)
    with pytest.raises(CapabilityError, match="runs on dense"):
        attend(x, x, x, edges(torch.tensor([[0], [1]]), 2))


def test_big_bird_sees_near_global_and_drawn_blocks():
    attend, (q, k, v) = made(BigBird, block=2, random=2), drawn(40, 40)
    for given in (None, causal()):
        seen = attend(q, k, v, given, need=Need()).weights.values[0, 0] > 0
        pairs = seen.unflatten(0, (20, 2)).unflatten(2, (20, 2)).any(3).any(1)
        for block in range(4, 20):
            near = {other for other in range(20) if abs(other - block) <= 1 and (given is None or other <= block)}
            others = set(pairs[block].nonzero()[:, 0].tolist()) - near - {0, 1}
            earlier = min(1, block - 1 - 2)
            later = 0 if given is not None else min(1, max(0, 20 - block - 2))
            assert (sum(other < block for other in others), sum(other > block for other in others)) == (earlier, later)
    assert torch.equal(attend(q, k, v).values, made(BigBird, block=2, random=2)(q, k, v).values)


@pytest.mark.parametrize("random", [1, 2, 5])
def test_earlier_blocks_are_the_same_however_the_mask_is_written_and_long(random):
    attend, (q, k, v) = made(BigBird, block=2, random=random, global_blocks=1), drawn(40, 40)
    whole = attend(q, k, v, causal()).values
    torch.testing.assert_close(attend(q, k, v, dense(torch.ones(40, 40).tril().bool())).values, whole)
    seen = attend(q, k, v, need=Need()).weights.values > 0
    assert torch.equal(attend(q, k, v, causal(), need=Need()).weights.values > 0, seen.tril())
    for length in (7, 18, 39):
        part = (x[:, :, :length] for x in (q, k, v))
        values = attend(*part, dense(torch.ones(length, length).tril().bool())).values
        torch.testing.assert_close(values, whole[:, :, :length])


EVICTED = [*NARROW, (BigBird, {"block": 2, "around": 0, "global_blocks": 1, "random": 3}, None)]


@pytest.mark.parametrize("pattern", [causal(), None, full() & causal()], ids=["causal", "none", "composed"])
@pytest.mark.parametrize("evict", ["oldest", "sinks"])
@pytest.mark.parametrize(("mechanism", "options", "rule"), EVICTED)
def test_own_patterns_count_from_the_start_after_eviction(mechanism, options, rule, evict, pattern):
    attend, (q, k, v) = made(mechanism, **options), drawn(13, 13)
    kind = {"evict": "sinks", "sinks": 2} if evict == "sinks" else {"evict": evict}
    cache = KVCache(batch=2, heads=H, dim=D, value_dim=3, capacity=7, dtype=torch.double, **kind)
    for step in range(13):
        now, past = slice(step, step + 1), slice(0, step + 1)
        with torch.no_grad():
            found = attend(q[:, :, now], *cache.append(k[:, :, now], v[:, :, now]), cache.pattern(pattern)).values
            kept = torch.zeros(1, step + 1, dtype=torch.bool)
            kept[:, cache.positions] = True
            wanted = attend(q[:, :, now], k[:, :, past], v[:, :, past], dense(kept)).values
        torch.testing.assert_close(found, wanted)


def test_every_option_changes_something():
    inputs = drawn(24, 24)

    def values(name, **options):
        return build(name, heads=H, dim=D, **options)(*(each.float() for each in inputs)).values

    bird = {"block": 2, "around": 0, "global_blocks": 1, "random": 1}
    for name, base, changes in (
        ("sliding_window", {"window": 3}, [{"window": 2}, {"dilation": 2}, {"global_tokens": (4,)}]),
        ("block_local", {"block": 3}, [{"block": 4}, {"around": 1}]),
        ("strided", {"stride": 4}, [{"stride": 3}, {"part": "near"}, {"part": "far"}]),
        ("fixed", {"stride": 6, "summary": 1}, [{"stride": 4}, {"summary": 2}, {"part": "near"}, {"part": "far"}]),
        ("big_bird", bird, [{"block": 3}, {"around": 1}, {"global_blocks": 2}, {"random": 2}, {"seed": 1}]),
        ("top_k", {"keep": 3}, [{"keep": 4}]),
    ):
        for change in changes:
            assert not torch.allclose(values(name, **base), values(name, **{**base, **change})), (name, change)


def test_options_that_mean_nothing_raise():
    for mechanism, wrong in (
        (SlidingWindow, {"window": -1}),
        (SlidingWindow, {"dilation": 0}),
        (SlidingWindow, {"global_tokens": (-1,)}),
        (BlockLocal, {"block": 0}),
        (FixedSparse, {"stride": 4, "summary": 5}),
        (StridedSparse, {"part": "nearest"}),
        (TopK, {"keep": 0}),
    ):
        with pytest.raises(ValueError, match="given"):
            mechanism(heads=1, dim=4, **wrong)
    with pytest.raises(TypeError):
        SlidingWindow(heads=1, dim=4, windows=3)


def ranked(scores, keep):
    """Keep the largest scores of one row, ties with the least included."""
    least = sorted(scores.tolist(), reverse=True)[min(keep, len(scores)) - 1]
    return scores.masked_fill(scores < least, -torch.inf)


@pytest.mark.parametrize("keep", [1, 3, 20])
@pytest.mark.parametrize("backend", ["auto", "reference", "rows", "chunked"])
def test_top_k_on_dense_rows_keeps_the_largest_and_ties(keep, backend):
    attend, (q, k, v) = made(TopK, keep=keep, backend=backend), drawn(6, 8)
    with torch.no_grad():
        k[:, :, 3] = k[:, :, 1]
        q[0, :, 2] = 0  # all scores of this row are equal
    mask = torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[4] = False
    pattern = dense(mask)
    if backend == "chunked":
        mask = mask & build("sliding_window", heads=H, dim=D, window=2).own_pattern(None).mask(6, 8)[0, 0]
        pattern = pattern & build("sliding_window", heads=H, dim=D, window=2).own_pattern(None)
    scores = q @ k.transpose(-1, -2) / 2
    weights = torch.zeros_like(scores)
    for b in range(2):
        for h in range(H):
            for i in range(6):
                if mask[i].any():
                    weights[b, h, i, mask[i]] = ranked(scores[b, h, i, mask[i]], keep).softmax(0)
    output = attend(q, k, v, pattern, need=Need(lse=True))
    torch.testing.assert_close(output.values, weights @ v)
    torch.testing.assert_close(output.weights.values, weights)
    for one, other in zip(
        torch.autograd.grad(output.values.square().sum(), [q, k, v]),
        torch.autograd.grad((weights @ v).square().sum(), [q, k, v]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_top_k_on_edges_equals_dense_rows(keep):
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[3] = False
    q, k, v = (each[0] for each in drawn(7, 9))
    with torch.no_grad():
        k[:, 4] = k[:, 2]
    attend, listed = made(TopK, keep=keep), to_edges(dense(mask), 7, 9)
    shuffled = torch.randperm(listed.num_edges, generator=torch.Generator().manual_seed(2))
    sparse = attend(*(each.transpose(0, 1) for each in (q, k, v)), edges(listed.index[:, shuffled], 7, 9)).values
    full = attend(q[None], k[None], v[None], dense(mask)).values[0].transpose(0, 1)
    torch.testing.assert_close(sparse, full)
    nothing = edges(torch.empty(2, 0, dtype=torch.long), 7, 9)
    assert not attend(*(each.transpose(0, 1) for each in (q, k, v)), nothing).values.any()


def test_top_k_of_all_keys_is_scaled_dot_product_and_other_backends_are_refused():
    q, k, v = drawn(5, 5)
    torch.testing.assert_close(made(TopK, keep=5)(q, k, v).values, made(ScaledDotProduct)(q, k, v).values)
    for backend in ("sdpa", "flex"):
        with pytest.raises(CapabilityError, match="ranked"):
            made(TopK, backend=backend)(q, k, v)
    torch.save(made(TopK, keep=2), io.BytesIO())  # spawned processes get it pickled
    again = copy.deepcopy(made(TopK, keep=2))
    torch.testing.assert_close(again(q, k, v).values, made(TopK, keep=2)(q, k, v).values)
    assert torch.autograd.gradcheck(lambda q, k, v: made(TopK, keep=2)(q, k, v).values, drawn(3, 4, batch=1))
