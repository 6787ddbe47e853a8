"""Decoding through a cache gives what attending to everything gives, evictions and patterns included."""

import pytest
import torch
from contract_checks import D, H, drawn, filled

from toolkit.attention import KVCache, causal, dense, edges, full, global_tokens, padding, segments, strided, window
from toolkit.attention.luong import Luong
from toolkit.attention.persistent_memory import PersistentMemory
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, ShapeError

LENGTH = 13


def sequence(length=LENGTH, batch=2):
    return [drawn(batch, H, length, D, seed=place) for place in range(3)]


def cache(capacity=LENGTH, **options):
    return KVCache(batch=2, heads=H, dim=D, capacity=capacity, dtype=torch.double, **options)


def decoded(attend, kept, pattern, parts, tensors=None):
    """Decode a sequence in parts through a cache; `pattern` speaks of all tokens since the start."""
    rows = []
    for q, k, v in zip(*(x.split(parts, 2) for x in tensors or sequence()), strict=True):
        keys, values = kept.append(k, v)
        now = pattern(kept.total) if callable(pattern) else pattern
        rows.append(attend(q, keys, values, kept.pattern(now)).values)
    return torch.cat(rows, 2)


PARTS = [[1] * LENGTH, [5] + [1] * 8, [4, 4, 4, 1], [LENGTH]]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(
    "pattern", [causal(), window(3, 0), strided(3) & causal(), window(2, 0) | (global_tokens([0]) & causal())]
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_without_eviction_it_is_the_whole(parts, pattern, backend):
    attend = ScaledDotProduct(heads=H, dim=D, backend=backend)
    torch.testing.assert_close(decoded(attend, cache(), pattern, parts), attend(*sequence(), pattern).values)


@pytest.mark.parametrize("parts", [[1] * LENGTH, [2] * 6 + [1], [3, 3, 3, 3, 1]])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_evicting_the_oldest_changes_nothing_that_the_pattern_still_sees(parts, backend):
    attend, kept = ScaledDotProduct(heads=H, dim=D, backend=backend), cache(7, evict="oldest")
    pattern = window(7 - parts[0], 0)
    torch.testing.assert_close(decoded(attend, kept, pattern, parts), attend(*sequence(), pattern).values)
    assert kept.length == 7
    assert kept.total == LENGTH
    assert kept.positions.tolist() == list(range(6, 13))
    torch.testing.assert_close(kept.key[:, :, :7], sequence()[1][:, :, 6:])


@pytest.mark.parametrize("parts", [[1] * LENGTH, [3, 3, 3, 3, 1], [5, 2, 2, 2, 2]])
def test_sinks_stay_and_see_the_same_as_their_mask(parts):
    attend, kept = ScaledDotProduct(heads=H, dim=D), cache(7, evict="sinks", sinks=2)
    recent = 5 - max(parts[1:])
    pattern = causal() & (window(recent, 0) | global_tokens([0, 1]))
    torch.testing.assert_close(decoded(attend, kept, pattern, parts), attend(*sequence(), pattern).values)
    assert kept.positions.tolist() == [0, 1, 8, 9, 10, 11, 12]
    wanted = sequence()[2][:, :, [0, 1, 8, 9, 10, 11, 12]]
    torch.testing.assert_close(kept.value[:, :, :7], wanted)


def test_one_at_a_time_sinks_are_a_window_of_the_capacity():
    attend, kept = ScaledDotProduct(heads=H, dim=D), cache(7, evict="sinks", sinks=2)
    wanted = attend(*sequence(), causal() & (window(4, 0) | global_tokens([0, 1]))).values
    torch.testing.assert_close(decoded(attend, kept, causal(), [1] * LENGTH), wanted)


@pytest.mark.parametrize("evict", ["oldest", "sinks"])
def test_patterns_of_samples_stay_right_after_eviction(evict):
    attend = ScaledDotProduct(heads=H, dim=D)
    ids = torch.tensor([[0] * 5 + [1] * 8, [0] * 9 + [1] * 4])
    table = torch.rand(2, H, LENGTH, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.6
    start = torch.arange(LENGTH)[None] >= torch.tensor([3, 0])[:, None]  # prompts padded on the left
    wholes = {
        "segments": (lambda total: segments(ids[:, total - 1 : total], ids[:, :total]) & causal()),
        "dense": (lambda total: dense(table[:, :, total - 1 : total, :total]) & causal()),
        "left padding": (lambda total: dense(start[:, None, None, :total]) & causal()),
        "padding": (lambda total: padding(torch.tensor([total, min(total, 4)]))),
    }
    q, k, v = sequence()
    for pattern in wholes.values():
        kept = cache(7, evict=evict, sinks=2 if evict == "sinks" else None)
        found = decoded(attend, kept, pattern, [1] * LENGTH)
        for total in (5, 8, LENGTH):
            here = torch.arange(total)
            near = (here >= total - 7) if evict == "oldest" else (here < 2) | (here >= total - 5)
            seen = pattern(total) & dense(near[None, None, None] | torch.tensor(total <= 7))
            wanted = attend(q[:, :, total - 1 : total], k[:, :, :total], v[:, :, :total], seen).values
            torch.testing.assert_close(found[:, :, total - 1 : total], wanted)


def test_other_mechanisms_take_kept_patterns():
    for attend in (
        filled(PersistentMemory(heads=H, dim=D)),
        filled(Luong(heads=H, dim=D, local="predictive", window=20)),
    ):
        kept, (q, k, v) = cache(7, evict="oldest"), sequence()
        for step in range(LENGTH):
            keys, values = kept.append(k[:, :, step : step + 1], v[:, :, step : step + 1])
        found = attend(q[:, :, -1:], keys, values, kept.pattern(window(5, 0)))
        wanted = attend(q[:, :, -1:], k[:, :, -7:], v[:, :, -7:], window(5, 0))
        torch.testing.assert_close(found.values, wanted.values)


def test_reset_and_reorder():
    kept, (_, k, v) = cache(7, evict="oldest"), sequence()
    kept.append(k[:, :, :5], v[:, :, :5])
    kept.reorder(torch.tensor([1, 1]))
    torch.testing.assert_close(kept.key[:, :, :5], k[[1, 1], :, :5])
    kept.reset()
    assert (kept.length, kept.total) == (0, 0)
    keys, _ = kept.append(k[:, :, :2], v[:, :, :2])
    assert torch.equal(keys, k[:, :, :2])
    assert kept.positions.tolist() == [0, 1]
    kept.reorder(torch.tensor([1]))  # one sample goes on alone
    assert torch.equal(kept.append(k[1:, :, 2:3], v[1:, :, 2:3])[0], k[1:, :, :3])
    with pytest.raises(ShapeError, match="one sample or more"):
        kept.reorder(torch.arange(0))


def test_nothing_is_allocated_as_it_fills():
    kept, (_, k, v) = cache(7, evict="sinks", sinks=1), sequence()
    at = kept.key.data_ptr(), kept.value.data_ptr()
    for step in range(LENGTH):
        keys, _ = kept.append(k[:, :, step : step + 1], v[:, :, step : step + 1])
        assert keys.data_ptr() == at[0]
    assert at == (kept.key.data_ptr(), kept.value.data_ptr())


def test_patterns_that_need_no_change_get_none():
    kept, (_, k, v) = cache(7, evict="oldest"), sequence()
    kept.append(k[:, :, :7], v[:, :, :7])
    pattern = causal()
    assert kept.pattern(pattern) is pattern
    assert kept.pattern(None) is None
    kept.append(k[:, :, 7:8], v[:, :, 7:8])
    assert kept.pattern(pattern) is not pattern
    assert kept.pattern(None).mask(1, 7).all()
    assert kept.pattern(full()).mask(1, 7).all()
    old = kept.pattern(pattern)
    assert old.to("cpu").positions.tolist() == list(range(1, 8))
    with pytest.raises(ShapeError, match="ask the cache again"):
        old.mask(1, 8)
    with pytest.raises(CapabilityError, match="edges"):
        kept.pattern(edges(torch.zeros(2, 1).long(), 8))


def test_what_does_not_fit_raises():
    _, k, v = sequence()
    full_one = cache(5)
    full_one.append(k[:, :, :5], v[:, :, :5])
    with pytest.raises(ShapeError, match=r"5 of 5 tokens are kept and 1 were given.*evict='oldest'"):
        full_one.append(k[:, :, :1], v[:, :, :1])
    kept = cache(6, evict="sinks", sinks=2)
    with pytest.raises(ShapeError, match="in parts"):
        kept.append(k[:, :, :7], v[:, :, :7])
    kept.append(k[:, :, :3], v[:, :, :3])
    with pytest.raises(ShapeError, match="in parts"):
        kept.append(k[:, :, :5], v[:, :, :5])
    with pytest.raises(ShapeError, match="takes k of shape"):
        kept.append(k[:1], v[:1])
    with pytest.raises(ShapeError, match=r"torch.float64 on cpu, but k is torch.float32"):
        kept.append(k.float(), v.float())
    with pytest.raises(CapabilityError, match=r"torch.no_grad\(\)"):
        kept.append(k[:, :, :1].clone().requires_grad_(), v[:, :, :1])
    with torch.no_grad():
        kept.append(k[:, :, :1].clone().requires_grad_(), v[:, :, :1])
    for options in ({"evict": "newest"}, {"capacity": 0}, {"evict": "sinks", "sinks": 8}, {"value_dim": 0}):
        with pytest.raises(ValueError, match="KVCache"):
            KVCache(**{"batch": 1, "heads": 1, "dim": 2, "capacity": 8, **options})


@pytest.mark.parametrize("evict", ["none", "oldest"])
def test_sinks_that_nothing_keeps_are_refused(evict):
    with pytest.raises(ValueError, match=rf"sinks=2 with evict='sinks' only, but evict='{evict}'"):
        cache(7, evict=evict, sinks=2)
    assert cache(7, evict=evict).sinks == 0
    assert cache(7, evict="sinks").sinks == 4
    with pytest.raises(ValueError, match="fewer sinks than its capacity of 4, but sinks=4"):
        cache(4, evict="sinks")
