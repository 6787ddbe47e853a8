"""FlexAttention gives what the reference gives, and is left alone where it cannot or should not run."""

import pytest
import torch

from toolkit.attention import (
    Need,
    Request,
    causal,
    dense,
    fixed,
    global_tokens,
    padding,
    random_blocks,
    strided,
    window,
)
from toolkit.attention.alibi import ALiBi
from toolkit.attention.gat import GAT
from toolkit.attention.rotary import Rotary
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.attention.soft_capped import SoftCapped
from toolkit.attention.t5_relative import T5Relative
from toolkit.errors import CapabilityError

H, D = 4, 8


def drawn(queries, keys):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, H, length, D, dtype=torch.double, generator=generator) for length in (queries, keys, keys)]


@pytest.mark.parametrize(
    ("mechanism", "options"),
    [(ScaledDotProduct, {}), (ALiBi, {}), (T5Relative, {}), (SoftCapped, {"cap": 0.5}), (Rotary, {})],
)
def test_it_equals_the_reference(mechanism, options):
    torch.manual_seed(1)
    attend, (q, k, v) = mechanism(heads=H, dim=D, **options).double(), drawn(20, 33)
    per_head = dense(torch.rand(1, H, 20, 33, generator=torch.Generator().manual_seed(2)) < 0.6)
    sparse = window(2, 1) | global_tokens([0, 3]) | random_blocks(4, 1) | fixed(5) | strided(7)
    bias = torch.randn(1, H, 20, 1, dtype=torch.double)
    cases = [(None, None), (causal(), None), (sparse & padding(torch.tensor([33, 0])) & per_head, bias)]
    with torch.no_grad():
        for pattern, added in cases:
            attend.backend = "reference"
            wanted = attend(q, k, v, pattern, bias=added).values
            attend.backend = "flex"
            torch.testing.assert_close(attend(q, k, v, pattern, bias=added, need=Need(rows=[0])).values, wanted)
    assert not wanted[1].any()  # padding leaves the second sample nothing


def test_it_refuses_with_a_reason():
    q, k, v = drawn(4, 4)
    for attend, match in (
        (ScaledDotProduct(heads=H, dim=D, backend="flex", dropout=0.1), "no dropout"),
        (ScaledDotProduct(heads=H, dim=D, backend="flex", normalize="sparsemax"), "softmax only"),
        (GAT(heads=H, dim=D, backend="flex"), "not an inner product"),
        (T5Relative(heads=H, dim=D, backend="flex"), r"no backward pass; use torch.no_grad\(\)"),
    ):
        with pytest.raises(CapabilityError, match=match):
            attend(q, k, v)
    attend = ScaledDotProduct(heads=H, dim=D, backend="flex")
    with pytest.raises(CapabilityError, match="no backward pass"):
        attend(q.requires_grad_(), k, v)
    with pytest.raises(CapabilityError, match="no gradient"):
        attend(q.detach(), k, v, need=Need(gradient=True))


def test_on_a_cpu_it_is_never_chosen():
    q = torch.zeros(1, H, 2048, D)
    choice = ScaledDotProduct(heads=H, dim=D).explain(Request(q=q, k=q, v=q, pattern=causal() & strided(3)))
    assert "only when it is asked for" in choice.refused["flex"]
