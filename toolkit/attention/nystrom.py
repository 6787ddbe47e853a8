"""Nystrom attention: softmax attention rebuilt from its columns and rows at a few landmarks. Xiong et al. 2021."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.call import Call, checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.mechanism import AttentionOutput, Mechanism, Request
from toolkit.attention.normalizers import DenseRows, softmax
from toolkit.attention.terms import read, refuse
from toolkit.attention.weighing import gather
from toolkit.binding import Positive
from toolkit.errors import CapabilityError


class Nystrom(Mechanism):
    """values = softmax(q l^T) softmax(m l^T)^+ softmax(m k^T) v (+ conv(v)), each product over sqrt(D).

    landmarks: how many, m of the queries and l of the keys; each is the mean of a segment of the real tokens of its
    own sample, which are cut as evenly as can be. A sample with no more tokens than landmarks has each token as its
    own, and then only the iteration is between it and softmax attention.
    iterations: steps towards the pseudo-inverse ^+, whose start is scaled for each sample and head by itself.
    conv_kernel: odd width of a convolution of the values along the length, one kernel a head; None for none.
    For self-attention: queries and keys are of the same tokens, so a masked key is no query landmark either. No output
    depends on other samples, on what masked tokens hold, or on how many follow. Causal attention is refused: a
    landmark is the mean of tokens before and after.
    The weights, with the convolution's added, give the output exactly, but may be negative and do not add up to one.
    Source: arXiv:2102.03902, sec. 3 and algorithm 1; the convolution, sec. 3, "Nystromformer".
    """

    name = "nystrom"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        causal=False,
        cross=False,
        sums="any",
        exactness="approximate",
        approximates="scaled_dot_product",
        error=0.55,
        error_at=("landmarks", 32),
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L D M + M^3 for M landmarks",
        paper="Xiong et al. 2021, Nystromformer: A Nystrom-Based Algorithm, arXiv:2102.03902",
        equation="softmax(q l^T / sqrt(D)) softmax(m l^T / sqrt(D))^+ softmax(m k^T / sqrt(D)) v",
    )

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"landmarks": 2, "conv_kernel": 3})

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        landmarks: Positive = 64,
        iterations: Positive = 6,
        conv_kernel: Positive | None = None,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if landmarks < 1 or iterations < 1:
            raise ValueError(
                f"nystrom wants positive landmarks and iterations, but landmarks={landmarks}, iterations={iterations}"
            )
        if conv_kernel is not None and (conv_kernel < 1 or conv_kernel % 2 == 0):
            raise ValueError(f"nystrom wants an odd conv_kernel, centred on each token, but {conv_kernel} was given")
        self.landmarks, self.iterations, self.conv_kernel = landmarks, iterations, conv_kernel
        self.conv_weight = None if conv_kernel is None else nn.Parameter(torch.empty(heads, conv_kernel))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolution as torch draws a depthwise one: uniform within 1 / sqrt(conv_kernel)."""
        if self.conv_weight is not None and self.conv_kernel is not None:
            nn.init.uniform_(self.conv_weight, -(self.conv_kernel**-0.5), self.conv_kernel**-0.5)

    def attend(self, request: Request) -> AttentionOutput:
        call = checked(request, self)
        keys = read(call, self).keys
        need = request.need
        refuse(
            self,
            (request.bias is not None, "a bias", "it scores landmarks; scaled_dot_product takes one"),
            (request.state is not None, "a state", "it keeps none between calls"),
            (need is not None and need.lse, "a need for lse", "it is made of three softmaxes"),
        )
        length = call.k.shape[2]
        if call.queries != length:
            raise CapabilityError(
                f"nystrom attends from tokens to themselves, but was given {call.queries} queries and {length} keys; "
                "linformer and performer take different lengths"
            )
        call, looked = call.quarantined()
        wide = torch.promote_types(call.q.dtype, torch.float32)  # the inverse is lost in half precision
        with torch.autocast(call.q.device.type, enabled=False):
            real = torch.ones(1, 1, length, dtype=torch.bool, device=call.q.device) if keys is None else keys
            hidden = ~real[..., None]
            call = replace(call, q=call.q.to(wide), k=call.k.to(wide), v=call.v.to(wide))
            call = replace(call, k=call.k.masked_fill(hidden, 0), v=call.v.masked_fill(hidden, 0))
            left, middle, right = self._factors(call, real)
            inverse = pseudo_inverse(middle, self.iterations)
            values = left @ (inverse @ (right @ call.v))
            if self.conv_weight is not None and length:
                weight = self.conv_weight.to(wide)[:, None, :, None]
                padding = (weight.shape[2] // 2, 0)
                values = values + F.conv2d(call.v, weight, padding=padding, groups=self.heads)
            weights = None
            if need is not None:
                with torch.set_grad_enabled(torch.is_grad_enabled() and need.gradient):
                    columns = inverse @ right
                    weights = gather(
                        call, lambda rows: left.index_select(2, rows) @ columns + self._band(rows, real, columns)
                    )
        values, weights, _ = call.spoiled(looked, values, weights)
        return AttentionOutput(values=values.to(request.v.dtype), weights=weights)

    def _factors(self, call: Call, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three softmaxes. Shapes: (B, H, L, M), (B, H, M, M), (B, H, M, L); real (B or 1, H or 1, L)."""
        size = max(1, min(self.landmarks, real.shape[-1]))
        place = torch.arange(size, device=real.device)
        tokens = real.sum(-1, keepdim=True)
        used = tokens.clamp_max(size)  # landmarks of each sample, as many as it has tokens at most
        segment = (real.cumsum(-1) - 1) * used // tokens.clamp_min(1)
        member = ((segment[..., None, :] == place[:, None]) & real[..., None, :]).to(call.q.dtype)
        mean = member / member.sum(-1, keepdim=True).clamp_min(1)  # (B or 1, H or 1, M, L)
        exists = place < used
        q = call.q * self.dim**-0.5
        at_queries = mean @ q.masked_fill(~real[..., None], 0)
        at_keys = mean @ call.k
        left = _masked_softmax(q @ at_keys.mT, exists[..., None, :])
        middle = _masked_softmax(at_queries @ at_keys.mT, exists[..., None, :] & exists[..., None])
        right = _masked_softmax(at_queries @ call.k.mT, real[..., None, :] & exists[..., None])
        return left, middle, right

    def _band(self, rows: Tensor, real: Tensor, like: Tensor) -> Tensor:
        """Return the convolution as weights of the type of `like`. Shapes: rows (R,) -> (B or 1, H, R, L), or (1,)."""
        if self.conv_weight is None or self.conv_kernel is None:
            return like.new_zeros(1)
        place = torch.arange(real.shape[-1], device=rows.device) - rows[:, None] + self.conv_kernel // 2
        inside = (place >= 0) & (place < self.conv_kernel) & real[..., None, :]
        return self.conv_weight.to(like)[:, place.clamp(0, self.conv_kernel - 1)] * inside

    def extra_repr(self) -> str:
        own = f"landmarks={self.landmarks}, iterations={self.iterations}, conv_kernel={self.conv_kernel}"
        return f"{super().extra_repr()}, {own}"


def pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """Step towards the pseudo-inverse of each matrix. Rows and columns of zeros have zeros in the inverse.

    Shapes: (..., M, M) -> the same. Source: arXiv:2102.03902, algorithm 1 (Razavi et al. 2014).
    """
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    size = matrix.abs().sum(-1).amax(-1) * matrix.abs().sum(-2).amax(-1)  # of each matrix by itself, not of the batch
    inverse = matrix.mT / size.masked_fill(size == 0, 1)[..., None, None]
    for _ in range(iterations):
        product = matrix @ inverse
        inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return inverse


def _masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return softmax(scores.masked_fill(~mask, -torch.inf), DenseRows())[0]
