"""deformable: against loops with an interpolation of their own, under masks, at its start, and what it refuses."""

import copy
import math

import pytest
import torch
from contract_checks import filled

from toolkit.attention import Need, build
from toolkit.attention.feature_maps import reference_points
from toolkit.attention.feature_maps.deformable import Deformable
from toolkit.errors import CapabilityError, ShapeError

H, D, LEVELS, POINTS = 2, 3, 2, 3
SHAPES = ((4, 5), (2, 3))


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def made(**options):
    torch.manual_seed(1)
    return filled(Deformable(**{"heads": H, "dim": D, "levels": LEVELS, "points": POINTS, **options}))


def inputs(batch=2, length=4, shapes=SHAPES, width=H * D):
    reference = torch.rand(batch, length, len(shapes), 2, generator=torch.Generator().manual_seed(5)).double()
    maps = [drawn(batch, width, *shape, seed=7 + place) for place, shape in enumerate(shapes)]
    return drawn(batch, length, width), reference, maps


def holes(batch=2, shapes=SHAPES):
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(batch, *shape, generator=generator) < 0.6 for shape in shapes]


def interpolated(x, row, column, there=None):
    """Read a map between its places, whose middles stand at whole numbers; 0 outside. Shapes: x (D, h, w) -> (D,)."""
    top, left = math.floor(row), math.floor(column)
    total = x.new_zeros(len(x))
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2] and (there is None or there[i, j]):
                total = total + (1 - abs(row - i)) * (1 - abs(column - j)) * x[:, i, j]
    return total


def formula(attend, queries, reference, maps, masks=None):
    """Eq. 3 of the paper for every query and head, reading by reading. Shapes: -> (B, Lq, C)."""
    out = torch.zeros_like(queries)
    offsets = (queries @ attend.offset.weight.T + attend.offset.bias).unflatten(-1, (H, -1, attend.points, 2))
    scores = (queries @ attend.weight.weight.T + attend.weight.bias).unflatten(-1, (H, -1))
    for b in range(queries.shape[0]):
        values = [
            torch.einsum("oc,chw->ohw", attend.value.weight, x[b]) + attend.value.bias[:, None, None] for x in maps
        ]
        for i in range(queries.shape[1]):
            heads = []
            for h in range(H):
                weights, total = scores[b, i, h].softmax(0).unflatten(0, (-1, attend.points)), 0
                for level, value in enumerate(values):
                    height, width = value.shape[1:]
                    there = None if masks is None else masks[level][b]
                    for point in range(attend.points):
                        dx, dy = offsets[b, i, h, level, point].tolist()
                        x, y = reference[b, i, level].tolist()
                        read = interpolated(
                            value[h * D : h * D + D], y * height + dy - 0.5, x * width + dx - 0.5, there
                        )
                        total = total + weights[level, point] * read
                heads.append(total)
            out[b, i] = attend.out.weight @ torch.cat(heads) + attend.out.bias
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("levels", [1, 2])
def test_equals_the_formula(masked, levels):
    attend, shapes = made(levels=levels), SHAPES[:levels]
    queries, reference, maps = inputs(shapes=shapes)
    masks = holes(shapes=shapes) if masked else None
    wanted = formula(attend, queries, reference, maps, masks)
    torch.testing.assert_close(attend(queries, reference, maps, masks).values, wanted)


def test_weights_and_locations_reproduce_the_output():
    attend = made()
    queries, reference, maps = inputs()
    output = attend(queries, reference, maps, need=Need())
    shown = output.weights
    assert shown.values.shape == (2, H, 4, LEVELS * POINTS)
    assert shown.locations.shape == (2, H, 4, LEVELS * POINTS, 2)
    torch.testing.assert_close(shown.values.sum(-1), torch.ones(2, H, 4).double())
    read = torch.zeros(2, H, 4, D).double()
    for level, x in enumerate(maps):
        value = attend.values(x, None)
        size = torch.tensor([x.shape[3], x.shape[2]])
        for b in range(2):
            for h in range(H):
                for i in range(4):
                    for place in range(level * POINTS, (level + 1) * POINTS):
                        column, row = (shown.locations[b, h, i, place] * size - 0.5).tolist()
                        read[b, h, i] += shown.values[b, h, i, place] * interpolated(value[b, h], row, column)
    torch.testing.assert_close(attend.join(read), output.values)
    torch.testing.assert_close(attend.join(shown.applied([attend.values(x, None) for x in maps])), output.values)


