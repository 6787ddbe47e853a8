"""Patterns around other patterns forward what they do not change."""

import pytest
import torch
from contract_checks import D, H, filled, qkv

from toolkit.attention import causal, dense, full, padding, to_edges
from toolkit.attention.cache import Kept
from toolkit.attention.luong import Near
from toolkit.attention.pattern import Lengths
from toolkit.attention.persistent_memory import PersistentMemory, Remembering
from toolkit.errors import ShapeError

PLACES = torch.arange(4)
AROUND = {
    "kept": lambda base: Kept(base, PLACES, 4),
    "near": lambda base: Near(base, 9, PLACES[None, None], PLACES[None, None], PLACES[None, None]),
    "remembering": lambda base: Remembering(base, 0, torch.ones(1, 1, 4, dtype=torch.bool)),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_is_not_changed_is_that_of_the_base(around):
    base = padding(torch.tensor([4, 2])) & dense(torch.rand(1, 3, 4, 4) < 0.7)
    pattern = around(base)
    assert (pattern.per_sample, pattern.per_head) == (True, True)
    assert (around(full()).per_sample, around(full()).per_head) == (False, False)
    assert torch.equal(pattern.mask(4, 4, batch=2, heads=3), base.mask(4, 4, batch=2, heads=3))
    assert torch.equal(
        pattern.mask(4, 4, batch=2, heads=3, rows=PLACES[2:3]), pattern.mask(4, 4, batch=2, heads=3)[:, :, 2:3]
    )
    with pytest.raises(ShapeError, match="the batch holds 5"):
        pattern.check(5, 3, Lengths(4, 4))
    assert to_edges(around(causal()), 4, 4).num_edges == 10
    moved = pattern.to("meta")
    held = [moved.base.parts[0].lengths, *(each for each in vars(moved).values() if isinstance(each, torch.Tensor))]
    assert {each.device.type for each in held} == {"meta"}
    assert len(held) > 1


def test_every_backend_can_ask_a_pattern_that_remembers():
    q, k, v = qkv()
    pattern = causal() & padding(torch.tensor([4, 0]))
    with torch.no_grad():
        values = [
            filled(PersistentMemory(heads=H, dim=D, backend=name))(q, k, v, pattern).values
            for name in ("reference", "flex", "rows", "sdpa")
        ]
    for other in values[1:]:
        torch.testing.assert_close(other, values[0])
