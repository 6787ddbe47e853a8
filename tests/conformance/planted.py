"""Small mechanisms with one bug each of who looks at whom, and two without: written as a newcomer would, by loops."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention import AttentionOutput, Capabilities, Mechanism, Request, Weights, causal, dense, full
from toolkit.attention.call import Call, checked
from toolkit.attention.pattern import Dense
from toolkit.errors import CapabilityError


class Sound(Mechanism):
    """Scaled dot-product attention on sequences and edges, by loops of its own; every bug is one method changed."""

    name = "sound"
    capabilities = Capabilities(cost="L^2 D", paper="arXiv:1706.03762", equation="softmax_j q_i . k_j", sums="one")

    def __init__(self, *, heads: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__(heads=heads, dim=dim)
        self.dropout = dropout
        self.temperature = torch.nn.Parameter(torch.ones(heads))

    def attend(self, request: Request) -> AttentionOutput:
        if request.state is not None:
            raise CapabilityError("sound keeps no state")
        call, looked = checked(request, self).quarantined()
        given = call
        if call.layout == "edges":
            call = self.dense_twin(call)
        mask = self.mask(call)
        weights = self.weigh(self.scores(call), mask)
        dropped = self.drop(weights)
        values = self.mix(dropped, call)
        if given.layout == "edges":
            values = values[0].transpose(0, 1)
        if looked is not None:
            values = values.masked_fill(looked[..., None], float("nan"))
        shown = None if given.need is None else self.show(weights, given)
        return AttentionOutput(values=values, weights=shown)

    def dense_twin(self, call: Call) -> Call:
        """Turn a multigraph into a dense call with one column an edge, so that repeated edges stay apart."""
        source, target = call.edges.index
        own = target[None, :] == torch.arange(call.q.shape[0])[:, None]  # (Nt, E)
        bias = None if call.bias is None else call.bias.T[None, :, None]
        q, k, v = call.q, self.taken(call.k, source), self.taken(call.v, source)
        q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
        return replace(call, q=q, k=k, v=v, pattern=dense(own), bias=bias)

    def taken(self, x: Tensor, source: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)  # gradients of all its edges add up in single precision
        return x.to(wide)[source].to(x.dtype)

    def mask(self, call: Call) -> Tensor:
        queries, keys = call.q.shape[2], call.k.shape[2]
        if call.pattern is None:
            return torch.ones(1, 1, queries, keys, dtype=torch.bool)
        return call.pattern.mask(queries, keys, batch=call.q.shape[0], heads=self.heads)

    def scores(self, call: Call) -> Tensor:
        scores = (call.q @ call.k.transpose(-2, -1)) * (self.temperature[:, None, None] / self.dim**0.5)
        return scores if call.bias is None else scores + call.bias

    def weigh(self, scores: Tensor, mask: Tensor) -> Tensor:
        empty = ~mask.any(-1, keepdim=True)
        return scores.masked_fill(~(mask | empty), -torch.inf).softmax(-1).masked_fill(~mask, 0)

    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout, self.training)

    def mix(self, weights: Tensor, call: Call) -> Tensor:
        return weights @ call.v

    def show(self, weights: Tensor, call: Call) -> Weights:
        need = call.need
        assert need is not None
        if (need.rows, need.heads, need.received, need.lse, need.gradient) != (None, None, False, False, False):
            raise CapabilityError("sound shows all weights or none")
        if call.layout == "edges":
            target = call.edges.index[1]
            weights = weights[0][:, target, torch.arange(len(target))].T
        return Weights(pattern=call.pattern, values=weights.detach())


class TopLeft(Sound):
    """Causality aligned top-left: with more queries than keys, a query sees keys of its future."""

    def mask(self, call: Call) -> Tensor:
        if call.pattern == causal():
            return torch.ones(call.q.shape[2], call.k.shape[2], dtype=torch.bool).tril()[None, None]
        return super().mask(call)


class PaddingLeaks(Sound):
    """Padded keys get a large negative score in place of none: where all are padded, or small, they still count."""

    def weigh(self, scores: Tensor, mask: Tensor) -> Tensor:
        empty = ~mask.any(-1, keepdim=True)
        return scores.masked_fill(~mask, -3.0).softmax(-1).masked_fill(empty, 0)


class BatchMixes(Sound):
    """Scores are divided by their spread over the whole batch."""

    def scores(self, call: Call) -> Tensor:
        scores = super().scores(call)
        return scores / (1 + scores.detach().abs().mean())


class LongestSampleScales(Sound):
    """Under a mask of its own for each sample, scores are scaled by the most keys that any row of the batch may see."""

    def scores(self, call: Call) -> Tensor:
        own = isinstance(call.pattern, Dense) and call.pattern.per_sample
        return super().scores(call) * (self.mask(call).sum(-1).max() if own else 1)


class EmptyRowsAreNaN(Sound):
    """The softmax of a row without keys is 0 / 0."""

    def weigh(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)


class InvertedMask(Sound):
    """True is taken for `may not look`, as in nn.MultiheadAttention."""

    def mask(self, call: Call) -> Tensor:
        return super().mask(call) if call.pattern is None else ~super().mask(call)


class MovedSelfLoops(Sound):
    """Self-loops go to the end of the edges, as in PyG's GATConv, and the weights come back in that order."""

    def show(self, weights: Tensor, call: Call) -> Weights:
        shown = super().show(weights, call)
        if call.layout == "dense":
            return shown
        source, target = call.edges.index
        loop = source == target
        order = torch.cat([(~loop).nonzero()[:, 0], loop.nonzero()[:, 0]])
        return Weights(pattern=call.pattern, values=shown.values[order])


