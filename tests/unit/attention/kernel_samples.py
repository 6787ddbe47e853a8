"""What the tests of kernel attention share: patterns, made tensors, and the definition, all pairs at once."""

import torch

from toolkit.attention import causal, dense, full, padding, segments
from toolkit.attention.linear import Linear
from toolkit.attention.performer import Performer

H, D = 3, 4
KERNELS = [Linear, Performer]
IDS = torch.tensor([[2, 0, 0, 2, 1, 0, 1], [5, 5, 5, 6, 6, 7, 7]])
PATTERNS = [
    None,
    full() & padding(torch.tensor([7, 3])),
    causal(),
    causal() & padding(torch.tensor([5, 0])),
    causal() & dense(torch.rand(2, H, 1, 7, generator=torch.Generator().manual_seed(0)) < 0.5),
]
SEGMENTED = [
    segments(IDS),
    segments(IDS) & causal(),
    segments(IDS.sort(1).values) & causal() & padding(torch.tensor([7, 4])),
    segments(IDS) & padding(torch.tensor([4, 6])),
]


def made(mechanism, **options):
    torch.manual_seed(7)
    return mechanism(heads=H, dim=D, **options).double()


def tensors(queries, keys, batch=2, width=5, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, H, queries, D), (batch, H, keys, D), (batch, H, keys, width)]
    return [torch.randn(shape, dtype=torch.double, generator=generator).requires_grad_(grad) for shape in shapes]


def kernel(attend, q, k):
    """phi(q) . phi(k) of every pair, as the papers write it. Shapes: (..., Lq, D), (..., Lk, D) -> (..., Lq, Lk)."""
    if isinstance(attend, Linear):
        return (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).mT
    x, y = q / D**0.25, k / D**0.25
    w = attend.projection
    squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    raised = (x @ w.mT)[..., :, None, :] + (y @ w.mT)[..., None, :, :] - squares[..., None] / 2
    return raised.exp().mean(-1)


def quadratic(attend, q, k, v, pattern):
    """The same attention by its definition, all pairs at once -> values, weights, what normalises them."""
    mask = (pattern or full()).mask(q.shape[2], k.shape[2], batch=q.shape[0], heads=H)
    pairs = kernel(attend, q, k) * mask
    total = pairs.sum(-1, keepdim=True)
    weights = pairs / total.masked_fill(total == 0, 1)
    return weights @ v, weights, total[..., 0]
