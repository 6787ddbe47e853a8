"""The layers around a mechanism: heads and groups, and the drop-in for torch's own module."""

import pytest
import torch
from torch import nn

from toolkit.attention import MultiHeadAttention, Need, TorchMultiheadAttention, build, causal, padding
from toolkit.errors import CapabilityError, ShapeError, UnknownNameError


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_groups_equal_one_head_at_a_time(kv_heads):
    torch.manual_seed(0)
    layer = MultiHeadAttention(dim=12, heads=6, kv_heads=kv_heads, head_dim=4, context_dim=5).double()
    x, context = drawn(2, 3, 12), drawn(2, 7, 5, seed=1)
    pattern = padding(torch.tensor([7, 4]))
    heads = []
    for head in range(6):
        rows, shared = slice(4 * head, 4 * head + 4), slice(4 * (head // (6 // kv_heads)), None)
        q = nn.functional.linear(x, layer.query.weight[rows], layer.query.bias[rows])
        k = nn.functional.linear(context, layer.key.weight[shared][:4], layer.key.bias[shared][:4])
        v = nn.functional.linear(context, layer.value.weight[shared][:4], layer.value.bias[shared][:4])
        scores = q @ k.transpose(1, 2) / 2
        scores[1, :, 4:] = -torch.inf
        heads.append(scores.softmax(-1) @ v)
    expected = torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(x, context, pattern).values, expected)


def test_projections_are_shared_as_the_mechanism_asks():
    shared = MultiHeadAttention(dim=8, heads=2, attention="gat", negative_slope=0.1)
    assert shared.query is shared.key is shared.value
    assert shared.mechanism.negative_slope == 0.1
    halfway = MultiHeadAttention(dim=8, heads=2, attention="gatv2")
    assert halfway.query is not halfway.key is halfway.value
    for layer in (shared, halfway):
        output = layer(torch.randn(1, 5, 8), pattern=causal(), need=Need(rows=[3]))
        assert output.values.shape == (1, 5, 8)
        assert output.weights.values.shape == (1, 2, 1, 5)
    with pytest.raises(ShapeError, match="kv_heads=1 must be heads=2"):
        MultiHeadAttention(dim=8, heads=2, kv_heads=1, attention="gat")


def test_a_layer_trains():
    layer = MultiHeadAttention(dim=8, heads=2, kv_heads=1)
    layer(torch.randn(2, 5, 8), pattern=causal()).values.sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in layer.parameters())


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(ShapeError, match="dim=10 is no multiple of heads=4"):
        MultiHeadAttention(dim=10, heads=4)
    with pytest.raises(ShapeError, match="kv_heads=3 does not divide heads=4"):
        MultiHeadAttention(dim=8, heads=4, kv_heads=3)
    layer = MultiHeadAttention(dim=8, heads=2)
    with pytest.raises(ShapeError, match=r"x \(batch, length, 8\), but \(2, 3, 9\)"):
        layer(torch.randn(2, 3, 9))
    with pytest.raises(TypeError, match="dropuot"):
        MultiHeadAttention(dim=8, heads=2, dropuot=0.1)
    with pytest.raises(UnknownNameError):
        MultiHeadAttention(dim=8, heads=2, attention="no_such")
    with pytest.raises(ShapeError, match="heads=3, dim=4, but the layer has heads=2"):
        MultiHeadAttention(dim=8, heads=2, attention=build("gat", heads=3, dim=4))
    with pytest.raises(TypeError, match="ready made"):
        MultiHeadAttention(dim=8, heads=2, attention=build("gat", heads=2, dim=4), dropout=0.1)


def pair(**options):
    torch.manual_seed(1)
    theirs = nn.MultiheadAttention(12, 3, dtype=torch.double, **options)
    nn.init.normal_(theirs.out_proj.bias)
    if theirs.in_proj_bias is not None:
        nn.init.normal_(theirs.in_proj_bias)
    return theirs, TorchMultiheadAttention.from_torch(theirs)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 7}])
