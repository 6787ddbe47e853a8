"""Stands in for the package of this name: the same arguments, the same maths, and `mask=` swallowed in silence too."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinformerSelfAttention(nn.Module):
    def __init__(self, dim, seq_len, k=256, heads=8, dim_head=None, share_kv=False, dropout=0.0):
        super().__init__()
        self.heads, self.share_kv = heads, share_kv
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.to_out = nn.Linear(dim, dim)
        self.proj_k, self.proj_v = (nn.Parameter(torch.randn(seq_len, k) / k**0.5) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, **options: object) -> Tensor:
        context = x if context is None else context
        keys = self.to_k(context)
        values, proj_v = (keys, self.proj_k) if self.share_kv else (self.to_v(context), self.proj_v)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.to_q(x), keys, values))
        k, v = (proj[: k.shape[2]].T @ each for proj, each in ((self.proj_k, k), (proj_v, v)))
        weights = self.dropout((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))
