"""Positions against their formulas: rotary, ALiBi, T5's buckets, soft caps, and vectors added to tokens."""

import math

import pytest
import torch
from torch.nn import functional as F

from toolkit.attention import LearnedPositions, Need, SinusoidalPositions, build, causal, edges, padding, window
from toolkit.attention.alibi import ALiBi
from toolkit.attention.backends import chunk_plan
from toolkit.attention.rotary import Rotary
from toolkit.attention.soft_capped import SoftCapped
from toolkit.attention.t5_relative import T5Relative
from toolkit.errors import CapabilityError, ShapeError

H, D = 3, 4
SIZES = [(6, 6), (2, 7), (7, 3)]
PATTERNS = [None, causal(), causal() & padding(torch.tensor([6, 2])), window(2, 0)]


def made(mechanism, **options):
    torch.manual_seed(7)
    return mechanism(heads=H, dim=D, **options).double()


def drawn(queries, keys, batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, H, queries, D), (batch, H, keys, D), (batch, H, keys, D))
    return [torch.randn(shape, dtype=torch.double, generator=generator, requires_grad=True) for shape in shapes]


def turned(x, place, base, interleaved):
    """Multiply by R of the paper, eq. 15: blocks of [[cos, -sin], [sin, cos]] on the diagonal."""
    matrix = torch.zeros(D, D, dtype=torch.double)
    for pair in range(D // 2):
        angle = place * base ** (-2 * pair / D)
        one, two = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + D // 2)
        matrix[one, one] = matrix[two, two] = math.cos(angle)
        matrix[one, two], matrix[two, one] = -math.sin(angle), math.sin(angle)
    return matrix @ x


def rotary(q, k, i, j, h, attend):
    del h
    options = attend.base, attend.interleaved
    return turned(q, i, *options) @ turned(k, j, *options) / math.sqrt(D)


def alibi(q, k, i, j, h, attend):
    slope = [2**-4, 2**-8, 2**-2][h]  # two heads' slopes, then the first of four heads'
    return q @ k / math.sqrt(D) - slope * abs(i - j)


def t5(q, k, i, j, h, attend):
    buckets, distance = attend.buckets, i - j
    bucket = 0
    if attend.bidirectional:
        buckets //= 2
        bucket, distance = buckets * (j > i), abs(distance)
    distance, exact = max(distance, 0), buckets // 2
    if distance < exact:
        bucket += distance
    else:
        share = math.log(distance / exact) / math.log(attend.max_distance / exact)
        bucket += min(buckets - 1, exact + int(share * (buckets - exact)))
    return q @ k + attend.table[bucket, h]


def soft_cap(q, k, i, j, h, attend):
    return attend.cap * torch.tanh(q @ k / math.sqrt(D) / attend.cap)


CASES = [
    (Rotary, {"base": 100.0}, rotary),
    (Rotary, {"base": 100.0, "interleaved": True}, rotary),
    (ALiBi, {}, alibi),
    (T5Relative, {"buckets": 8, "max_distance": 6}, t5),
    (T5Relative, {"buckets": 6, "max_distance": 5, "bidirectional": False}, t5),
    (SoftCapped, {"cap": 0.5}, soft_cap),
]


@pytest.mark.parametrize(("mechanism", "options", "score"), CASES)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_every_backend_equals_the_formula(mechanism, options, score, pattern, queries, keys):
    if pattern is PATTERNS[2] and keys < 6:
        return
    attend, (q, k, v) = made(mechanism, **options), drawn(queries, keys)
    shift = keys - queries
    with torch.no_grad():
        scores = torch.tensor(
            [
                [
                    [
                        [score(q[b, h, i], k[b, h, j], i + shift, j, h, attend) for j in range(keys)]
                        for i in range(queries)
                    ]
                    for h in range(H)
                ]
                for b in range(2)
            ],
            dtype=torch.double,
        )
    mask = torch.ones(1, 1, queries, keys).bool() if pattern is None else pattern.mask(queries, keys, batch=2)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
    for backend in ("auto", "reference", "rows", *(["sdpa"] if mechanism is not SoftCapped else [])):
        attend.backend = backend
        output = attend(q, k, v, pattern, need=Need())
        torch.testing.assert_close(output.values, weights @ v)
        torch.testing.assert_close(output.weights.values, weights)


@pytest.mark.parametrize(("mechanism", "options", "score"), CASES)
def test_gradcheck(mechanism, options, score):
    attend = made(mechanism, backend="reference", **options)
    inputs = (*drawn(2, 3, batch=1), *attend.parameters())
    assert torch.autograd.gradcheck(lambda q, k, v, *_: attend(q, k, v, causal()).values, inputs)
    assert torch.autograd.gradgradcheck(lambda q, k, v, *_: attend(q, k, v, causal()).values, inputs)


@pytest.mark.parametrize(("mechanism", "options", "score"), CASES)
def test_decoding_with_cached_keys_gives_the_whole(mechanism, options, score):
    attend, (q, k, v) = made(mechanism, **options), drawn(9, 9)
    whole = attend(q, k, v, causal()).values
    for step in range(9):
        now, past = slice(step, step + 1), slice(0, step + 1)
        one = attend(q[:, :, now], k[:, :, past], v[:, :, past], causal()).values
        torch.testing.assert_close(one, whole[:, :, now])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("mechanism", "options", "score"), CASES)