def test_need_chooses_rows_and_heads_and_a_gradient():
    attend, (queries, reference, maps) = made(), inputs()
    every = attend(queries, reference, maps, need=Need(gradient=True)).weights
    some = attend(queries, reference, maps, need=Need(rows=[2, 0], heads=[1])).weights
    torch.testing.assert_close(some.values, every.values[:, [1]][:, :, [2, 0]])
    torch.testing.assert_close(some.locations, every.locations[:, [1]][:, :, [2, 0]])
    assert every.values.requires_grad
    assert every.locations.requires_grad
    assert not some.values.requires_grad
    assert not some.locations.requires_grad
    assert attend(queries, reference, maps).weights is None
    for need in (Need(received=True), Need(lse=True)):
        with pytest.raises(CapabilityError, match="to choose or to show"):
            attend(queries, reference, maps, need=need)


def test_need_asks_for_each_row_and_head_once_and_where_it_is():
    attend, given = made(), inputs()
    for need, said in (
        (Need(heads=[-1]), r"need.heads are different places from 0 to 1, but \[-1\]"),
        (Need(heads=[0, 0]), "need.heads"),
        (Need(heads=[H]), "need.heads"),
        (Need(rows=[-1]), r"deformable: need.rows are different places from 0 to 3, but \[-1\]"),
        (Need(rows=[1, 1]), "need.rows"),
        (Need(rows=torch.tensor([4])), "need.rows"),
    ):
        with pytest.raises(ShapeError, match=said):
            attend(*given, need=need)


def test_it_begins_as_the_paper_says():
    """One direction a head, the k-th point k places away, equal weights; eight heads look at the eight neighbours."""
    attend = Deformable(heads=8, dim=2, levels=2, points=3)
    queries, reference, maps = torch.randn(1, 1, 16), torch.full((1, 1, 2, 2), 0.5), [torch.randn(1, 16, 9, 9)] * 2
    shown = attend(queries, reference, maps, need=Need()).weights
    torch.testing.assert_close(shown.values, torch.full((1, 8, 1, 6), 1 / 6))
    steps = ((shown.locations[0, :, 0] - 0.5) * 9).unflatten(1, (2, 3))
    for point in range(3):
        seen = {tuple(step) for step in steps[:, :, point].round(decimals=4).flatten(0, 1).tolist()}
        far = point + 1.0
        assert {(x + 0.0, y + 0.0) for x, y in seen} == {
            (x * far, y * far) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y
        }
    assert attend.out.bias.eq(0).all()


def test_masked_places_do_not_matter():
    attend, (queries, reference, maps) = made(), inputs(3)
    masks = [torch.zeros(3, *shape, dtype=torch.bool) for shape in SHAPES]
    masks[0][0, :2, :3] = True  # of the first sample a corner of the first map, and nothing of the second
    masks[0][1], masks[1][1] = True, True
    output = attend(queries, reference, maps, masks).values
    torch.testing.assert_close(output[1:2], attend(queries[1:2], reference[1:2], [x[1:2] for x in maps]).values)
    cut = [maps[0][:1, :, :2, :3], torch.zeros(1, H * D, 2, 3).double()]
    scaled = reference[:1].clone()
    scaled[:, :, 0] *= torch.tensor([5 / 3, 4 / 2])  # the same place in a map that is cut
    hidden = [torch.ones(1, 2, 3, dtype=torch.bool), masks[1][:1]]
    torch.testing.assert_close(output[:1], attend(queries[:1], scaled, cut, hidden).values)
    assert not output[2].any()
    bad = [x.masked_fill(~mask[:, None], torch.nan).requires_grad_() for x, mask in zip(maps, masks, strict=True)]
    queries.requires_grad_()
    values = attend(queries, reference, bad, masks).values
    torch.testing.assert_close(values, output)
    leaves = [queries, *bad, *attend.parameters()]
    grads = torch.autograd.grad(values.square().sum(), leaves, retain_graph=True)
    assert all(torch.isfinite(grad).all() for grad in grads)
    empty = torch.autograd.grad(values[2].exp().sum(), leaves)
    assert not any(grad.any() for grad in empty)


def test_other_samples_do_not_matter():
    attend, (queries, reference, maps) = made(), inputs()
    alone = attend(queries[:1], reference[:1], [x[:1] for x in maps]).values
    torch.testing.assert_close(attend(queries, reference, maps).values[:1], alone)
    shared = attend(queries, reference[:1], maps).values
    torch.testing.assert_close(shared, attend(queries, reference[:1].expand(2, -1, -1, -1), maps).values)
    assert attend(queries[:, :0], reference[:, :0], maps).values.shape == (2, 0, H * D)


