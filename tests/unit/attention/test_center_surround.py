"""center_surround: against loops, what pops out, and what is hidden or uniform."""

import pytest
import torch

from toolkit.attention import build
from toolkit.attention.feature_maps import center_surround
from toolkit.errors import ShapeError


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def at(x, there, i, j):
    """The value and the weight of a place, 0 and 0 outside of the map. Shapes: x (h, w)."""
    inside = 0 <= i < x.shape[0] and 0 <= j < x.shape[1]
    return (x[i, j].item(), there[i, j].item()) if inside and there[i, j] else (0.0, 0.0)


def mixed(x, there, shares):
    """Average places by shares, over those that are there."""
    total = mass = 0.0
    for i, j, share in shares:
        value, weight = at(x, there, i, j)
        total, mass = total + share * weight * value, mass + share * weight
    return (total / mass if mass else 0.0), float(mass > 0)


def halved(x, there):
    taps, size = (1, 3, 3, 1), ((x.shape[0] + 1) // 2, (x.shape[1] + 1) // 2)
    out, kept = torch.zeros(size).double(), torch.zeros(size).double()
    for i in range(size[0]):
        for j in range(size[1]):
            shares = [(2 * i - 1 + a, 2 * j - 1 + b, taps[a] * taps[b]) for a in range(4) for b in range(4)]
            out[i, j], kept[i, j] = mixed(x, there, shares)
    return out, kept


def doubled(x, there, size):
    out, kept = torch.zeros(size).double(), torch.zeros(size).double()

    def near(place, length):  # a fine place stands a quarter from one coarse place and three quarters from another
        low, share = (place - 1) // 2, 0.25 if place % 2 == 0 else 0.75
        return [(min(max(low, 0), length - 1), share), (min(max(low + 1, 0), length - 1), 1 - share)]

    for i in range(size[0]):
        for j in range(size[1]):
            pairs = [(m, n, a * b) for m, a in near(i, x.shape[0]) for n, b in near(j, x.shape[1])]
            out[i, j], kept[i, j] = mixed(x, there, pairs)
    return out, kept


def promoted(x, there):
    values = x[there > 0]
    if not len(values) or values.max() == values.min():
        return torch.zeros_like(x)
    x = torch.where(there > 0, (x - values.min()) / (values.max() - values.min()), 0.0)
    joined, left = set(), [divmod(int(x.argmax()), x.shape[1])]
    while left:  # the highest, and what is joined to it by places of half its height
        joined.add(place := left.pop())
        left += [near for near in around(x, *place) if x[near] >= 0.5 and near not in joined]
    peaks = []
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            before = [x[near] for near in around(x, i, j) if near < (i, j)]  # of equal ones the first counts
            after = [x[near] for near in around(x, i, j) if near > (i, j)]
            tops = all(x[i, j] > near for near in before) and all(x[i, j] >= near for near in after)
            if x[i, j] >= 0.1 and tops and (i, j) not in joined:
                peaks.append(x[i, j].item())
    return x * (1 - (sum(peaks) / len(peaks) if peaks else 0)) ** 2


def around(x, i, j):
    """The places beside one, eight within a map."""
    rows, columns = range(max(0, i - 1), min(i + 2, x.shape[0])), range(max(0, j - 1), min(j + 2, x.shape[1]))
    return [(m, n) for m in rows for n in columns if (m, n) != (i, j)]


def formula(maps, there, centers, deltas):
    """The saliency of one sample, channel by channel and place by place. Shapes: maps (C, H, W) -> (H, W)."""
    channels = []
    for x in maps:
        levels = [(torch.where(there > 0, x, 0.0), there)]
        for _ in range(max(centers) + max(deltas)):
            levels.append(halved(*levels[-1]))
        total = torch.zeros_like(x)
        for center in centers:
            for delta in deltas:
                coarse, kept = levels[center + delta]
                for level in range(center + delta - 1, center - 1, -1):
                    coarse, kept = doubled(coarse, kept, levels[level][0].shape)
                contrast, kept = promoted((levels[center][0] - coarse).abs(), levels[center][1]), levels[center][1]
                for level in range(center - 1, -1, -1):
                    contrast, kept = doubled(contrast, kept, levels[level][0].shape)
                total = total + contrast
        channels.append(promoted(total, there))
    return torch.stack(channels).mean(0) * there


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("centers", "deltas"), [((0, 1), (1, 2)), ((0,), (1,)), ((1,), (2,))])
def test_equals_the_formula(masked, centers, deltas):
    x = drawn(2, 2, 9, 12)
    mask = torch.rand(2, 9, 12, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
    found = center_surround(x, mask, centers=centers, deltas=deltas)
    for b in range(2):
        there = torch.ones(9, 12).double() if mask is None else mask[b].double()
        torch.testing.assert_close(found[b], formula(x[b], there, centers, deltas))


def test_one_that_differs_pops_out_and_many_do_not():
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 5, 9] = 1.0
    alone = center_surround(x)[0]
    assert divmod(int(alone.argmax()), 16) == (5, 9)
    assert alone.max() > 0.9
    x[0, 0, 1::4, 1::4] = 1.0
    assert center_surround(x)[0].max() < 0.5 * alone.max()
    y = torch.ones(1, 1, 16, 16)
    y[0, 0, 5, 9] = 0.0  # a gap stands out as a spot does
    torch.testing.assert_close(center_surround(y)[0], alone)


