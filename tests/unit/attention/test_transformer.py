"""A transformer layer equals torch's own, decodes as it was trained, and loses nothing that its attention gives."""

import pytest
import torch
from torch import nn

from toolkit import attention
from toolkit.attention import Need, TransformerLayer, causal, padding
from toolkit.errors import CapabilityError, ShapeError


def layer(**options):
    torch.manual_seed(3)
    return TransformerLayer(**{"dim": 16, "heads": 4, "dropout": 0.0, **options}).double().eval()


def tokens(length=5, seed=0):
    return torch.randn(2, length, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def give(theirs, ours):
    """Copy the weights of an attention of ours into torch's."""
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_it_is_torchs_decoder_layer_with_the_same_weights(order, activation):
    ours = layer(cross="scaled_dot_product", order=order, activation=activation, hidden=24)
    theirs = nn.TransformerDecoderLayer(16, 4, 24, 0.0, activation, batch_first=True, norm_first=order == "pre")
    theirs = theirs.double().eval()
    give(theirs.self_attn, ours.attention)
    give(theirs.multihead_attn, ours.cross)
    theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feedforward[3].state_dict())
    for place, norm in enumerate(ours.norms, start=1):
        nn.init.normal_(norm.weight)
        getattr(theirs, f"norm{place}").load_state_dict(norm.state_dict())
    x, encoded, lengths = tokens(), tokens(7, 1), torch.tensor([7, 3])
    found = ours(x, causal(), context=encoded, context_pattern=padding(lengths)).x
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    wanted = theirs(x, encoded, tgt_mask=future, memory_key_padding_mask=torch.arange(7) >= lengths[:, None])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["scaled_dot_product", "rotary", "alibi"])
def test_step_by_step_it_gives_what_all_at_once_gives(name):
    made = layer(attention=name, cross="scaled_dot_product", kv_heads=2)
    x, encoded = tokens(), tokens(7, 1)
    whole = made(x, causal(), context=encoded).x
    with torch.no_grad():
        cache, known = made.attention.cache(batch=2, capacity=5), made.cross.project(encoded)
        for step in range(5):
            output = made(x[:, step : step + 1], causal(), context=known, state=cache)
            assert output.attention.state is cache
            torch.testing.assert_close(output.x[:, 0], whole[:, step])


@pytest.mark.parametrize("name", ["rotary", "alibi", "t5_relative", "sliding_window"])
def test_a_context_is_not_projected_once_where_single_steps_would_stand_elsewhere(name):
    with pytest.raises(CapabilityError, match="places the last query at the last key"):
        layer(cross=name).cross.project(tokens())


def test_all_that_its_attention_gives_is_handed_on():
    made = layer(cross="hard", attention="hard").train()
    output = made(tokens(), context=tokens(7, 1), need=Need(lse=True))
    for each, keys in ((output.attention, 5), (output.cross, 7)):
        assert each.weights.values.shape == (2, 4, 5, keys)
        assert each.lse.shape == each.aux["log_prob"].shape == (2, 4, 5)


def test_mechanisms_come_by_name_or_ready_made_and_wrong_words_are_told():
    made = attention.build("scaled_dot_product", heads=4, dim=4)
    assert layer(attention=made).attention.mechanism is made
    with pytest.raises(ValueError, match="knows order pre and post, but 'Pre'"):
        layer(order="Pre")
    with pytest.raises(ValueError, match="knows activation relu and gelu"):
        layer(activation="relu6")
    with pytest.raises(ShapeError, match="heads that divide dim"):
        layer(heads=3)
    with pytest.raises(ShapeError, match="a context was given"):
        layer()(tokens(), context=tokens())
    with pytest.raises(ShapeError, match="a context was not given"):
        layer(cross="dot")(tokens())