class Unnormalised(Sound):
    """Raised scores are never divided by their sum."""

    def weigh(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.exp().masked_fill(~mask, 0)


class DropsInEvaluation(Sound):
    """F.dropout drops by default, whatever the mode of the module."""

    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout)


class OtherWeights(Sound):
    """The weights shown are averaged over heads; those used are not."""

    def show(self, weights: Tensor, call: Call) -> Weights:
        return super().show(weights.mean(1, keepdim=True).expand_as(weights), call)


class PoisonSpreads(Sound):
    """0 times NaN is NaN: masked values are multiplied all the same."""

    def attend(self, request: Request) -> AttentionOutput:
        call = checked(request, self)
        if call.layout == "edges":
            return super().attend(request)
        return AttentionOutput(
            values=self.mix(self.weigh(self.scores(call), self.mask(call)), call),
            weights=None if call.need is None else self.show(self.weigh(self.scores(call), self.mask(call)), call),
        )


class SeesPlaces(Sound):
    """Later keys count more, and it does not say so."""

    def scores(self, call: Call) -> Tensor:
        return super().scores(call) + torch.arange(call.k.shape[2]) / 10


class EdgesMeanSomethingElse(Sound):
    """On edges the score is not scaled."""

    def dense_twin(self, call: Call) -> Call:
        twin = super().dense_twin(call)
        return replace(twin, q=twin.q * 2)


class QueriesSeePlaces(Sound):
    """Later queries are sharper, and it does not say so."""

    def scores(self, call: Call) -> Tensor:
        return super().scores(call) * (1 + torch.arange(call.q.shape[2])[:, None] / 10)


class Running(Mechanism):
    """Linear attention as a running sum, which goes on from its state."""

    name = "running"
    capabilities = Capabilities(
        layouts=frozenset({"dense"}), cross=False, weights="none", sums="one", state="keys", positional=True,
        cost="L D^2", paper="arXiv:2006.16236", equation="eq. 9",
    )  # fmt: skip

    def attend(self, request: Request) -> AttentionOutput:
        call = checked(request, self)
        if call.pattern not in (causal(), full(), None) or call.need is not None or call.bias is not None:
            raise CapabilityError("running is causal or looks everywhere, and has no weights")
        if call.queries != call.k.shape[2]:
            raise CapabilityError("running wants as many keys as queries")
        q, k = (F.elu(each) + 1 for each in (call.q, call.k))
        pairs = (k[..., None] * call.v[..., None, :]).cumsum(2)  # (B, H, L, D, Dv)
        mass = k.cumsum(2)
        if call.pattern != causal():
            pairs, mass = pairs[:, :, -1:], mass[:, :, -1:]
        if request.state is not None:
            pairs, mass = pairs + request.state[0], mass + request.state[1]
        values = (q[..., None, :] @ pairs)[..., 0, :] / (q * mass).sum(-1, keepdim=True)
        return AttentionOutput(values=values, state=self.kept(pairs[:, :, -1:], mass[:, :, -1:]))

    def kept(self, pairs: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        return pairs, mass


class Forgets(Running):
    """Half of the state gets lost between calls."""

    def kept(self, pairs: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        return pairs / 2, mass


class Noisy(Sound):
    """A random start decides the outcome, in evaluation too."""

    def scores(self, call: Call) -> Tensor:
        return super().scores(call) + torch.randn(()) * torch.arange(call.k.shape[2])


class CausalInSilence(Sound):
    """It declares no causal patterns and takes them all the same."""

    capabilities = Capabilities(
        cost="L^2 D", paper="arXiv:1706.03762", equation="softmax_j q_i . k_j", sums="one", causal=False
    )


class ChangesItsInput(Sound):
    """An operation in place on what it was given."""

    def scores(self, call: Call) -> Tensor:
        with torch.no_grad():
            call.q.mul_(1.5)
        return super().scores(call)
