"""Memory hops against their formula, on sequences and on graphs."""

import pytest
import torch
from contract_checks import (
    D,
    H,
    check_dense,
    check_empty_rows,
    check_gradients,
    check_half,
    check_poison,
    check_weights,
    filled,
    qkv,
)

from toolkit.attention import Need, build, causal, dense, to_edges
from toolkit.attention.memory_hops import MemoryHops
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import ShapeError


def hops(**options):
    return filled(MemoryHops(heads=H, dim=D, **options))


@pytest.mark.parametrize("tie", ["layerwise", "adjacent"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layout", ["dense", "edges"])
def test_hops_equal_the_formula(tie, residual, count, layout):
    attend = hops(tie=tie, residual=residual, hops=count, scale=0.7)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[2] = False
    q, k, v = qkv(batch=1)
    if layout == "dense":
        output = attend(q, k, v, dense(mask), need=Need())
        values = output.values[0]
    else:
        output = attend(*(x[0].transpose(0, 1) for x in (q, k, v)), to_edges(dense(mask), 4, 6), need=Need())
        values = output.values.transpose(0, 1)
    for h in range(H):
        u, keys, worth = q[0, h], k[0, h], v[0, h]
        for hop in range(count):
            if hop and tie == "adjacent":
                keys, worth = worth, v[0, h] @ attend.embeddings[hop - 1, h]
            p = (0.7 * u @ keys.T).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
            if layout == "dense":
                torch.testing.assert_close(output.aux["hop_weights"][hop, 0, h], p)
            read = p @ worth
            u = (u @ attend.transition[h] if hasattr(attend, "transition") else u) + read
        wanted = (u if residual else read).clone()
        wanted[2] = 0
        torch.testing.assert_close(values[h], wanted)
    assert len(output.aux["hop_weights"]) == count
    shown = output.aux["hop_weights"][-1]
    torch.testing.assert_close(output.weights.values, shown)


@pytest.mark.parametrize("tie", ["layerwise", "adjacent"])
def test_hops_keep_the_contract(tie):
    for residual in (False, True):
        attend = hops(tie=tie, residual=residual)
        check_dense(attend)
        check_empty_rows(attend)
        check_poison(attend)
        check_half(attend)
        check_gradients(attend, causal(), qkv(2, 3, batch=1, grad=True))
        assert attend.capabilities.weights == "proxy"
    one = hops(tie=tie, hops=1)
    assert one.capabilities.weights == "exact"
    check_weights(one)
    plain = ScaledDotProduct(heads=H, dim=D, scale=1.0)
    torch.testing.assert_close(one(*qkv()).values, plain(*qkv()).values)


def test_hops_take_grouped_heads_and_check_options():
    attend, (q, k, v) = hops(tie="adjacent"), qkv()
    grouped = attend(q, k[:, :1], v[:, :1]).values
    torch.testing.assert_close(grouped, attend(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v)).values)
    with pytest.raises(ShapeError, match="of size 4"):
        attend(*qkv(width=5))
    for options in ({"hops": 0}, {"tie": "layer"}):
        with pytest.raises(ValueError, match="memory_hops wants"):
            MemoryHops(heads=1, dim=2, **options)
    assert build("memory_hops", heads=1, dim=2, hops=2).transition.shape == (1, 2, 2)
    assert torch.equal(MemoryHops(heads=1, dim=2).transition, torch.eye(2)[None])
    assert not attend(q, k, v).aux
