"""Projection of sparse features: work and memory follow the stored values, forward and backward.

Words of a paper fill 1.3 % of Cora's feature matrix: dropout and projection of what is stored take a hundredth of the
dense matrix's random numbers and multiplications.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.weak import WeakTensorKeyDictionary

from toolkit.attention.dropout import dropout
from toolkit.attention.segment import bag_sum, once


class Stored:
    """The stored values of a sparse CSR matrix (N, F), and where each stands when sorted by column.

    Shapes: value (K,), pointer (N + 1,), column (K,).
    """

    def __init__(self, x: Tensor) -> None:
        self.shape, self.value = x.shape, x.values()
        self.kind = torch.int32 if max(len(self.value), *x.shape) < 2**31 else torch.int64
        self.pointer, self.column = x.crow_indices().to(self.kind), x.col_indices().to(self.kind)

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order by column, for the backward pass. Shapes: perm (K,), row (K,), pointer (F + 1,)."""
        num_rows, num_columns = self.shape
        device = self.value.device
        rows = torch.repeat_interleave(torch.arange(num_rows, device=device), self.pointer.diff())
        ordered, perm = torch.sort(self.column, stable=True)
        ends = torch.searchsorted(ordered, torch.arange(num_columns + 1, device=device, dtype=ordered.dtype))
        return perm.to(self.kind), rows[perm].to(self.kind), ends.to(self.kind)


_STORED = WeakTensorKeyDictionary()  # by identity: the same features come again every step


def stored(x: Tensor) -> Stored:
    """Read a sparse CSR tensor once, and remember it for as long as it lives."""
    if x not in _STORED:
        _STORED[x] = Stored(x)
    found: Stored = _STORED[x]
    return found


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Choose rows of a dense or sparse CSR matrix. Shapes: x (N, F), rows (M,) -> (M, F) in the same layout."""
    if x.layout is not torch.sparse_csr:
        return x.index_select(0, rows)
    pointer, column, value = x.crow_indices(), x.col_indices(), x.values()
    count = pointer.diff()[rows]
    ends = torch.cat([count.new_zeros(1), count.cumsum(0)])
    row = torch.repeat_interleave(torch.arange(len(rows), device=x.device), count)
    slots = pointer[rows][row] + torch.arange(len(row), device=x.device) - ends[row]
    shape = (len(rows), x.shape[1])
    return torch.sparse_csr_tensor(ends.to(pointer.dtype), column[slots], value[slots], shape, check_invariants=False)


class _Project(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, plan: Stored) -> Tensor:
        ctx.save_for_backward(value)
        ctx.plan = plan
        return bag_sum(weight, plan.column, plan.pointer, value)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (value,), plan = ctx.saved_tensors, ctx.plan
        perm, row, pointer = plan.transposed
        return bag_sum(grad.contiguous(), row, pointer, value.index_select(0, perm)), None, None


def project(x: Tensor, weight: Tensor, rate: float = 0.0, training: bool = False) -> Tensor:
    """Drop features, then multiply by a weight; sparse features get no gradient, the weight does.

    Shapes: x (N, F) dense or sparse CSR, weight (F, M) -> (N, M).
    """
    if x.layout is not torch.sparse_csr:
        return dropout(x, rate, training) @ weight
    return _project_stored(x, weight, rate, training)


@torch.compiler.disable  # the compiler cannot trace sparse tensors; it compiles what comes before and after
def _project_stored(x: Tensor, weight: Tensor, rate: float, training: bool) -> Tensor:
    plan = stored(x)
    value = dropout(plan.value.to(weight.dtype), rate, training)
    out: Tensor = _Project.apply(weight, value, plan)
    return out
