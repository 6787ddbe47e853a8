"""Patterns against a brute-force reading of what they say."""

import pytest
import torch

from toolkit import attention
from toolkit.attention import (
    blocks,
    causal,
    dense,
    dilated,
    edges,
    fixed,
    from_additive,
    from_hugging_face,
    from_multihead,
    full,
    global_tokens,
    padding,
    random_blocks,
    segments,
    strided,
    to_edges,
    window,
)
from toolkit.attention.pattern import Lengths, describe
from toolkit.errors import CapabilityError, ShapeError

SIZES = [(5, 5), (3, 7), (7, 3), (1, 4)]
RULES = {
    "causal": (causal(), lambda i, j: j <= i),
    "window": (window(2, 1), lambda i, j: i - 2 <= j <= i + 1),
    "window_left": (window(1, None), lambda i, j: j >= i - 1),
    "blocks": (blocks(3), lambda i, j: i // 3 == j // 3),
    "strided": (strided(3), lambda i, j: (i - j) % 3 == 0),
    "global_tokens": (global_tokens([0, 2]), lambda i, j: i in (0, 2) or j in (0, 2)),
    "blocks_around": (blocks(2, 1), lambda i, j: abs(i // 2 - j // 2) <= 1),
    "dilated": (dilated(2, 1, 2), lambda i, j: j - i in (-4, -2, 0, 2)),
    "fixed": (fixed(3, 2), lambda i, j: j % 3 in (1, 2)),
    "full": (full(), lambda i, j: True),
    "both": (causal() & strided(2), lambda i, j: j <= i and (i - j) % 2 == 0),
    "either": (window(0, 0) | global_tokens([1]), lambda i, j: i == j or 1 in (i, j)),
    "nested": ((causal() | blocks(2)) & window(3, 3), lambda i, j: (j <= i or i // 2 == j // 2) and abs(i - j) <= 3),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_mask_equals_the_rule_bottom_right_aligned(name, queries, keys):
    pattern, rule = RULES[name]
    shift = keys - queries
    wanted = [[bool(rule(i + shift, j)) for j in range(keys)] for i in range(queries)]
    assert pattern.mask(queries, keys)[0, 0].tolist() == wanted
    rows = torch.tensor([queries - 1, 0])
    assert pattern.mask(queries, keys, rows=rows)[0, 0].tolist() == [wanted[-1], wanted[0]]


def test_sample_dependent_patterns():
    ids = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
    mask = (padding(torch.tensor([3, 4])) & segments(ids)).mask(4, 4, batch=2)
    assert mask.shape == (2, 1, 4, 4)
    for b in range(2):
        for i in range(4):
            for j in range(4):
                assert mask[b, 0, i, j] == (j < (3, 4)[b] and ids[b, i] == ids[b, j])
    assert not padding(torch.tensor([0])).mask(2, 2).any()


def drawn(pattern, length):
    """The blocks of keys that each block of two queries looks at."""
    mask = pattern.mask(length, length)[0, 0]
    assert torch.equal(mask[::2], mask[1::2])
    assert torch.equal(mask[:, ::2], mask[:, 1::2])
    return [row.nonzero()[:, 0].tolist() for row in mask[::2, ::2]]


def test_random_blocks_are_drawn_without_replacement_from_where_they_may():
    found = drawn(random_blocks(2, 3, seed=4, skip=1, apart=1), 24)
    for block, chosen in enumerate(found):
        assert len(chosen) == 3
        assert all(other >= 1 and abs(other - block) > 1 for other in chosen)
    assert found == drawn(random_blocks(2, 3, seed=4, skip=1, apart=1), 24)
    assert found != drawn(random_blocks(2, 3, seed=5, skip=1, apart=1), 24)
    assert drawn(random_blocks(2, 9), 8) == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]  # all there are


def test_random_blocks_of_the_past_stay_when_the_sequence_grows():
    short, long = (drawn(random_blocks(2, 2, side="past"), length) for length in (20, 60))
    assert short == long[:10]
    assert short[0] == []
    assert short[1] == [0]
    assert all(max(chosen) < block for block, chosen in enumerate(long) if chosen)


def test_random_blocks_are_drawn_evenly():
    seen = torch.zeros(16)
    for seed in range(200):
        for chosen in drawn(random_blocks(2, 2, seed=seed), 32):
            seen[chosen] += 1
    assert seen.min() > 330  # 400 are expected of each, with a standard deviation near 19
    assert seen.max() < 470


def test_reach_bounds_what_is_allowed():
    generator = torch.Generator().manual_seed(0)
    leaves = [window(2, 1), causal(), blocks(3), strided(2), global_tokens([1]), fixed(4), dilated(1, 1, 3), full()]
    for _ in range(200):
        a, b, c = (leaves[int(n)] for n in torch.randint(len(leaves), (3,), generator=generator))
        for pattern in ((a & b) | c, (a | b) & c):
            mask, reach = pattern.mask(9, 11)[0, 0], pattern.reach(Lengths(9, 11))
            for i, j in mask.nonzero().tolist():
                place = i + 2
                first, last = (edge // reach.grain * reach.grain for edge in (place, place + reach.grain))
                near = reach.left is None or j >= first - reach.left
                near &= reach.right is None or j < last + reach.right
                near &= place == j if reach.stride == 0 and reach.grain == 1 else (place - j) % (reach.stride or 1) == 0
                assert near or j in reach.columns or place in reach.rows


@pytest.mark.parametrize(
    ("pattern", "queries", "keys", "batch"),
    [
        (padding(torch.tensor([3, 4])), 4, 4, 3),
        (padding(torch.tensor([5])), 4, 4, 1),
        (segments(torch.zeros(2, 4, dtype=torch.long)), 4, 5, 2),
        (dense(torch.ones(3, 3, dtype=torch.bool)), 4, 3, 1),
        (edges(torch.tensor([[0], [1]]), 2), 3, 2, 1),
    ],
)
def test_patterns_made_for_other_sizes_raise(pattern, queries, keys, batch):
    with pytest.raises(ShapeError):
        pattern.mask(queries, keys, batch=batch)


def test_options_that_mean_nothing_raise():
    for make in (
        lambda: window(-1, 0),
        lambda: blocks(0),
        lambda: blocks(2, -1),
        lambda: strided(0),
        lambda: global_tokens([-1]),
        lambda: dilated(1, 1, 0),
        lambda: fixed(0),
        lambda: fixed(4, 5),
        lambda: random_blocks(0, 1),
        lambda: random_blocks(1, 0),
        lambda: random_blocks(1, 1, skip=-1),
        lambda: random_blocks(1, 1, apart=-1),
        lambda: random_blocks(1, 1, side="before"),
    ):
        with pytest.raises(ValueError, match="was given"):
            make()
    for make in (
        lambda: padding(torch.tensor([1.0])),
        lambda: dense(torch.ones(2, 2)),
        lambda: padding(torch.ones(1, 1)),
    ):
        with pytest.raises(ShapeError):
            make()


def test_importers_agree_with_the_modules_they_name():
    blocked = torch.tensor([[False, True, True], [False, False, True], [False, False, False]])
    padded = torch.tensor([[False, False, True], [False, False, False]])
    pattern, bias = from_multihead(blocked, padded)
    assert bias is None
    wanted = ~blocked[None, None] & ~padded[:, None, None]
    assert torch.equal(pattern.mask(3, 3, batch=2), wanted.expand(2, 1, 3, 3))
    per_head = torch.rand(4, 3, 3) < 0.5
    assert torch.equal(from_multihead(per_head, heads=2)[0].mask(3, 3, batch=2, heads=2), ~per_head.view(2, 2, 3, 3))

    added = torch.tensor([[0.5, -torch.inf], [torch.finfo(torch.float32).min, -3.0]])
    pattern, bias = from_additive(added)
    assert pattern.mask(2, 2)[0, 0].tolist() == [[True, False], [False, True]]
    assert bias.tolist() == [[0.5, 0.0], [0.0, -3.0]]

    keep, none = from_hugging_face(torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert none is None
    assert keep.mask(2, 3, batch=2)[:, 0].tolist() == [[[True, True, False]] * 2, [[True] * 3] * 2]
    with pytest.raises(ShapeError):
        from_additive(blocked)


def test_edges_sorted_both_ways_point_back_to_the_callers_order():
    index = torch.randint(0, 9, (2, 60), generator=torch.Generator().manual_seed(0))
    index[1] %= 7
    pattern = edges(index, 7, 9)
    for order, own, other in ((pattern.by_target, index[1], index[0]), (pattern.by_source, index[0], index[1])):
        assert torch.equal(own[order.perm], own.sort(stable=True).values)
        assert torch.equal(order.near.long(), own[order.perm])
        assert torch.equal(order.far.long(), other[order.perm])
        assert torch.equal(pattern.by_target.perm[order.place], order.perm)
        for node in range(len(order.pointer) - 1):
            assert (own == node).sum() == order.pointer[node + 1] - order.pointer[node] == order.count[node]
        spread, heads = order.spread(3), 3
        for node in range(len(order.count)):
            for head in range(heads):
                bag = slice(spread.pointer[node * heads + head], spread.pointer[node * heads + head + 1])
                mine = order.perm[order.near == node]
                assert torch.equal(spread.column[bag].long(), other[mine] * heads + head)
                assert torch.equal(pattern.by_target.perm[spread.pick[bag] // heads], mine)
                assert (spread.pick[bag] % heads == head).all()


def test_edges_narrowed_by_a_pattern_keep_their_order():
    index = torch.tensor([[3, 0, 2, 1, 2], [1, 2, 0, 1, 3]])
    for narrowed in (edges(index, 4) & causal(), causal() & edges(index, 4)):
        assert narrowed.index.tolist() == [[0, 1, 2], [2, 1, 3]]
    for other in (padding(torch.tensor([2])), edges(index, 4)):
        with pytest.raises(CapabilityError, match="one edge list"):
            edges(index, 4) & other


def test_edges_and_masks_convert_both_ways():
    mask = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    listed = to_edges(dense(mask), 6, 4)
    assert torch.equal(listed.mask(6, 4)[0, 0], mask)
    assert torch.equal((listed | window(0, 0)).mask(6, 4)[0, 0], mask | window(0, 0).mask(6, 4)[0, 0])
    with pytest.raises(CapabilityError, match="repeated"):
        edges(torch.tensor([[0, 0], [1, 1]]), 2).mask(2, 2)
    with pytest.raises(CapabilityError, match="one for all"):
        to_edges(padding(torch.tensor([1])), 2, 2)


@pytest.mark.parametrize("index", [torch.tensor([[0], [2]]), torch.tensor([[5], [0]]), torch.tensor([[-1], [0]])])
def test_edges_to_nodes_that_do_not_exist_raise(index):
    with pytest.raises(ShapeError, match="edges names"):
        edges(index, 2, 3)
    with pytest.raises(ShapeError, match=r"\(2, E\)"):
        edges(index[0], 2)


def test_a_pattern_is_frozen_and_moves_with_its_cache():
    pattern = edges(torch.tensor([[0], [1]]), 2)
    with pytest.raises(AttributeError):
        pattern.num_targets = 3
    assert pattern.to("cpu") is pattern
    meta = pattern.to("meta")
    assert meta.index.device.type == "meta"
    assert pattern.to("meta") is meta
    moved = (padding(torch.tensor([1])) & causal()).to("meta")
    assert moved.parts[0].lengths.device.type == "meta"


def test_require_names_what_would_work():
    from toolkit.attention.gat import GAT
    from toolkit.attention.scaled_dot_product import ScaledDotProduct

    narrow = attention.Capabilities(
        layouts=frozenset({"dense"}), causal=False, cost="L", paper="none", equation="none", weights="none"
    )
    known = {"gat": GAT.capabilities, "scaled_dot_product": ScaledDotProduct.capabilities}
    attention.require(known["gat"], "gat", known, layouts="edges", weights="exact")
    with pytest.raises(CapabilityError, match=r"'narrow' does not support layouts='edges', causal=True.*gat, scaled"):
        attention.require(narrow, "narrow", known, layouts="edges", causal=True)
    with pytest.raises(CapabilityError, match="No registered"):
        attention.require(narrow, "narrow", {}, weights="exact")
    with pytest.raises(ValueError, match="no capability"):
        attention.require(narrow, "narrow", known, colour="red")


def test_indices_of_edges_and_heads_do_not_overflow_for_many_nodes_at_the_far_end():
    many = 2**30
    order = edges(torch.tensor([[many - 1, 5], [0, 0]]), 1, many).by_target
    assert order.near.dtype == torch.int32
    assert order.spread(4).column.tolist() == [
        (many - 1) * 4 + h if e == 0 else 20 + h for h in range(4) for e in (0, 1)
    ]


def test_errors_call_patterns_what_a_caller_calls_them():
    assert describe(causal()) == "causal()"
    assert describe(causal() & window(256, 0)) == "(causal()) & (window(256, 0))"
    assert describe(None) == "none"
