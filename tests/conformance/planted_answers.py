"""Small mechanisms with one bug each in what they answer beside values, in places, and in what is saved of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toolkit.attention import AttentionOutput, Request
from toolkit.attention.call import Call
from toolkit.attention.positions import angles
from toolkit.attention.rotary import Rotary
from toolkit.attention.scaled_dot_product import ScaledDotProduct


class TopLeftRotary(Rotary):
    """Queries are counted from 0, however many keys there are before them."""

    name = "top_left_rotary"

    def prepare(self, call: Call) -> Call:
        call, keys = ScaledDotProduct.prepare(self, call), call.k.shape[2]
        longest = torch.arange(max(call.queries, keys), device=call.q.device)
        turn = angles(longest, self.dim // 2, 2 / self.dim, self.base)
        return replace(call, q=self._turned(call.q, turn[: call.queries]), k=self._turned(call.k, turn[:keys]))


class WrongLse(ScaledDotProduct):
    """The log-sum-exp is 0, whatever the scores."""

    name = "wrong_lse"

    def attend(self, request: Request) -> AttentionOutput:
        output = super().attend(request)
        return output if output.lse is None else replace(output, lse=output.lse * 0)


class NoLse(ScaledDotProduct):
    """The log-sum-exp is asked for, and left out."""

    name = "no_lse"

    def attend(self, request: Request) -> AttentionOutput:
        return replace(super().attend(request), lse=None)


class DetachedWeights(ScaledDotProduct):
    """No gradient flows through the weights that are shown, although it was asked for."""

    name = "detached_weights"

    def attend(self, request: Request) -> AttentionOutput:
        output = super().attend(request)
        if output.weights is None or output.weights.values is None:
            return output
        return replace(output, weights=replace(output.weights, values=output.weights.values.detach()))


class DetachedProxy(DetachedWeights):
    """The same of weights that only describe the output."""

    name = "detached_proxy"
    capabilities = replace(ScaledDotProduct.capabilities, weights="proxy")


class Unsaved(ScaledDotProduct):
    """What is drawn at the start is no part of its state."""

    name = "unsaved"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("noise", torch.randn(self.dim), persistent=False)

    def query_factor(self, q: Tensor) -> Tensor:
        return q * self.noise.to(q.dtype)
