"""Attention repeated over the same memory, each time with a better query. Sukhbaatar et al. 2015, arXiv:1503.08895."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toolkit.attention.call import checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.explicit import looking
from toolkit.attention.mechanism import AttentionOutput, Request
from toolkit.attention.pairwise import head_linear
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.binding import Positive
from toolkit.errors import ShapeError


class MemoryHops(ScaledDotProduct):
    """o = attention(u, k, v), u <- H u + o, for several hops from u = q; the values are what the last hop read, o.

    hops: how many. tie: `layerwise` has the same k and v in every hop, and one learned H for each head (identity at
    first). `adjacent` has H = 1, and the values of one hop are the keys of the next; as q, k and v hold one memory, the
    values of hop h > 1 are v mapped by a learned matrix for each hop and head.
    residual: return the paper's H u + o in place of o. scale: the factor before the inner product, 1 as in the paper;
    None is 1 / sqrt(dim).
    Weights shown are those of the last hop. They depend on v through the hops before, and so are a proxy unless hops=1.
    `aux["hop_weights"]` stacks those of all hops for the rows and heads that are asked for.
    Shapes: transition (H, D, D), embeddings (hops - 1, H, D, D); v must have the size D of q.
    Raises: ShapeError if it does not. Source: arXiv:1503.08895, eq. 1 to 4 and sec. 2.2.
    """

    name = "memory_hops"
    capabilities = Capabilities(
        weights="proxy",
        cost="hops L^2 D (dense), hops E D (edges)",
        paper="Sukhbaatar et al. 2015, End-To-End Memory Networks, arXiv:1503.08895",
        equation="softmax_j u_i . k_j, repeated with u <- H u + o",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"hops": 2}, {"hops": 2, "tie": "adjacent"})

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        hops: Positive = 3,
        tie: Literal["layerwise", "adjacent"] = "layerwise",
        residual: bool = False,
        scale: float | None = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(heads=heads, dim=dim, scale=scale, **options)
        if hops < 1 or tie not in ("layerwise", "adjacent"):
            raise ValueError(
                f"memory_hops wants 1 hop or more, tied 'layerwise' or 'adjacent', but {hops}, {tie!r} were given"
            )
        self.hops, self.tie, self.residual = hops, tie, residual
        if tie == "layerwise" and (hops > 1 or residual):
            self.transition = nn.Parameter(torch.empty(heads, dim, dim))
        if tie == "adjacent" and hops > 1:
            self.embeddings = nn.Parameter(torch.empty(hops - 1, heads, dim, dim))
        if hops == 1 and not residual:
            self.capabilities = replace(type(self).capabilities, weights="exact")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if hasattr(self, "transition"):
            with torch.no_grad():
                self.transition.copy_(torch.eye(self.dim))
        for weight in self.embeddings.flatten(0, 1) if hasattr(self, "embeddings") else ():
            nn.init.xavier_uniform_(weight)

    def attend(self, request: Request) -> AttentionOutput:
        call, looked = checked(request, self).quarantined()
        u, k, v = call.q, call.k, call.v
        if v.shape[-1] != self.dim:
            raise ShapeError(f"memory_hops adds what it reads to q of size {self.dim}, but v is {tuple(v.shape)}")
        bad = u.new_zeros(u.shape[:-1], dtype=torch.bool) if looked is None else looked
        shown = []
        for hop in range(self.hops):
            if hop and self.tie == "adjacent":
                k, v = v, self._mapped(call.v, self.embeddings[hop - 1])
            output = super().attend(replace(request, q=u, k=k, v=v))
            bad = bad | ~torch.isfinite(output.values).all(-1)
            read = output.values.masked_fill(
                bad[..., None], 0
            )  # so that NaN in one row gives no NaN gradient elsewhere
            u = (self._mapped(u, self.transition) if hasattr(self, "transition") else u) + read
            u = u.masked_fill(bad[..., None], 0)
            shown.append(call.spoiled(looked, output.values, output.weights, output.lse))
        values = read
        if self.residual:
            values = u.masked_fill(~looking(call)[0][..., None], 0)
        values = values.masked_fill(bad[..., None], float("nan"))
        hops = [each.values for _, each, _ in shown if each is not None and each.values is not None]
        _, weights, lse = shown[-1]
        aux = {"hop_weights": torch.stack(hops)} if hops else {}
        return replace(output, values=values, weights=weights, lse=lse, aux=aux)

    def _mapped(self, x: Tensor, weight: Tensor) -> Tensor:
        return head_linear(x, weight) if x.dim() == 3 else head_linear(x.transpose(1, 2), weight).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hops={self.hops}, tie={self.tie!r}"
