"""Positions added to token vectors before attention: sinusoidal (arXiv:1706.03762) or learned (arXiv:1705.03122).

Positions inside attention are mechanisms: `rotary`, `alibi`, `t5_relative`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.errors import ShapeError


class SinusoidalPositions(nn.Module):
    """x + PE, with PE(p, 2c) = sin(p / base^(2c / D)) and PE(p, 2c + 1) = cos(p / base^(2c / D)).

    Shapes: x (..., L, D) -> the same. `start` is the position of the first token, such as the length of a cache.
    Raises: ShapeError if x has another last dimension. Source: arXiv:1706.03762, sec. 3.5.
    """

    def __init__(self, *, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if dim < 1 or base <= 1:
            raise ValueError(f"SinusoidalPositions wants a positive dim and base > 1, but dim={dim}, base={base}")
        self.dim, self.base = dim, base

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        _check(self, x, self.dim)
        position = torch.arange(start, start + x.shape[-2], device=x.device)
        angle = angles(position, -(-self.dim // 2), 2 / self.dim, self.base)
        table = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., : self.dim]
        return x + table.to(x.dtype)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, base={self.base}"


class LearnedPositions(nn.Module):
    """x + weight[p], a vector learned for each of `length` positions.

    Shapes: x (..., L, D) -> the same; weight (length, D). `start` is the position of the first token.
    Raises: ShapeError for another last dimension, or for positions past `length`. Source: arXiv:1705.03122, sec. 3.1.
    """

    def __init__(self, *, length: int, dim: int) -> None:
        super().__init__()
        if length < 1 or dim < 1:
            raise ValueError(f"LearnedPositions wants a positive length and dim, but length={length}, dim={dim}")
        self.weight = nn.Parameter(torch.empty(length, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        length, dim = self.weight.shape
        _check(self, x, dim)
        if start < 0 or start + x.shape[-2] > length:
            raise ShapeError(
                f"LearnedPositions knows positions 0 to {length - 1}, but {start} to {start + x.shape[-2] - 1} were "
                f"given; build it with length={start + x.shape[-2]}, or cut the sequence"
            )
        return x + self.weight[start : start + x.shape[-2]].to(x.dtype)

    def extra_repr(self) -> str:
        return f"length={self.weight.shape[0]}, dim={self.weight.shape[1]}"


def angles(position: Tensor, count: int, step: float, base: float) -> Tensor:
    """Return position * base^(-step * c) for c < count, in double precision: single is 1e-3 off at position 30000.

    Shapes: position (L,) -> (L, count).
    """
    kind = torch.float32 if position.device.type == "mps" else torch.float64  # mps has no doubles
    frequency = base ** -(step * torch.arange(count, dtype=kind, device=position.device))
    return position.to(kind)[:, None] * frequency


def _check(module: nn.Module, x: Tensor, dim: int) -> None:
    if x.dim() < 2 or x.shape[-1] != dim:
        raise ShapeError(f"{type(module).__name__} wants x (..., L, {dim}), but {tuple(x.shape)} was given")
