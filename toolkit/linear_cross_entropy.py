"""Cross-entropy of a linear layer with many classes, without ever holding all logits: language models end in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 20
"""Logits that are held at a time: 4 MiB in single precision, which a processor's cache can keep."""
GPU_CHUNK = 1 << 25
"""The same on a GPU, where a chunk must keep many cores busy."""


def linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of -log softmax(x weight^T)[target], and each item's own, which carries no gradient.

    Logits are made a chunk of items at a time, and the gradients of x and weight with them, so that memory does not
    grow with items times classes. No second derivative: it raises. Sums are taken in single precision at least.
    Shapes: x (S, D), weight (V, D), target (S,) -> (), (S,). The mean over no items is 0, with gradient 0.
    Source: the order of work follows Wijmans et al. 2024, arXiv:2411.09009, sec. 4.
    """
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(kind), weight.to(kind)
    mean, each = _LinearCrossEntropy.apply(x, weight, target)
    return mean, each


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        wants_x, wants_weight, _ = ctx.needs_input_grad
        each = x.new_empty(len(x), dtype=wide)
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        rows = max(1, (CHUNK if x.device.type == "cpu" else GPU_CHUNK) // len(weight))
        share = 1 / max(1, len(x))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            logits = F.linear(x[part], weight).to(wide)
            found = logits.log_softmax(-1)
            chosen = target[part, None]
            each[part] = -found.gather(1, chosen)[:, 0]
            if grad_x is None and grad_weight is None:
                continue
            slope = found.exp_()
            slope.scatter_add_(1, chosen, slope.new_full((), -1.0).expand(chosen.shape))
            slope = slope.mul_(share).to(x.dtype)
            if grad_x is not None:
                torch.mm(slope, weight, out=grad_x[part])
            if grad_weight is not None:
                if grad_weight.dtype == x.dtype:
                    grad_weight.addmm_(slope.T, x[part])
                else:
                    grad_weight += slope.T @ x[part]
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.kind = weight.dtype
        ctx.mark_non_differentiable(each)
        return each.sum() * share, each

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        scaled_x = None if grad_x is None else grad_x * slope.to(grad_x.dtype)
        return scaled_x, None if grad_weight is None else (grad_weight * slope).to(ctx.kind), None
