"""squeeze_excitation and cbam: each against its formula and known implementations, under masks; what they refuse."""

import pytest
import torch
from contract_checks import filled
from toolkit_graph.models.layer import GraphAttention
from torch.nn import functional as F

from toolkit.attention import MultiHeadAttention, Need, build
from toolkit.attention.feature_maps.cbam import CBAM
from toolkit.attention.feature_maps.squeeze_excitation import SqueezeExcitation
from toolkit.errors import CapabilityError, ShapeError

C = 6
MADE = {
    "se": lambda: SqueezeExcitation(dim=C, reduction=2),
    "se, max": lambda: SqueezeExcitation(dim=C, reduction=3, pool="max"),
    "cbam": lambda: CBAM(dim=C, reduction=2, kernel=3),
    "cbam, channel": lambda: CBAM(dim=C, reduction=2, spatial=False),
    "cbam, spatial": lambda: CBAM(dim=C, kernel=5, channel=False),
}
every = pytest.mark.parametrize("name", MADE)


def made(name):
    return filled(MADE[name]())


def drawn(batch=2, height=4, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, C, height, width, dtype=torch.double, generator=generator)


def holes(batch=2, height=4, width=5, seed=1):
    mask = torch.rand(batch, height, width, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:, 0, 0] = True
    return mask


def channel_gate(gate, sample, there):
    """The gate of channels of one sample, pooled by loops over the places that are there. Shapes: sample (C, H, W)."""
    places = [sample[:, i, j] for i, j in there.nonzero().tolist()]
    mean, peak = torch.stack(places).mean(0), torch.stack(places).max(0).values
    if isinstance(gate, SqueezeExcitation):
        hidden = F.relu(gate.squeeze.weight @ (mean if gate.pool == "average" else peak) + gate.squeeze.bias)
        return torch.sigmoid(gate.excite.weight @ hidden + gate.excite.bias)
    if gate.squeeze is None:
        return torch.ones(C).double()
    return torch.sigmoid(sum(gate.excite.weight @ F.relu(gate.squeeze.weight @ pooled) for pooled in (mean, peak)))


def place_gate(gate, refined, there):
    """The gate of places of one sample: the convolution as a sum over neighbours that are there."""
    out, reach = torch.zeros(there.shape).double(), gate.place.kernel_size[0] // 2
    for i, j in there.nonzero().tolist():
        total = gate.place.bias[0]
        for m, n in there.nonzero().tolist():
            if abs(m - i) <= reach and abs(n - j) <= reach:
                pair = torch.stack([refined[:, m, n].mean(), refined[:, m, n].max()])
                total = total + gate.place.weight[0, :, m - i + reach, n - j + reach] @ pair
        out[i, j] = torch.sigmoid(total)
    return out


@every
@pytest.mark.parametrize("masked", [False, True])
def test_gates_equal_the_formula(name, masked):
    gate, x = made(name), drawn()
    mask = holes() if masked else None
    output = gate(x, mask, need=Need())
    for b in range(2):
        there = torch.ones(4, 5, dtype=torch.bool) if mask is None else mask[b]
        channel = channel_gate(gate, x[b], there)
        wanted = x[b] * channel[:, None, None] * there
        if output.weights.channel is not None:
            torch.testing.assert_close(output.weights.channel[b], channel)
        if getattr(gate, "place", None) is not None:
            spatial = place_gate(gate, wanted, there)
            torch.testing.assert_close(output.weights.spatial[b], spatial)
            wanted = wanted * spatial
        torch.testing.assert_close(output.values[b], wanted)


@every
def test_weights_reproduce_the_output_and_carry_a_gradient_only_when_asked(name):
    gate, x, mask = made(name), drawn(), holes()
    output = gate(x, mask, need=Need())
    torch.testing.assert_close(output.weights.applied(x), output.values)
    torch.testing.assert_close(gate(x, mask).values, output.values)
    assert gate(x, mask).weights is None
    free = gate(x, mask, need=Need(gradient=True)).weights
    for shown, open_ in ((output.weights.channel, free.channel), (output.weights.spatial, free.spatial)):
        assert (shown is None) == (open_ is None)
        assert shown is None or (open_.requires_grad and not shown.requires_grad)


