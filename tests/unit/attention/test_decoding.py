"""A layer with a cache: token by token it gives what one call on the whole gives, in every mechanism that can."""

import copy

import pytest
import torch
from contract_checks import drawn, filled

from toolkit.attention import KVCache, MultiHeadAttention, Need, causal, dense, global_tokens, padding, window
from toolkit.errors import CapabilityError, ShapeError

LENGTH, DIM, HEADS = 11, 16, 4
SINGLY = [1] * LENGTH


def layer(attention="scaled_dot_product", **options):
    return filled(MultiHeadAttention(dim=DIM, heads=HEADS, attention=attention, **options)).eval()


def tokens(length=LENGTH, batch=2, width=DIM):
    return drawn(batch, length, width, seed=3)


@torch.no_grad()
def decoded(attend, kept, parts, pattern=None, x=None, **more):
    """Decode in parts; `pattern` speaks of all tokens since the start."""
    rows, total = [], 0
    for part in (tokens() if x is None else x).split(parts, 1):
        total += part.shape[1]
        now = pattern(total) if callable(pattern) else pattern
        output = attend(part, pattern=now, state=kept, **more)
        assert output.state is kept
        rows.append(output.values)
    return torch.cat(rows, 1)


MECHANISMS = [
    ("scaled_dot_product", {}),
    ("scaled_dot_product", {"normalize": "sparsemax"}),
    ("alibi", {}),
    ("rotary", {}),
    ("rotary", {"interleaved": True}),
    ("t5_relative", {}),
    ("soft_capped", {"cap": 0.5}),
    ("sliding_window", {"window": 2}),
    ("sliding_window", {"window": 2, "global_tokens": (0,)}),
    ("block_local", {}),
    ("strided", {}),
    ("top_k", {"keep": 3}),
    ("differential", {"layer": 2}),
    ("differential", {"score": "rotary", "norm": "none"}),
    ("talking_heads", {}),
    ("additive", {}),
    ("gatv2", {}),
    ("cosine", {}),
]


@pytest.mark.parametrize(("name", "options"), MECHANISMS)
@pytest.mark.parametrize("parts", [SINGLY, [4, 3] + [1] * 4])
def test_decoding_is_the_whole(name, options, parts):
    attend = layer(name, **options)
    whole = attend(tokens(), pattern=causal()).values
    kept = attend.cache(batch=2, capacity=LENGTH)
    torch.testing.assert_close(decoded(attend, kept, parts, causal()), whole)
    assert (kept.length, kept.total) == (LENGTH, LENGTH)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("name", ["scaled_dot_product", "rotary", "alibi"])