def test_other_precisions(mechanism, options, score, kind):
    attend, inputs = made(mechanism, **options), [each.detach() for each in drawn(6, 6)]
    wanted = attend(*inputs, causal()).values
    bound = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 8e-3}[kind]
    for backend in ("auto", "reference"):
        attend.backend = backend
        values = attend.to(kind)(*(each.to(kind) for each in inputs), causal()).values
        assert values.dtype == kind
        torch.testing.assert_close(values.double(), wanted, atol=bound, rtol=bound)


def test_every_option_changes_something():
    q, k, v = (each * 3 for each in drawn(9, 9))

    def values(name, **options):
        torch.manual_seed(0)
        return build(name, heads=H, dim=D, **options).double()(q, k, v).values

    for name, changes in {
        "rotary": [{}, {"base": 50.0}, {"interleaved": True}, {"scale": 1.0}],
        "t5_relative": [{}, {"buckets": 6}, {"max_distance": 9}, {"bidirectional": False}, {"scale": None}],
        "soft_capped": [{}, {"cap": 1.0}, {"scale": 1.0}],
        "alibi": [{}, {"scale": 1.0}],
    }.items():
        if name == "t5_relative":
            changes = [{"buckets": 8, "max_distance": 6, **change} for change in changes]
        found = [values(name, **change) for change in changes]
        for one in range(len(found)):
            for other in range(one):
                assert not torch.allclose(found[one], found[other]), (name, changes[one], changes[other])


def test_options_that_mean_nothing_raise():
    for wrong in ({"buckets": 7}, {"buckets": 2}, {"max_distance": 8}):
        with pytest.raises(ValueError, match=r"buckets=.*max_distance=.* were given"):
            T5Relative(heads=1, dim=4, **wrong)
    with pytest.raises(ShapeError, match="even dim"):
        Rotary(heads=1, dim=3)
    with pytest.raises(ValueError, match="base > 1"):
        Rotary(heads=1, dim=4, base=0.5)
    with pytest.raises(ValueError, match="positive cap"):
        SoftCapped(heads=1, dim=4, cap=0.0)
    with pytest.raises(TypeError):
        Rotary(heads=1, dim=4, bass=3.0)
    q = torch.zeros(2, H, D)
    for mechanism in (Rotary, ALiBi, T5Relative):
        with pytest.raises(CapabilityError, match="dense"):
            mechanism(heads=H, dim=D)(q, q, q, edges(torch.tensor([[0], [1]]), 2))
    with pytest.raises(CapabilityError, match=r"not linear.*What can: flex, rows, reference"), torch.no_grad():
        SoftCapped(heads=H, dim=D, backend="sdpa")(q[None].transpose(1, 2), *(q[None].transpose(1, 2),) * 2)


def test_soft_caps_on_edges():
    attend, pattern = made(SoftCapped, cap=0.5), edges(torch.tensor([[0, 1, 2, 1], [0, 0, 1, 1]]), 3)
    x = torch.randn(3, H, D, dtype=torch.double)
    values = attend(x, x, x, pattern).values
    score = 0.5 * torch.tanh((x[0] * x[:2]).sum(-1) / 2 / 0.5)  # node 0 looks at 0 and 1
    torch.testing.assert_close(values[0], (score.softmax(0)[..., None] * x[:2]).sum(0))


def test_rotary_scores_depend_on_distance_alone_even_far_away():
    attend, need = Rotary(heads=1, dim=64), Need(rows=[2], lse=True)
    q, k = torch.randn(2, 1, 1, 1, 64).expand(-1, -1, -1, 30001, -1)
    near = attend(q[:, :, :3], k[:, :, :3], k[:, :, :3], window(2, 0), need=need).lse
    far = attend(q[:, :, -3:], k, k, window(2, 0), need=need).lse
    torch.testing.assert_close(near[..., 2], far[..., 2], atol=2e-5, rtol=0)