@pytest.mark.parametrize("size", [2, 3, 4, 6, 8])
def test_one_blob_stands_out_wherever_it_is(size):
    """Also in the very middle, where its corners are equally high, and halved maps have four equal places."""
    inside = []
    for corner in range(10, 18):
        x = torch.zeros(1, 1, 32, 32)
        x[0, 0, corner : corner + size, corner : corner + size] = 1.0
        found = center_surround(x)[0]
        assert found.max() == 1
        inside.append(found[corner : corner + size, corner : corner + size].mean().item())
    assert min(inside) > 0.75
    assert max(inside) - min(inside) < 0.1


def test_equal_blobs_apart_hold_each_other_down_whatever_rounding_says():
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, 2:6, 2:6] = x[0, 0, 20:24, 20:24] = 1.0
    assert center_surround(x).max() < 0.2
    for much in (0.1, 1000.0):  # adds rounding, other each time
        torch.testing.assert_close(center_surround(x + much), center_surround(x), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_give_numbers_between(kind):
    x = torch.randint(0, 200, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(kind)
    x[0, :, 2:9, 3] = 0
    found = center_surround(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, center_surround(x.float()))
    assert found.any()


def test_uniform_maps_are_0_and_scale_and_shift_do_not_matter():
    assert not center_surround(torch.full((2, 3, 9, 8), 7.0)).any()
    x = drawn(2, 3, 9, 8)
    found = center_surround(x)
    torch.testing.assert_close(center_surround(3 * x + 5), found)
    assert found.min() >= 0
    assert found.max() <= 1
    torch.testing.assert_close(center_surround(x[:1]), found[:1])
    torch.testing.assert_close(center_surround(x.flip(3)), found.flip(2))


def test_hidden_places_do_not_matter():
    x, mask = drawn(3, 2, 9, 8), torch.rand(3, 9, 8, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[2] = False
    found = center_surround(x, mask)
    assert not found.masked_fill(mask, 0).any()
    assert not found[2].any()
    assert found[:2].any()
    bad = x.masked_fill(~mask[:, None], torch.nan).requires_grad_()
    values = center_surround(bad, mask)
    torch.testing.assert_close(values, found)
    values.sum().backward()
    assert torch.isfinite(bad.grad).all()
    assert not bad.grad.masked_fill(mask[:, None], 0).any()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision(kind):
    x = drawn(1, 2, 16, 16).to(kind)
    found = center_surround(x)
    assert found.dtype == kind
    torch.testing.assert_close(found.double(), center_surround(x.double()), atol=0.01, rtol=0.01)


def test_it_is_a_bias_of_any_mechanism():
    x = torch.zeros(1, 4, 8, 8)
    x[0, :, 2, 6] = 1.0
    keys = torch.zeros(1, 2, 64, 3)
    bias = 10 * center_surround(x).flatten(1)[:, None, None]
    for name in ("scaled_dot_product", "additive"):
        values = build(name, heads=2, dim=3)(keys[:, :, :1], keys, torch.eye(64).expand(1, 2, 64, 64), bias=bias).values
        assert int(values[0, 0, 0].argmax()) == 2 * 8 + 6


def test_mistakes_say_what_would_work():
    for x, options, said in (
        (torch.zeros(1, 1, 7, 9), {}, "halves a map 3 times, so it wants 8 places each way"),
        (torch.zeros(1, 8, 8), {}, r"feature maps \(batch"),
        (torch.zeros(1, 1, 8, 8), {"deltas": (0,)}, "deltas from 1"),
        (torch.zeros(1, 1, 8, 8), {"centers": ()}, "centers from 0"),
        (torch.zeros(1, 1, 8, 8), {"mask": torch.ones(1, 8, 8)}, "mask of booleans"),
    ):
        with pytest.raises(ShapeError, match=said):
            center_surround(x, **options)
