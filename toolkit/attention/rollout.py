"""Attention through layers without an L x L tensor: mass on the queries is pushed back to the keys it came from.

Where a backend would read every pair, weights are made again a few rows at a time, which holds no more than the answer.
Elsewhere mass takes the way of the gradient: values = A v is linear in v, so the gradient of <values, m> in v is A^T m,
and one backward pass of whatever runs the layer carries it, in linear time and memory where that backend is linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention import backends, weighing
from toolkit.attention.call import Call
from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.mechanism import Mechanism, Request
from toolkit.attention.pairwise import Pairwise
from toolkit.errors import CapabilityError, ShapeError

_EDGES = 1 << 16  # looked at together


def pushed(mechanism: Mechanism, request: Request, mass: Tensor) -> Tensor:
    """Return A^T mass, where A are the weights before dropout with which `mechanism` answers `request`.

    A row that shows weights of NaN, since it looks at NaN or infinity, gives NaN to all keys of its head, or to all
    sources of its edges, unless it has no mass.
    Shapes: mass dense (B, H or 1, Lq, R) -> (B, H, Lk, R); edges (Nt, H or 1, R) -> (Ns, H, R). R masses at once.
    Raises: CapabilityError unless the mechanism's weights are exact; ShapeError for mass on other queries.
    """
    if mechanism.capabilities.weights != "exact":
        raise CapabilityError(
            f"{mechanism.name} has {mechanism.capabilities.weights} weights, which do not reproduce its output, so "
            "there is nothing to push back through"
        )
    wanted, given = request.q.shape[:-1], mass.shape[:-1]
    if len(given) != len(wanted) or any(have not in (1, size) for have, size in zip(given, wanted, strict=True)):
        raise ShapeError(f"mass {tuple(mass.shape)} does not lie on the queries {tuple(request.q.shape)}")
    width = request.v.shape[-1]  # kernels want values as wide as keys, so masses go in parts of that width
    modes = [(module, module.training) for module in mechanism.modules()]
    mechanism.eval()
    try:
        call = _weighable(mechanism, request)
        if call is not None and isinstance(mechanism, Pairwise):
            return weighing.push(mechanism, call, mass.to(request.q.dtype))
        parts = [_pushed(mechanism, request, part, width) for part in mass.split(width, -1)]
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(parts, -1)


def _weighable(mechanism: Mechanism, request: Request) -> Call | None:
    """Return the call whose weights are to be made again, None where the gradient's way is the better one."""
    if not isinstance(mechanism, Pairwise):
        return None
    with torch.no_grad():
        call = mechanism.weighed(replace(request, need=None))
        if call is None:
            return None
        whole = call.layout == "dense" and backends.choose(mechanism, call).name in ("sdpa", "rows", "reference")
        return call if whole or call.quarantined()[1] is not None else None


def _pushed(mechanism: Mechanism, request: Request, mass: Tensor, width: int) -> Tensor:
    full = F.pad(mass, (0, width - mass.shape[-1]))
    heads = request.q.shape[1]
    with torch.inference_mode(False), torch.enable_grad(), _frozen(mechanism):
        shape = (*request.v.shape[:1], heads, *request.v.shape[2:])  # grouped heads have masses of their own
        v = torch.zeros(shape, dtype=request.q.dtype, device=request.q.device)
        groups = heads // request.k.shape[1]
        q, k = _plain(request.q), _plain(request.k)
        k = k.repeat_interleave(groups, 1) if groups > 1 else k
        clean = bool(torch.isfinite(request.k.sum() + request.v.sum()))
        if not clean:
            bad = ~torch.isfinite(request.v).all(-1)
            v[..., 0].masked_fill_(bad.repeat_interleave(groups, 1) if groups > 1 else bad, float("nan"))
        bias = None if request.bias is None else _plain(request.bias)
        alone = replace(request, q=q, k=k, v=v.requires_grad_(), bias=bias, need=None)
        values = mechanism.attend(alone).values
        (found,) = torch.autograd.grad(values, v, full.expand_as(values).to(values.dtype))
    found = found[..., : mass.shape[-1]]
    if clean:
        return found
    # NaN in v stands in one place of its rows only, so it fills a row where the mechanism says that the row looks at it
    looked = values.detach().isnan().all(-1)
    return _spoiled(found, looked[..., None] & (mass != 0), request)


def _plain(x: Tensor) -> Tensor:
    return x.clone() if x.is_inference() else x.detach()


def _spoiled(found: Tensor, given: Tensor, request: Request) -> Tensor:
    """Give NaN to what rows that look at NaN have given, which gradients leave out.

    Shapes: found (B, H, Lk, R) or (Ns, H, R); given (B, H, Lq, R) or (Nt, H, R).
    """
    if not bool(given.any()):
        return found
    if request.q.dim() == 4:
        return found.masked_fill(given.any(2, keepdim=True), float("nan"))
    assert isinstance(request.pattern, EdgePattern)
    source, target = request.pattern.index
    hit = torch.zeros(found.shape, dtype=torch.int32, device=found.device)
    for near, far in zip(target.split(_EDGES), source.split(_EDGES), strict=True):
        hit.index_add_(0, far, given[near].int())
    return found.masked_fill(hit > 0, float("nan"))


@contextmanager
def _frozen(mechanism: Mechanism) -> Iterator[None]:
    """Keep gradients from parameters: what a checkpoint computes again for them alone would be held to the end."""
    learned = [parameter for parameter in mechanism.parameters() if parameter.requires_grad and parameter.is_leaf]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def rollout(
    layers: Sequence[tuple[Mechanism, Request]], rows: Sequence[int] | Tensor, *, residual: float = 0.5
) -> Tensor:
    """Return how much of each input token there is in some rows of the last layer's output.

    layers: mechanism and request of each self-attention layer, first to last, all over the same L positions. residual:
    the share of the skip connection beside the mean over heads. Shapes: (B, R, L) for R rows; a row sums to 1 where
    weights do. Source: Abnar & Zuidema 2020, arXiv:2005.00928, sec. 3, eq. 1.
    """
    if not layers:
        raise ValueError("rollout wants at least one layer")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual is the share of the skip connection, from 0 to 1, but {residual} was given")
    batch, length = layers[-1][1].q.shape[0], layers[-1][1].q.shape[-2]
    for mechanism, request in layers:
        if request.q.dim() != 4 or request.q.shape[2] != length or request.k.shape[2] != length:
            given = f"q {tuple(request.q.shape)}, k {tuple(request.k.shape)}"
            raise ShapeError(
                f"rollout follows self-attention over {length} positions, but {mechanism.name} has {given}"
            )
    first = layers[-1][1].q
    chosen = torch.as_tensor(rows, device=first.device)
    mass = torch.zeros(batch, 1, length, len(chosen), dtype=first.dtype, device=first.device)
    mass[:, 0, chosen, torch.arange(len(chosen), device=first.device)] = 1
    for mechanism, request in reversed(layers):
        seen = pushed(mechanism, request, mass).mean(1, keepdim=True)
        mass = residual * mass + (1 - residual) * seen
    return mass[:, 0].transpose(1, 2)
