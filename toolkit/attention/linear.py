"""Linear attention: the kernel elu(q) + 1 . elu(k) + 1 instead of an exponential. Katharopoulos et al. 2020."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from toolkit.attention.backends import Reasons, fla
from toolkit.attention.call import Call, checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.kernel import Features, KernelAttention
from toolkit.attention.mechanism import Request
from toolkit.attention.running_sums import Along
from toolkit.attention.terms import Terms, read


class Linear(KernelAttention):
    """w_ij = phi(q_i) . phi(k_j) / sum_j phi(q_i) . phi(k_j), with phi(x) = elu(x) + 1.

    backend: `auto`, `torch`, or `fla`, the kernel of flash-linear-attention for causal calls on CUDA.
    Raises: CapabilityError for a call that `fla` was asked for and cannot do.
    Source: arXiv:2006.16236, eq. 7 (phi), 4 (full), 8 to 12 (causal), sec. 3.4 (the state).
    """

    name = "linear"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}),
        sums="one",
        state="keys",
        compiles=frozenset({"dense"}),
        exports=frozenset({"dense"}),
        cost="L D^2",
        paper="Katharopoulos et al. 2020, Transformers are RNNs, arXiv:2006.16236",
        equation="phi(q_i) . phi(k_j) / sum_j phi(q_i) . phi(k_j), phi(x) = elu(x) + 1",
    )

    def __init__(self, *, heads: int, dim: int, backend: Literal["auto", "torch", "fla"] = "auto") -> None:
        super().__init__(heads=heads, dim=dim)
        if backend not in ("auto", "torch", "fla"):
            raise ValueError(f"linear knows the backends 'auto', 'torch' and 'fla', but {backend!r} was given")
        self.backend = backend

    def explain(self, request: Request) -> Reasons:
        """Say how a request would be computed, and why not by the kernel."""
        call = checked(request, self)
        return fla.choose(self.backend, call, read(call, self, segments=True))

    def along(self, call: Call, terms: Terms) -> Along:
        return fla.along if fla.choose(self.backend, call, terms).name == "fla" else super().along(call, terms)

    def query_features(self, q: Tensor) -> Features:
        return _elu_plus_one(q), None

    def key_features(self, k: Tensor) -> Features:
        return _elu_plus_one(k), None


def _elu_plus_one(x: Tensor) -> Tensor:
    # elu(x) is rounded to -1 far below 0, where elu(x) + 1 = exp(x) is small but counts.
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())
