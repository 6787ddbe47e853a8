"""Linformer: softmax attention over a few learned mixtures of the keys. Wang et al. 2020."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention.call import checked, dropout_rate
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.mechanism import AttentionOutput, Mechanism, Request
from toolkit.attention.terms import read, refuse
from toolkit.attention.weighing import gather
from toolkit.binding import Positive, Probability
from toolkit.errors import ShapeError, UnknownNameError, nearest

_SHARES = ("none", "heads", "kv")


class Linformer(Mechanism):
    """values = softmax(q (E k)^T / sqrt(D)) (F v): E and F mix the Lk keys and values into `projected_length` slots.

    max_length: the most keys there may be; fewer use the first columns of E and F, as if zeros followed.
    share: `none` gives each head its own E and F, `heads` one E and one F for all, `kv` one matrix for both.
    dropout: rate at which the weights of slots are dropped in training.
    Masked keys and values are set to 0 before they are mixed, so what they hold reaches no slot, and more padding
    changes nothing. Causal attention is refused: every slot holds keys of all positions.
    The weights of keys are those of the slots times F. They give the output exactly, but may be negative and do not
    add up to one.
    Source: arXiv:2006.04768, eq. 7; sharing: sec. 4, "Parameter sharing between projections".
    """

    name = "linformer"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        causal=False,
        sums="any",
        positional=True,
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L D K for K slots",
        paper="Wang et al. 2020, Linformer: Self-Attention with Linear Complexity, arXiv:2006.04768",
        equation="softmax(q (E k)^T / sqrt(D)) (F v)",
    )

    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"max_length": 8, "projected_length": 3, "share": "none"},
        {"max_length": 128, "projected_length": 16, "share": "heads"},
        {"max_length": 128, "projected_length": 16, "share": "kv"},
    )

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        max_length: Positive,
        projected_length: Positive = 256,
        share: Literal["none", "heads", "kv"] = "none",
        dropout: Probability = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, **options)
        if share not in _SHARES:
            raise UnknownNameError(f"linformer shares no projections by {share!r}.{nearest(share, _SHARES)}")
        if not 1 <= projected_length <= max_length:
            raise ValueError(
                f"linformer wants projected_length from 1 to max_length={max_length}, but {projected_length} was given"
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is a rate from 0 to below 1, but {dropout} was given")
        self.max_length, self.projected_length, self.share, self.dropout = max_length, projected_length, share, dropout
        shape = (heads if share == "none" else 1, projected_length, max_length)
        self.key_projection = nn.Parameter(torch.empty(shape))
        self.value_projection = self.key_projection if share == "kv" else nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw E and F with variance 1 / projected_length, which keeps inner products in expectation."""
        nn.init.normal_(self.key_projection, std=self.projected_length**-0.5)
        if self.share != "kv":
            nn.init.normal_(self.value_projection, std=self.projected_length**-0.5)

    def attend(self, request: Request) -> AttentionOutput:
        call = checked(request, self)
        keys = read(call, self).keys
        refuse(
            self,
            (request.bias is not None, "a bias", "it scores slots, not keys; scaled_dot_product takes one"),
            (request.state is not None, "a state", "it keeps none between calls"),
            (request.need is not None and request.need.lse, "a need for lse", "its scores are of slots, not of keys"),
        )
        if call.k.shape[2] > self.max_length:
            raise ShapeError(
                f"linformer was built for max_length={self.max_length}, but k {tuple(call.k.shape)} was given"
            )
        call, looked = call.quarantined()
        if keys is not None:  # before anything is mixed: afterwards nobody can tell them apart
            hidden = ~keys[..., None]
            call = replace(call, k=call.k.masked_fill(hidden, 0), v=call.v.masked_fill(hidden, 0))
        slots = (call.q * self.dim**-0.5) @ (_columns(self.key_projection, call.k) @ call.k).mT
        weights = slots.softmax(-1)  # (B, H, Lq, K)
        rate = dropout_rate(self)
        dropped = F.dropout(weights, rate) if rate else weights
        mix = _columns(self.value_projection, call.v)  # (H or 1, K, Lk)
        values = dropped @ (mix @ call.v)
        mix = mix if keys is None else mix * keys[:, :, None]
        with torch.set_grad_enabled(torch.is_grad_enabled() and call.need is not None and call.need.gradient):
            shown = gather(call, lambda rows: weights.index_select(2, rows) @ mix)
        values, shown, _ = call.spoiled(looked, values, shown)
        return AttentionOutput(values=values, weights=shown)

    def extra_repr(self) -> str:
        own = f"max_length={self.max_length}, projected_length={self.projected_length}, share={self.share!r}"
        return f"{super().extra_repr()}, {own}, dropout={self.dropout}"


def _columns(projection: Tensor, x: Tensor) -> Tensor:
    return projection[..., : x.shape[2]].to(x.dtype)