def test_squeeze_excitation_equals_torchvision():
    vision = pytest.importorskip("torchvision")
    theirs, ours = vision.ops.SqueezeExcitation(C, 3).double(), SqueezeExcitation(dim=C, reduction=2).double()
    with torch.no_grad():
        for mine, other in ((ours.squeeze, theirs.fc1), (ours.excite, theirs.fc2)):
            mine.weight.copy_(other.weight[:, :, 0, 0])
            mine.bias.copy_(other.bias)
    x, y = drawn().requires_grad_(), drawn().requires_grad_()
    torch.testing.assert_close(ours(x).values, theirs(y))
    ours(x).values.square().sum().backward()
    theirs(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@every
def test_masked_places_do_not_matter(name):
    gate, x = made(name), drawn(3)
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[0, :3, :2], mask[1] = True, True
    output = gate(x, mask).values
    torch.testing.assert_close(output[:1, :, :3, :2], gate(x[:1, :, :3, :2]).values)  # as if it had been cut out
    torch.testing.assert_close(output[1:2], gate(x[1:2]).values)
    assert not output[0][:, ~mask[0]].any()
    assert not output[2].any()
    bad = x.masked_fill(~mask[:, None], torch.nan).requires_grad_()
    values = gate(bad, mask).values
    torch.testing.assert_close(values, output)
    inputs = [bad, *gate.parameters()]
    grads = torch.autograd.grad(values.exp().sum(), inputs, retain_graph=True)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not grads[0][2].any()
    empty = torch.autograd.grad(values[2].exp().sum(), inputs)
    assert not any(grad.any() for grad in empty)


@every
def test_gradients_and_second_derivatives(name):
    gate, x, mask = made(name), drawn(2, 2, 3).requires_grad_(), holes(2, 2, 3)
    for chosen in (None, mask):
        inputs = (x, *gate.parameters())

        def run(x, *_, chosen=chosen):
            return gate(x, chosen).values

        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@every
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_stays_near_double(name, kind):
    gate, x, mask = made(name), drawn(2, 40, 40), holes(2, 40, 40)
    wanted = gate(x, mask).values
    values = gate.to(kind)(x.to(kind), mask).values
    assert values.dtype == kind
    assert (values.double() - wanted).norm() < {torch.bfloat16: 0.02, torch.float16: 3e-3}.get(
        kind, 1e-6
    ) * wanted.norm()


def test_sums_of_many_halves_do_not_overflow():
    x = torch.full((1, C, 200, 200), 30.0, dtype=torch.float16)
    for name in ("se", "cbam"):
        gate = MADE[name]().half()
        for mask in (None, torch.ones(1, 200, 200, dtype=torch.bool)):
            assert torch.isfinite(gate(x, mask, need=Need()).weights.channel).all()


@every
def test_training_is_batch_independent_and_compiles(name):
    gate, x, mask = made(name).train(), drawn(3), holes(3)
    torch.testing.assert_close(gate(x, mask).values[:1], gate(x[:1], mask[:1]).values)
    torch._dynamo.reset()
    compiled = torch.compile(gate, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, mask).values, gate(x, mask).values)


def test_every_option_changes_something():
    x = drawn().float()
    torch.manual_seed(0)
    assert SqueezeExcitation(dim=C, reduction=3).squeeze.out_features == 2
    assert SqueezeExcitation(dim=C).squeeze.out_features == 1
    assert CBAM(dim=C, reduction=3).squeeze.out_features == 2
    assert CBAM(dim=C, kernel=3).place.kernel_size == (3, 3)
    average, peak = SqueezeExcitation(dim=C), SqueezeExcitation(dim=C, pool="max")
    peak.load_state_dict(average.state_dict())
    assert not torch.allclose(average(x).values, peak(x).values)


def test_registered_under_their_names_and_mistakes_say_what_would_work():
    assert build("squeeze_excitation", dim=64, reduction=8).squeeze.out_features == 8
    assert build("cbam", dim=64, heads=1).place.kernel_size == (7, 7)
    with pytest.raises(CapabilityError, match=r"layout map, feature maps .* but heads=8 was given"):
        build("squeeze_excitation", dim=64, heads=8)
    with pytest.raises(CapabilityError, match="'cbam' runs on the layout map, but a layer of tokens on dense"):
        MultiHeadAttention(dim=4, heads=1, attention="cbam")
    with pytest.raises(CapabilityError, match="'deformable' does not run on edges, which a graph layer needs"):
        GraphAttention(in_features=4, mechanism=build("deformable", heads=2, dim=4))
    with pytest.raises(TypeError, match=r"'gat' wants heads="):
        build("gat", dim=4)
    for options, said in (
        ({"kernel": 4}, "odd kernel"),
        ({"channel": False, "spatial": False}, "leave one of them on"),
        ({"reduction": 0}, "reduction of 1 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            CBAM(dim=C, **options)
    with pytest.raises(ValueError, match="average or max, but 'mean'"):
        SqueezeExcitation(dim=C, pool="mean")
    gate = SqueezeExcitation(dim=C)
    for x, mask, said in (
        (torch.randn(2, 5, 4, 4), None, r"feature maps \(batch, 6, height, width\)"),
        (torch.randn(2, C, 0, 4), None, "at least one place"),
        (torch.randn(2, C, 4, 4), torch.ones(2, 4, 4), "mask of booleans"),
        (torch.randn(2, C, 4, 4), torch.ones(2, 1, 4, 4).bool(), "mask of booleans"),
    ):
        with pytest.raises(ShapeError, match=said):
            gate(x, mask)
    for need in (Need(rows=[0]), Need(heads=[0]), Need(received=True), Need(lse=True)):
        with pytest.raises(CapabilityError, match="to choose or to show"):
            gate(torch.randn(2, C, 4, 4), need=need)
