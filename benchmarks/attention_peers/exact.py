"""Adapters of packages that compute softmax attention itself: x-transformers and local-attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from attention_peers.adapter import DENSE, Peer, keys_of
from attention_peers.packages import load
from toolkit.attention.call import checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.terms import read
from toolkit.attention.weighing import gather
from toolkit.errors import CapabilityError


class XTransformers(Peer):
    """`x_transformers.attend.Attend`, what its Attention layer has between the projections.

    flash: its option of that name, torch's fused attention. at_call: ask for causality by `causal=` in the call, which
    its layer's forward takes too, instead of in the constructor. Causal requests with more queries than keys are
    refused: it claims decoding, where keys are at least as many.
    """

    name = "x-transformers"
    claims = "any mask, causal, cross-attention, biases; weights unless flash"
    capabilities = Capabilities(
        layouts=DENSE,
        sums="one",
        cost="L^2 D",
        paper="Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762",
        equation="softmax_j q_i . k_j / sqrt(D)",
    )
    flash: ClassVar[bool] = False
    at_call: ClassVar[bool] = False

    def __init__(self, *, heads: int, dim: int, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        made = load("x-transformers").attend.Attend
        self.plain, self.causal = (
            made(heads=heads, causal=causal, flash=self.flash, dropout=dropout) for causal in (False, True)
        )

    def attend(self, request: Request) -> AttentionOutput:
        call = checked(request, self)
        self.refuse(request, biased=True)
        try:
            terms = read(call, self)
            causal, mask = terms.causal, None if terms.keys is None else terms.keys[:, :, None]
        except CapabilityError:
            causal, mask = False, call.mask()
        if causal and call.queries > call.k.shape[2]:
            raise CapabilityError(f"{self.name} was given {call.queries} queries, more than keys, and a causal pattern")
        shape = (*call.q.shape[:3], call.k.shape[2])
        bias = None if call.bias is None else call.bias.expand(shape)
        module = self.causal if causal and not self.at_call else self.plain
        asked = {"causal": True} if causal and self.at_call else {}
        values, between = module(call.q, call.k, call.v, mask=mask, attn_bias=bias, **asked)
        shown = None
        if request.need is not None:
            shown = gather(call, lambda rows: between.post_softmax_attn.index_select(2, rows))
        return AttentionOutput(values=values, weights=shown)


class XTransformersFlash(XTransformers):
    """The same by torch's fused attention, which gives no weights."""

    name = "x-transformers flash"
    capabilities = replace(XTransformers.capabilities, weights="none")
    flash = True


class XTransformersAtCall(XTransformersFlash):
    """The same, asked for causality in the call."""

    name = "x-transformers flash, causal= in the call"
    at_call = True


class Local(Peer):
    """`local_attention.LocalAttention` without its rotary positions."""

    name = "local-attention"
    claims = "self-attention, causal or not, key masks, any length with autopad"
    capabilities = Capabilities(
        layouts=DENSE,
        cross=False,
        weights="none",
        sums="one",
        positional=True,
        cost="L S D for windows of S",
        paper="Parmar et al. 2018, Image Transformer, arXiv:1802.05751",
        equation="softmax_j q_i . k_j / sqrt(D), j in the own block and those beside it",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"window_size": 2},
        {"window_size": 3},
        {"window_size": 2, "exact_windowsize": True},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        window_size: int,
        exact_windowsize: bool = False,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        made = load("local-attention").LocalAttention
        chosen = {"exact_windowsize": exact_windowsize, "dropout": dropout, "autopad": True}
        self.plain, self.causal = (
            made(window_size=window_size, causal=causal, use_rotary_pos_emb=False, **chosen) for causal in (False, True)
        )

    def attend(self, request: Request) -> AttentionOutput:
        call, terms = self.read(request)
        module = self.causal if terms.causal else self.plain
        return AttentionOutput(values=module(call.q, call.k, call.v, mask=keys_of(call, terms)))