@pytest.mark.parametrize("average", [True, False])
def test_the_drop_in_has_torchs_weights_outputs_and_gradients(batch_first, sizes, average):
    theirs, ours = pair(batch_first=batch_first, **sizes)
    shape = (4, 6) if batch_first else (6, 4)
    query = drawn(*((4, 5) if batch_first else (5, 4)), 12).requires_grad_()
    key, value = drawn(*shape, sizes.get("kdim", 12), seed=1), drawn(*shape, sizes.get("vdim", 12), seed=2)
    blocked = drawn(5, 6, seed=3) > 1
    blocked[:, 0] = False  # torch gives NaN for rows of nothing
    ignored = torch.zeros(4, 6, dtype=torch.bool)
    ignored[2, 3:] = True
    options = {"attn_mask": blocked, "key_padding_mask": ignored, "average_attn_weights": average}
    found, weights = ours(query, key, value, **options)
    expected, expected_weights = theirs(query, key, value, **options)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights, expected_weights)
    (gradient,) = torch.autograd.grad((found.square().sum() + weights.square().sum()), query)
    (reference,) = torch.autograd.grad(expected.square().sum() + expected_weights.square().sum(), query)
    torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("float_mask", [True, False])
def test_the_drop_in_reads_causal_hints_and_float_masks(float_mask):
    theirs, ours = pair(batch_first=True)
    x = drawn(2, 5, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.double)
    mask = mask if float_mask else mask == -torch.inf
    for hint in (True, False):
        found, none = ours(x, x, x, attn_mask=mask, is_causal=hint, need_weights=False)
        assert none is None
        torch.testing.assert_close(found, theirs(x, x, x, attn_mask=mask, is_causal=hint, need_weights=False)[0])
    single, weights = ours(x[0], x[0], x[0])
    torch.testing.assert_close(single, theirs(x[0], x[0], x[0])[0])
    assert weights.shape == (5, 5)
    with pytest.raises(ValueError, match="give the mask too"):
        ours(x, x, x, is_causal=True)


def test_the_meaning_of_true_is_said_and_a_row_of_nothing_is_not_nan():
    theirs, ours = pair(batch_first=True)
    other = TorchMultiheadAttention(12, 3, dtype=torch.double, batch_first=True, masks="may_look")
    other.load_state_dict(theirs.state_dict())
    x, may_look = drawn(2, 5, 12), drawn(5, 5, seed=1) > 0
    may_look[0], may_look[1] = False, True
    one, _ = ours(x, x, x, attn_mask=~may_look, need_weights=False)
    two, _ = other(x, x, x, attn_mask=may_look, need_weights=False)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one[:, 0], ours.out_proj.bias.expand(2, -1))
    with pytest.raises(TypeError, match="masks"):
        TorchMultiheadAttention(12, 3)
    with pytest.raises(ValueError, match="'blocked' or 'may_look'"):
        TorchMultiheadAttention(12, 3, masks="inverted")
    with pytest.raises(CapabilityError, match="persistent_memory"):
        TorchMultiheadAttention(12, 3, masks="blocked", add_bias_kv=True)


def test_any_mechanism_stands_in_torchs_place():
    theirs, _ = pair(batch_first=True)
    ours = TorchMultiheadAttention.from_torch(theirs, attention="gatv2", options={"negative_slope": 0.3})
    x = drawn(2, 5, 12)
    assert ours(x, x, x)[0].shape == (2, 5, 12)
    torch.testing.assert_close(ours.in_proj_weight, theirs.in_proj_weight)
    encoder = nn.TransformerEncoderLayer(12, 3, dropout=0.0, batch_first=True, dtype=torch.double).eval()
    before = encoder(x)
    encoder.self_attn = TorchMultiheadAttention.from_torch(encoder.self_attn)
    torch.testing.assert_close(encoder(x), before)
    encoder.self_attn = TorchMultiheadAttention.from_torch(theirs, attention="gatv2")
    after = encoder(x)
    with torch.no_grad():  # where torch would take its fast path past any module in that place
        torch.testing.assert_close(encoder(x), after)
    assert not torch.allclose(after, before)


def test_the_drop_in_takes_mechanisms_without_dropout_and_refuses_one_it_cannot_give():
    theirs, _ = pair(batch_first=True)
    x = drawn(2, 5, 12)
    for name in ("linear", "performer"):
        assert (
            TorchMultiheadAttention.from_torch(theirs, attention=name)(x, x, x, need_weights=False)[0].isfinite().all()
        )
    with pytest.raises(TypeError, match="dropout"):
        TorchMultiheadAttention(12, 3, dropout=0.1, masks="blocked", attention="linear")
    with pytest.raises(ValueError, match="made with another"):
        TorchMultiheadAttention(12, 3, dropout=0.1, masks="blocked", attention=build("gat", heads=3, dim=4))
    placed = TorchMultiheadAttention(12, 3, masks="blocked", attention="performer", device="meta")
    assert {buffer.device.type for buffer in placed.buffers()} == {"meta"}
    with pytest.raises(ShapeError, match="positive sizes"):
        MultiHeadAttention(dim=8, heads=0)