def test_grouped_heads_are_cached_as_they_are(kv_heads, name):
    attend = layer(name, kv_heads=kv_heads)
    kept = attend.cache(batch=2, capacity=LENGTH)
    assert kept.key.shape == (2, kv_heads, LENGTH, DIM // HEADS)
    torch.testing.assert_close(decoded(attend, kept, SINGLY, causal()), attend(tokens(), pattern=causal()).values)


def test_shared_projections_are_cached_too():
    attend = layer("gat")
    kept = attend.cache(batch=2, capacity=LENGTH)
    torch.testing.assert_close(decoded(attend, kept, SINGLY, causal()), attend(tokens(), pattern=causal()).values)


def test_prompts_of_different_lengths_are_padded_on_the_left():
    attend = layer()
    start = torch.arange(LENGTH)[None] >= torch.tensor([3, 0])[:, None]
    kept = attend.cache(batch=2, capacity=LENGTH)
    found = decoded(attend, kept, [5] + [1] * 6, lambda total: causal() & dense(start[:, None, None, :total]))
    whole = attend(tokens(), pattern=causal() & dense(start[:, None, None])).values
    torch.testing.assert_close(found, whole)
    alone = attend(tokens()[:1, 3:], pattern=causal()).values
    torch.testing.assert_close(found[:1, 3:], alone)


def test_evictions_are_asked_of_the_pattern():
    attend, x = layer(), tokens()
    oldest = attend.cache(batch=2, capacity=5, evict="oldest")
    torch.testing.assert_close(decoded(attend, oldest, SINGLY, causal()), attend(x, pattern=window(4, 0)).values)
    sinks = attend.cache(batch=2, capacity=5, evict="sinks", sinks=2)
    wanted = attend(x, pattern=causal() & (window(2, 0) | global_tokens([0, 1]))).values
    torch.testing.assert_close(decoded(attend, sinks, SINGLY, causal()), wanted)
    near = layer("sliding_window", window=2, global_tokens=(0,))
    kept = near.cache(batch=2, capacity=5, evict="sinks", sinks=1)
    torch.testing.assert_close(decoded(near, kept, SINGLY, causal()), near(x, pattern=causal()).values)
    assert kept.positions.tolist() == [0, 7, 8, 9, 10]


@pytest.mark.parametrize("name", ["rotary", "alibi"])
def test_after_evicting_the_oldest_distances_stay(name):
    attend = layer(name)
    kept = attend.cache(batch=2, capacity=5, evict="oldest")
    wanted = attend(tokens(), pattern=window(4, 0)).values
    torch.testing.assert_close(decoded(attend, kept, SINGLY, causal()), wanted)


def test_weights_belong_to_the_kept_keys():
    attend = layer()
    kept = attend.cache(batch=2, capacity=5, evict="oldest")
    decoded(attend, kept, [1] * 8, causal(), tokens()[:, :8])
    with torch.no_grad():
        output = attend(tokens()[:, 8:9], pattern=causal(), state=kept, need=Need())
        whole = attend(tokens()[:, :9], pattern=window(4, 0), need=Need(rows=[8])).weights.values
    assert kept.positions.tolist() == [4, 5, 6, 7, 8]
    torch.testing.assert_close(output.weights.values, whole[..., 4:])


def test_a_context_is_projected_once():
    attend = layer(context_dim=5, kv_heads=2)
    context, x = drawn(2, 7, 5, seed=8), tokens()
    pattern = padding(torch.tensor([7, 4]))
    whole = attend(x, context, pattern).values
    calls = []
    attend.key.register_forward_hook(lambda *_: calls.append(1))
    known = attend.project(context)
    assert known.k.shape == (2, 2, 7, DIM // HEADS)
    rows = [attend(part, known, pattern).values for part in x.split(1, 1)]
    torch.testing.assert_close(torch.cat(rows, 1), whole)
    assert len(calls) == 1
    order = torch.tensor([1, 1, 0])
    torch.testing.assert_close(
        attend(x[order], known.reorder(order), padding(torch.tensor([4, 4, 7]))).values, whole[order]
    )
    whole = attend(x, known, pattern).values.sum()
    assert torch.autograd.grad(whole, attend.key.weight)[0].any()  # as good for training as for decoding


def test_shared_projections_of_a_context():
    attend = layer("gat")
    context = tokens(6)
    known = attend.project(context)
    assert known.v is known.k
    torch.testing.assert_close(attend(tokens(), known).values, attend(tokens(), context).values)
    assert (moved := known.reorder(torch.tensor([1, 0]))).v is moved.k


def test_an_encoder_and_a_decoder_token_by_token():
    """Self-attention with a cache and cross-attention with a projected context, as a translator decodes."""
    own, cross = layer("rotary"), layer()
    encoded, x, lengths = drawn(2, 6, DIM, seed=9), tokens(), padding(torch.tensor([6, 3]))
    inner = own(x, pattern=causal()).values
    whole = cross(inner, encoded, lengths).values
    with torch.no_grad():
        kept, known, rows = own.cache(batch=2, capacity=LENGTH), cross.project(encoded), []
        for step in range(LENGTH):
            state = own(x[:, step : step + 1], pattern=causal(), state=kept)
            rows.append(cross(state.values, known, lengths).values)
    torch.testing.assert_close(torch.cat(rows, 1), whole)


def test_a_context_that_grows_is_appended():
    attend, context, x = layer(), drawn(2, 6, DIM, seed=8), tokens(2)
    kept = attend.cache(batch=2, capacity=6)
    with torch.no_grad():
        first = attend(x, context[:, :4], state=kept).values
        second = attend(x, context[:, 4:], state=kept).values
    torch.testing.assert_close(first, attend(x, context[:, :4]).values)
    torch.testing.assert_close(second, attend(x, context).values)


def test_beams_are_reordered_together():
    attend, x = layer("rotary"), tokens()
    kept = attend.cache(batch=2, capacity=LENGTH)
    decoded(attend, kept, [1] * 5, causal(), x[:, :5])
    kept.reorder(torch.tensor([1, 1]))
    found = decoded(attend, kept, [1] * 6, causal(), x[:, 5:])
    whole = attend(torch.cat([x[[1, 1], :5], x[:, 5:]], 1), pattern=causal()).values
    torch.testing.assert_close(found, whole[:, 5:])


@pytest.mark.parametrize("name", ["linear", "performer"])
def test_a_state_of_its_own_goes_through_unchanged(name):
    torch.manual_seed(0)
    attend = MultiHeadAttention(dim=DIM, heads=HEADS, attention=name).double().eval()
    whole, state, rows = attend(tokens(), pattern=causal()).values, None, []
    for part in tokens().split(1, 1):
        output = attend(part, pattern=causal(), state=state)
        state = output.state
        assert not isinstance(state, KVCache)
        rows.append(output.values)
    torch.testing.assert_close(torch.cat(rows, 1), whole)


def test_location_aware_goes_on_from_where_it_looked():
    attend, context, x = layer("location_aware", width=3, channels=2), drawn(2, 6, DIM, seed=8), tokens(4)
    known, state, rows = attend.project(context), None, []
    for part in x.split(1, 1):
        output = attend(part, known, state=state)
        state = output.state
        rows.append(output.values)
    torch.testing.assert_close(torch.cat(rows, 1), attend(x, context).values)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("linear", {}, r"linear keeps a state of its own \(keys\).*state=None"),
        ("location_aware", {"width": 3}, r"\(queries\).*all keys so far as context"),
        ("external_memory", {}, r"\(segments\)"),
    ],
)
def test_mechanisms_with_a_state_take_no_cache(name, options, match):
    attend = MultiHeadAttention(dim=DIM, heads=HEADS, attention=name, **options)
    with pytest.raises(CapabilityError, match=match):
        attend.cache(batch=1, capacity=4)
    kept = KVCache(batch=1, heads=HEADS, dim=DIM // HEADS, capacity=4)
    with pytest.raises(CapabilityError, match=match):
        attend(torch.zeros(1, 1, DIM), state=kept)
    assert kept.length == 0


def test_what_does_not_fit_is_told():
    attend, other = layer(), layer()
    known = attend.project(tokens())
    with pytest.raises(ShapeError, match="projected by another layer"):
        other(tokens(), known)
    with pytest.raises(ShapeError, match="projected by another layer"):
        copy.deepcopy(attend)(tokens(), known)
    kept = attend.cache(batch=2, capacity=3)
    with pytest.raises(CapabilityError, match="projected context is whole"):
        attend(tokens(), known, state=kept)
    with pytest.raises(ShapeError, match=r"context \(batch, length, 16\), but \(2, 4, 5\)"):
        attend.project(drawn(2, 4, 5))
    with pytest.raises(CapabilityError, match=r"torch.no_grad\(\)"):
        attend(tokens(1), state=kept)
    with torch.no_grad(), pytest.raises(ShapeError, match="the cache is full"):
        decoded(attend, kept, SINGLY, causal())


def test_a_cache_has_the_layers_type_and_size():
    attend = MultiHeadAttention(dim=DIM, heads=HEADS, kv_heads=2).to(torch.bfloat16)
    kept = attend.cache(batch=3, capacity=7, evict="sinks", sinks=1)
    assert (kept.key.shape, kept.key.dtype, kept.sinks) == ((3, 2, 7, 4), torch.bfloat16, 1)
    assert attend.cache(batch=1, capacity=2, dtype=torch.float16).key.dtype == torch.float16
    plain = MultiHeadAttention(dim=DIM, heads=HEADS).eval()
    x = tokens(3).float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        kept = plain.cache(batch=2, capacity=3)
        assert kept.key.dtype == torch.bfloat16
        found = decoded(plain, kept, [1] * 3, causal(), x)
        torch.testing.assert_close(found, plain(x, pattern=causal()).values, atol=0.02, rtol=0.02)
