"""Linear attention: the kernel elu(q) + 1 . elu(k) + 1 instead of an exponential. Katharopoulos et al. 2020."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.kernel import Features, KernelAttention


class Linear(KernelAttention):
    """w_ij = phi(q_i) . phi(k_j) / sum_j phi(q_i) . phi(k_j), with phi(x) = elu(x) + 1.

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

    def query_features(self, q: Tensor) -> Features:
        return _elu_plus_one(q), None

    def key_features(self, k: Tensor) -> Features:
        return _elu_plus_one(k), None


def _elu_plus_one(x: Tensor) -> Tensor:
    # elu(x) is rounded to -1 far below 0, where elu(x) + 1 = exp(x) is small but counts.
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())
