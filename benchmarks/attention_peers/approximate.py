"""Adapters of packages that approximate attention: performer-pytorch, linformer, nystrom-attention.

None of them says how closely, so none is held to an error here: `pairs` measures what both sides miss.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from attention_peers.adapter import DENSE, Part, Peer, keys_of, merged, split
from attention_peers.packages import load
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.weighing import gather


class Performer(Peer):
    """`performer_pytorch.SelfAttention`."""

    name = "performer-pytorch"
    claims = "self-attention, causal or not, and key masks"
    capabilities = Capabilities(
        layouts=DENSE,
        cross=False,
        weights="none",
        sums="one",
        cost="L D m for m features",
        paper="Choromanski et al. 2021, Rethinking Attention with Performers, arXiv:2009.14794",
        equation="phi(q_i) . phi(k_j) / sum_j phi(q_i) . phi(k_j)",
    )

    def __init__(self, *, heads: int, dim: int, nb_features: int | None = None, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        made = load("performer-pytorch").SelfAttention
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it does without a CUDA extension
            self.plain, self.causal = (
                made(heads * dim, heads=heads, dim_head=dim, nb_features=nb_features, causal=causal)
                for causal in (False, True)
            )
        self.causal.fast_attention.projection_matrix = self.plain.fast_attention.projection_matrix
        for module in (self.plain, self.causal):
            module.to_q, module.to_k, module.to_v = (Part(place, 3) for place in range(3))
            module.to_out = nn.Identity()

    def attend(self, request: Request) -> AttentionOutput:
        call, terms = self.read(request)
        module = self.causal if terms.causal else self.plain
        values = module(torch.cat(merged(call), -1), mask=keys_of(call, terms))
        return AttentionOutput(values=split(values, self.heads))


class PerformerCross(Peer):
    """`performer_pytorch.CrossAttention`."""

    name = "performer-pytorch cross-attention"
    claims = "cross-attention, not causal, and masks of the context"
    capabilities = replace(Performer.capabilities, causal=False, cross=True)

    def __init__(self, *, heads: int, dim: int, nb_features: int | None = None, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        made = load("performer-pytorch").CrossAttention
        self.module = made(heads * dim, heads=heads, dim_head=dim, nb_features=nb_features)
        self.module.to_q, self.module.to_k, self.module.to_v = nn.Identity(), Part(0, 2), Part(1, 2)
        self.module.to_out = nn.Identity()

    def attend(self, request: Request) -> AttentionOutput:
        call, terms = self.read(request)
        q, k, v = merged(call)
        values = self.module(q, context=torch.cat([k, v], -1), context_mask=keys_of(call, terms))
        return AttentionOutput(values=split(values, self.heads))


class Linformer(Peer):
    """`linformer.LinformerSelfAttention`. Key masks are given as `mask=`, which its forward takes."""

    name = "linformer"
    claims = "self-attention and cross-attention, not causal; forward takes mask= among its **kwargs"
    capabilities = Capabilities(
        layouts=DENSE,
        causal=False,
        weights="none",
        sums="any",
        positional=True,
        cost="L D K for K slots",
        paper="Wang et al. 2020, Linformer: Self-Attention with Linear Complexity, arXiv:2006.04768",
        equation="softmax(q (E k)^T / sqrt(D)) (F v)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"seq_len": 128, "k": 3},
        {"seq_len": 128, "k": 16, "share_kv": True},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        seq_len: int,
        k: int = 256,
        share_kv: bool = False,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        made = load("linformer").LinformerSelfAttention
        chosen = {"k": k, "dim_head": dim, "share_kv": share_kv, "dropout": dropout}
        self.module = made(heads * dim, seq_len, heads=heads, **chosen)
        self.module.to_q, self.module.to_k, self.module.to_out = nn.Identity(), Part(0, 2), nn.Identity()
        if not share_kv:
            self.module.to_v = Part(1, 2)

    def attend(self, request: Request) -> AttentionOutput:
        call, terms = self.read(request)
        q, k, v = merged(call)
        values = self.module(q, context=torch.cat([k, v], -1), mask=keys_of(call, terms))
        return AttentionOutput(values=split(values, self.heads))


class Nystrom(Peer):
    """`nystrom_attention.NystromAttention`. Of the weights it returns, the last rows and columns are the tokens'."""

    name = "nystrom-attention"
    claims = "self-attention, not causal, key masks; weights by return_attn, without its convolution"
    capabilities = Capabilities(
        layouts=DENSE,
        causal=False,
        cross=False,
        sums="any",
        positional=True,
        cost="L D M + M^3 for M landmarks",
        paper="Xiong et al. 2021, Nystromformer: A Nystrom-Based Algorithm, arXiv:2102.03902",
        equation="softmax(q l^T / sqrt(D)) softmax(m l^T / sqrt(D))^+ softmax(m k^T / sqrt(D)) v",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"num_landmarks": 2, "residual": False},
        {"num_landmarks": 3, "residual": False},
        {"num_landmarks": 2, "residual_conv_kernel": 3},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        num_landmarks: int = 256,
        residual: bool = True,
        residual_conv_kernel: int = 33,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        made = load("nystrom-attention").NystromAttention
        chosen = {"num_landmarks": num_landmarks, "residual": residual, "residual_conv_kernel": residual_conv_kernel}
        self.module = made(3 * heads * dim, dim_head=dim, heads=heads, **chosen)
        self.module.to_qkv, self.module.to_out = Part(0, 1), nn.Identity()
        if residual:
            self.capabilities = replace(self.capabilities, weights="proxy")

    def attend(self, request: Request) -> AttentionOutput:
        call, terms = self.read(request)
        values, attn = self.module(torch.cat(merged(call), -1), mask=keys_of(call, terms), return_attn=True)
        shown = None
        if request.need is not None:
            attn = attn[..., -call.queries :, -call.queries :]  # it pads at the front
            shown = gather(call, lambda rows: attn.index_select(2, rows))
        return AttentionOutput(values=split(values, self.heads), weights=shown)