def test_gradients():
    attend, (queries, reference, maps) = made(points=2), inputs(1, 2, ((2, 3), (2, 2)))
    leaves = [x.requires_grad_() for x in (queries, reference, *maps)]
    masks = holes(1, ((2, 3), (2, 2)))

    def run(queries, reference, *rest):
        return attend(queries, reference, rest[:2], masks).values

    assert torch.autograd.gradcheck(run, (*leaves, *attend.parameters()))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_finds_its_place_in_large_maps(kind):
    attend = made(levels=1)
    queries, reference, maps = inputs(1, 4, ((300, 301),))
    rounded = [x.to(kind) for x in (queries, *maps)]
    low = copy.deepcopy(attend).to(kind)
    exact = copy.deepcopy(low).double()
    wanted = exact(rounded[0].double(), reference.float().double(), [rounded[1].double()]).values
    values = low(rounded[0], reference.float(), [rounded[1]]).values
    assert values.dtype == kind
    assert (values.double() - wanted).norm() < {torch.bfloat16: 0.03, torch.float16: 4e-3}.get(
        kind, 1e-4
    ) * wanted.norm()


def test_reference_points_are_the_middles_of_places():
    maps = [torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 1, 2)]
    points = reference_points(maps)
    assert points.shape == (1, 8, 2, 2)
    wanted = [(x / 3, y / 2) for y in (0.5, 1.5) for x in (0.5, 1.5, 2.5)] + [(0.25, 0.5), (0.75, 0.5)]
    for level in range(2):
        torch.testing.assert_close(points[0, :, level], torch.tensor(wanted))
    masks = [torch.ones(2, 2, 3, dtype=torch.bool), torch.ones(2, 1, 2, dtype=torch.bool)]
    torch.testing.assert_close(reference_points(maps, masks), points.expand(2, -1, -1, -1))
    masks[0][1, :, 2], masks[1][1, :, 1] = False, False  # of the second sample two columns of three, and one of two
    shared = reference_points(maps, masks)[1]
    torch.testing.assert_close(shared[0], torch.tensor([[0.5 / 3, 0.25], [0.25 / 2, 0.25]]))
    torch.testing.assert_close(shared[6], torch.tensor([[0.5 * 2 / 3, 0.5], [0.25, 0.5]]))  # half of what is there


def test_an_encoder_of_padded_maps_equals_one_of_cut_maps():
    attend = made()
    whole, cut = inputs(1)[2], [x[:, :, :h, :w] for x, (h, w) in zip(inputs(1)[2], ((2, 4), (2, 2)), strict=True)]
    masks = [torch.zeros(1, *x.shape[2:], dtype=torch.bool) for x in whole]
    for mask, x in zip(masks, cut, strict=True):
        mask[:, : x.shape[2], : x.shape[3]] = True
    rows = torch.cat([mask.flatten() for mask in masks])
    values = []
    for maps, given in ((whole, masks), (cut, None)):
        queries = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        values.append(attend(queries, reference_points(maps, given), maps, given).values[0])
    torch.testing.assert_close(values[0][rows], values[1])


def test_compiles():
    attend, (queries, reference, maps) = made(), inputs()
    torch._dynamo.reset()
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    masks = holes()
    torch.testing.assert_close(
        compiled(queries, reference, maps, masks).values, attend(queries, reference, maps, masks).values
    )


def test_equals_transformers():
    found = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    core = found.MultiScaleDeformableAttention()
    attend, (queries, reference, maps) = made(), inputs()
    output = attend(queries, reference, maps, need=Need())
    value = torch.cat([attend.values(x, None).flatten(3) for x in maps], 3).permute(0, 3, 1, 2)
    shapes = [tuple(x.shape[2:]) for x in maps]
    locations = output.weights.locations.transpose(1, 2).unflatten(3, (LEVELS, POINTS))
    weights = output.weights.values.transpose(1, 2).unflatten(3, (LEVELS, POINTS))
    starts = torch.tensor([0, 20])
    read = core(value, torch.tensor(shapes), shapes, starts, locations, weights, 64)
    torch.testing.assert_close(attend.out(read), output.values)


def test_registered_and_mistakes_say_what_would_work():
    attend = build("deformable", heads=8, dim=32)
    assert (attend.levels, attend.points, attend.value.in_features) == (4, 4, 256)
    with pytest.raises(TypeError, match=r"'deformable' wants heads="):
        build("deformable", dim=32)
    with pytest.raises(ValueError, match="at least one level and point"):
        build("deformable", heads=8, dim=32, points=0)
    attend, (queries, reference, maps) = made(), inputs()
    for given, said in (
        ((queries, reference, maps[:1]), "built for levels=2, but given 1 maps"),
        ((queries, reference, maps, [None]), "2 maps and 1 masks"),
        ((queries[..., :4], reference, maps), r"heads \* dim = 6"),
        ((queries, reference[:, :, :1], maps), "levels=2, 2"),
        ((queries, reference, [maps[0], maps[1][:1]]), "2 samples of queries but maps"),
        ((queries, reference, maps, [torch.ones(2, 4, 5), None]), "mask of booleans"),
    ):
        with pytest.raises(ShapeError, match=said):
            attend(*given)