def test_alibi_slopes_are_the_papers():
    def slopes(heads):
        return [2 ** -float(each) for each in ALiBi(heads=heads, dim=4).exponents]

    assert slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert slopes(16) == [2 ** (-(h + 1) / 2) for h in range(16)]
    assert slopes(12) == [2.0 ** -(h + 1) for h in range(8)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert slopes(1) == [2**-8]


# The first distance of each bucket by T5's released rule, for 32 buckets up to 128:
ENCODER = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
DECODER = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87]
DECODER += [99, 113]


def test_t5_buckets_equal_the_released_rule():
    ahead = torch.arange(-140, 141)
    both, back = T5Relative(heads=1, dim=4), T5Relative(heads=1, dim=4, bidirectional=False)
    edges_of = torch.tensor(ENCODER), torch.tensor(DECODER)
    wanted = torch.bucketize(ahead.abs(), edges_of[0], right=True) - 1 + 16 * (ahead > 0)
    assert torch.equal(both.bucket(ahead), wanted)
    assert torch.equal(back.bucket(ahead), torch.bucketize((-ahead).clamp_min(0), edges_of[1], right=True) - 1)
    huggingface = pytest.importorskip("transformers.models.t5.modeling_t5")
    rule = huggingface.T5Attention._relative_position_bucket
    for buckets, farthest in ((32, 128), (64, 1000), (8, 20)):
        for bidirectional in (True, False):
            own = T5Relative(heads=1, dim=4, buckets=buckets, max_distance=farthest, bidirectional=bidirectional)
            far = torch.arange(-3000, 3001)
            assert torch.equal(own.bucket(far), rule(far, bidirectional, buckets, farthest))


def test_t5_bias_is_the_table_at_the_bucket_for_any_shape():
    attend = made(T5Relative)
    head, i, j = torch.arange(H)[None, :, None, None], torch.arange(5)[None, None, :, None], torch.arange(5)
    whole = attend.position_bias(head, i, j[None, None, None])
    for h in range(H):
        for row in range(5):
            one = attend.position_bias(torch.tensor(h), torch.tensor(row), j)
            torch.testing.assert_close(whole[0, h, row], one)


def test_positions_run_in_chunks(monkeypatch):
    monkeypatch.setattr(chunk_plan, "_SIZES", (4,))
    for mechanism in (Rotary, ALiBi, T5Relative, SoftCapped):
        attend, inputs = made(mechanism), drawn(20, 20)
        wanted = attend(*inputs, window(3, 1)).values
        attend.backend = "chunked"
        torch.testing.assert_close(attend(*inputs, window(3, 1)).values, wanted)


def test_sinusoidal_positions_equal_the_formula():
    module, x = SinusoidalPositions(dim=5, base=100.0), torch.zeros(2, 7, 5, dtype=torch.double)
    for start in (0, 3):
        added = module(x, start)
        for place in range(7):
            for feature in range(5):
                wave = math.cos if feature % 2 else math.sin
                wanted = wave((place + start) / 100.0 ** ((feature - feature % 2) / 5))
                assert added[1, place, feature] == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(module(x, 3)[:, :4], module(x)[:, 3:])
    assert not torch.allclose(module(x), SinusoidalPositions(dim=5)(x))


def test_learned_positions_are_rows_and_end():
    module, x = LearnedPositions(length=6, dim=4), torch.zeros(2, 3, 4)
    torch.testing.assert_close(module(x, 2)[1], module.weight[2:5])
    module(x).sum().backward()
    assert module.weight.grad.sum(1).tolist() == [8.0, 8.0, 8.0, 0.0, 0.0, 0.0]
    with pytest.raises(ShapeError, match=r"positions 0 to 5, but 4 to 6 were given; build it with length=7"):
        module(x, 4)
    for wrong in (module, SinusoidalPositions(dim=4)):
        with pytest.raises(ShapeError, match=r"wants x \(..., L, 4\)"):
            wrong(torch.zeros(2, 3, 5))
    for make in (lambda: LearnedPositions(length=0, dim=1), lambda: SinusoidalPositions(dim=0)):
        with pytest.raises(ValueError, match="wants a positive"):
            make()


def test_rotary_turns_like_complex_numbers():
    x = torch.randn(1, 1, 6, 8, dtype=torch.double)
    attend = Rotary(heads=1, dim=8, interleaved=True)
    angle = torch.arange(6.0).double()[:, None] * 10000.0 ** (-torch.arange(0, 8, 2).double() / 8)
    complex_x = torch.view_as_complex(x.unflatten(-1, (4, 2)))
    wanted = torch.view_as_real(complex_x * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    torch.testing.assert_close(attend(x, x, x).values, F.scaled_dot_product_attention(wanted, wanted, x))
