"""Every normaliser against its definition, on dense rows and on edges alike."""

import numpy as np
import pytest
import torch

from toolkit.attention import Need, edges
from toolkit.attention.normalizers import NORMALIZERS, DenseRows, EdgeRows
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.errors import CapabilityError, UnknownNameError


def sorted_sparsemax(z):
    """Algorithm 1 of arXiv:1602.02068: sort, find the support, shift."""
    ordered = np.sort(z)[::-1]
    total = np.cumsum(ordered)
    size = np.arange(1, len(z) + 1)
    support = size[1 + size * ordered > total][-1]
    return np.maximum(z - (total[support - 1] - 1) / support, 0)


def sorted_entmax15(z):
    """Algorithm 2 of arXiv:1905.05702: for each support size the threshold in closed form."""
    half = z / 2
    ordered = np.sort(half)[::-1]
    for size in range(len(z), 0, -1):
        top = ordered[:size]
        room = (1 - size * top.var()) / size
        if room >= 0 and (tau := top.mean() - np.sqrt(room)) <= top[-1]:
            return np.maximum(half - tau, 0) ** 2
    raise AssertionError("a support of one always fits")


FORMULAS = {
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(),
    "softmax_plus_one": lambda z: np.exp(z) / (1 + np.exp(z).sum()),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "none": lambda z: z,
    "sparsemax": sorted_sparsemax,
    "entmax15": sorted_entmax15,
}


def drawn(*shape, scale=3.0, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed)) * scale


def test_every_normaliser_has_a_formula_here():
    assert FORMULAS.keys() == NORMALIZERS.keys()


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_dense_rows_follow_the_definition(name, scale):
    scores = drawn(40, 9, scale=scale)
    masked = scores.masked_fill(drawn(40, 9, seed=1) > 2.0, -torch.inf)
    masked[0] = -torch.inf
    weights, lse = NORMALIZERS[name].weigh(masked, DenseRows())
    assert not weights[0].any()
    assert (lse is None) == (name not in ("softmax", "softmax_plus_one"))
    for row, found in zip(masked[1:].numpy(), weights[1:].numpy(), strict=True):
        seen = np.isfinite(row)
        np.testing.assert_allclose(found[seen], FORMULAS[name](row[seen]), atol=1e-12)
        assert not found[~seen].any()
        if NORMALIZERS[name].sums == "one" and seen.any():
            np.testing.assert_allclose(found.sum(), 1, atol=1e-12)
        if NORMALIZERS[name].sums == "below_one":
            assert found.sum() < 1 + 1e-12


@pytest.mark.parametrize("name", NORMALIZERS)
def test_edges_give_what_dense_rows_give(name):
    scores = drawn(6, 4, 2)  # (keys, targets, heads)
    keep = drawn(6, 4, seed=2) > -1
    keep[:, 3] = False
    source, target = keep.nonzero().T
    dense, _ = NORMALIZERS[name].weigh(scores.masked_fill(~keep[..., None], -torch.inf).permute(1, 2, 0), DenseRows())
    listed, _ = NORMALIZERS[name].weigh(scores[source, target], EdgeRows(target, 4))
    torch.testing.assert_close(listed, dense.permute(2, 0, 1)[source, target])


@pytest.mark.parametrize("name", NORMALIZERS)
def test_gradients_are_right_twice(name):
    def weigh(scores):
        return NORMALIZERS[name].weigh(scores, DenseRows())[0]

    scores = drawn(3, 5, scale=1.0, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(weigh, scores)
    assert torch.autograd.gradgradcheck(weigh, scores)


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_mechanism_takes_each_in_both_layouts(name, backend):
    attend = ScaledDotProduct(heads=2, dim=4, normalize=name, backend=backend).double()
    q, k, v = drawn(1, 2, 5, 4), drawn(1, 2, 7, 4, seed=1), drawn(1, 2, 7, 4, seed=2)
    output = attend(q, k, v, need=Need())
    torch.testing.assert_close(output.weights.values @ v, output.values)
    everything = torch.cartesian_prod(torch.arange(7), torch.arange(5)).T
    listed = attend(*(x[0].transpose(0, 1) for x in (q, k, v)), edges(everything, 5, 7)).values
    torch.testing.assert_close(listed.transpose(0, 1)[None], output.values)


def test_a_log_sum_exp_that_is_not_there_is_refused_and_an_unknown_name_too():
    q = drawn(1, 2, 3, 4)
    with pytest.raises(CapabilityError, match="'sparsemax', which has no log-sum-exp"):
        ScaledDotProduct(heads=2, dim=4, normalize="sparsemax").double()(q, q, q, need=Need(lse=True))
    with pytest.raises(UnknownNameError, match="sparsemax"):
        ScaledDotProduct(heads=2, dim=4, normalize="sparsmax")
