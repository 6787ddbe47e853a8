"""Mechanisms whose score is a function of one query and one key, normalised over the keys.

The score is written once, on (..., H, D), and runs on dense sequences and on edges. Two special forms let backends be
faster: a separable score needs its terms once a node, an inner product is a matrix multiplication.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from toolkit.attention import backends
from toolkit.attention.call import Call, checked, dropout_rate
from toolkit.attention.mechanism import AttentionOutput, Mechanism, Request
from toolkit.attention.normalizers import normalizer
from toolkit.attention.weighing import weigh
from toolkit.binding import Probability
from toolkit.errors import CapabilityError


class Pairwise(Mechanism):
    """Base of pairwise attention: w_i = normalise_j(score(q_i, k_j) + bias_ij), values = sum_j w_ij v_j.

    dropout: rate at which weights are dropped in training. normalize: how scores become weights, a name of
    `NORMALIZERS`. backend: `auto`, or the name of one that is to be used.
    """

    def __init__(
        self, *, heads: int, dim: int, dropout: Probability = 0.0, normalize: str = "softmax", backend: str = "auto"
    ) -> None:
        super().__init__(heads=heads, dim=dim)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is a rate from 0 to below 1, but {dropout} was given")
        backends.check_name(backend)
        self.dropout, self.backend = dropout, backend
        self.normalize, self.normalizer = normalize, normalizer(normalize)

    @abstractmethod
    def score(self, q: Tensor, k: Tensor) -> Tensor:
        """Score queries against keys. Shapes: q (..., H, D), k (..., H, D), broadcasting -> (..., H)."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Score all pairs. Shapes: q (B, H, Lq, D), k (B, H, Lk, D) -> (B, H, Lq, Lk)."""
        return self.score(q.transpose(1, 2)[:, :, None], k.transpose(1, 2)[:, None]).permute(0, 3, 1, 2)

    @property
    def pair_width(self) -> int:
        """How many numbers one pair of one head holds while it is scored: backends choose the size of chunks by it."""
        return self.dim

    def prepare(self, call: Call) -> Call:
        """Change a request before it is answered: narrow its pattern, rotate its queries and keys."""
        return call

    def position_bias(self, head: Tensor, i: Tensor, j: Tensor) -> Tensor | None:
        """Return what is added to the score of query position i and key position j; None for nothing, ever.

        Shapes: head, i and j broadcast together -> that shape.
        """
        return None

    @property
    def positional(self) -> bool:
        own = type(self).position_bias is not Pairwise.position_bias
        return own if self.capabilities.positional is None else self.capabilities.positional

    def reweigh(self, weights: Tensor, call: Call, rows: Tensor | None = None) -> Tensor:
        """Change weights after they are normalised; `rows` are the positions of a dense call's queries, None for all.

        Shapes: dense (B, H, R, Lk), edges (E, H) in the caller's order. Only the backends `reference` and `rows` do it,
        so `refusal` must name the others.
        """
        return weights

    def refusal(self, backend: str, call: Call) -> str | None:
        """Say why this mechanism cannot be run by a backend that would take it; None if it can."""
        return None

    def bias(self, call: Call, rows: Tensor | None = None) -> Tensor | None:
        """Return the caller's bias and the mechanism's own, together, for all queries of a dense call or some."""
        if type(self).position_bias is Pairwise.position_bias:
            return call.bias
        own = self.position_bias(*call.places(rows))
        if own is None or call.bias is None:
            return call.bias if own is None else own
        return own + call.bias

    def attend(self, request: Request) -> AttentionOutput:
        call = self.read(request)
        choice = backends.choose(self, call)
        call, looked = call.quarantined()
        values, weights, lse = choice.run(self, call)
        if call.need is not None and weights is None:
            weights, lse = weigh(self, call)
        values, weights, lse = call.spoiled(looked, values, weights, lse)
        return AttentionOutput(values=values, weights=weights, lse=lse)

    def explain(self, request: Request) -> backends.Choice:
        """Say which backend a request would get and why the others would not do."""
        return backends.choose(self, self.read(request))

    def read(self, request: Request) -> Call:
        """Check a request and prepare it. Raises: ShapeError, CapabilityError."""
        if request.state is not None:
            raise CapabilityError(f"{self.name} keeps no state between calls, so it takes none")
        return self.prepare(checked(request, self, dropout_rate(self)))

    def weighed(self, request: Request) -> Call | None:
        """Return the call whose weights are those of the answer; None where `attend` does more to them.

        A mechanism with an `attend` of its own says so here if it leaves the weights as they are.
        """
        return self.read(request) if type(self).attend is Pairwise.attend else None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dropout={self.dropout}, normalize={self.normalize!r}, backend={self.backend!r}"


def head_dot(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each head by its own vector, as one matrix product: far faster than many sums over a short head.

    Shapes: x (..., H, D), weight (H, D) -> (..., H).
    """
    heads, dim = weight.shape
    if torch.is_autocast_enabled(x.device.type):  # scores keep the precision of the weight
        with torch.autocast(x.device.type, enabled=False):
            return head_dot(x, weight)
    kind = torch.promote_types(x.dtype, weight.dtype)
    blocks = torch.eye(heads, dtype=weight.dtype, device=weight.device).repeat_interleave(dim, 0)  # (H * D, H)
    product: Tensor = x.flatten(-2).to(kind) @ (blocks * weight.reshape(-1, 1)).to(kind)
    return product


def head_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Map each head by its own matrix. Shapes: x (..., H, D), weight (H, D, D') -> (..., H, D')."""
    return torch.einsum("...hd,hde->...he", x, weight)


class Separable(Pairwise):
    """score = link(query_term(q) + key_term(k)): only scalars meet, so per-node terms are computed once."""

    pair_width = 1

    @abstractmethod
    def query_term(self, q: Tensor) -> Tensor:
        """Shapes: (..., H, D) -> (..., H)."""

    @abstractmethod
    def key_term(self, k: Tensor) -> Tensor:
        """Shapes: (..., H, D) -> (..., H)."""

    @abstractmethod
    def link(self, total: Tensor) -> Tensor:
        """Map the summed terms to scores, element by element."""

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        return self.link(self.query_term(q) + self.key_term(k))


class InnerProduct(Pairwise):
    """score = link(scale * <query_factor(q), key_factor(k)>)."""

    scale: float
    pair_width = 1
    linked = False  # whether `link` does anything: then no kernel for inner products will do

    def query_factor(self, q: Tensor) -> Tensor:
        """Shapes: (..., H, D) -> (..., H, D')."""
        return q

    def key_factor(self, k: Tensor) -> Tensor:
        """Shapes: (..., H, D) -> (..., H, D')."""
        return k

    def link(self, product: Tensor) -> Tensor:
        """Map scaled products to scores, element by element."""
        return product

    def factors(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return both factors of a dense call. Shapes: (B, H, L, D) -> (B, H, L, D')."""
        return (
            self.query_factor(q.transpose(1, 2)).transpose(1, 2),
            self.key_factor(k.transpose(1, 2)).transpose(1, 2),
        )

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        return self.link((self.query_factor(q) * self.scale * self.key_factor(k)).sum(-1))  # sums of halves overflow

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = self.factors(q, k)
        return self.link((q * self.scale) @ k.transpose(-2, -1))
