"""Attention whose weights are a kernel phi(q) . phi(k) over its sum: linear in the length, causal and recurrent too."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention.call import Call, checked
from toolkit.attention.mechanism import AttentionOutput, Mechanism, Request
from toolkit.attention.need import Weights
from toolkit.attention.normalizers import DenseRows
from toolkit.attention.running_sums import Along, Keys, Sums, add, along, empty
from toolkit.attention.terms import Terms, read, refuse
from toolkit.attention.weighing import gather
from toolkit.errors import ShapeError

Features = tuple[Tensor, Tensor | None]
"""Features (B, H, L, F), none negative, and their scale (B, H, L) without gradient: phi = exp(scale) * features; None
is a scale of 0."""


class KernelState(NamedTuple):
    """What the keys seen so far add up to, all that later queries need: exp(peak) * (sums, total).

    Shapes: sums (B, H, F, Dv) is S, total (B, H, F) is z, peak (B, H) is 0 for features without a scale.
    """

    sums: Tensor
    total: Tensor
    peak: Tensor


class KernelAttention(Mechanism):
    """w_ij = phi(q_i) . phi(k_j) / sum over the keys that i may look at. A subclass writes phi.

    Answers full, causal and padded attention, packed documents (`segments` of one sequence), and these together. Sums
    are taken in single precision at least, also under autocast.
    state: what a causal call returns; the next call takes it, and its queries look at the keys of earlier calls as
    well as at those they are given. One token at a time, that equals the whole sequence. A pattern speaks of the keys
    of its own call; masked ones are in no state.
    Source: arXiv:2006.16236, eq. 4 to 12 and sec. 3.4.
    """

    @abstractmethod
    def query_features(self, q: Tensor) -> Features:
        """Return phi of queries. Shapes: q (B, H, L, D)."""

    @abstractmethod
    def key_features(self, k: Tensor) -> Features:
        """Return phi of keys. Shapes: k (B, H, L, D)."""

    def along(self, call: Call, terms: Terms) -> Along:
        """Return what sums along the keys of a call, as it was given: plain torch, or a kernel that does the same."""
        return along

    def attend(self, request: Request) -> AttentionOutput:
        call = checked(request, self)
        terms = read(call, self, segments=True)
        state, need, behind = request.state, request.need, call.k.shape[2] - call.queries
        segmented = terms.segments is not None
        weighing = need is not None and (need.weights or need.received)
        refuse(
            self,
            (request.bias is not None, "a bias", "it has no scores to add it to; scaled_dot_product has"),
            (state is not None and segmented, "a state and segments", "a state does not know the segments of its keys"),
            (
                state is not None and terms.causal and behind < 0,
                f"a state and {-behind} queries more than keys",
                "the first of them stand at keys that the state has summed up",
            ),
            (
                state is not None and weighing,
                "a state and a need for weights",
                "the keys behind a state are summed up; give all keys and no state to see their weights",
            ),
        )
        call, looked = call.quarantined()
        with torch.autocast(call.q.device.type, enabled=False):
            values, lse, after = self._mix(_widened(call), terms, state, self.along(call, terms))
            with torch.set_grad_enabled(torch.is_grad_enabled() and need is not None and need.gradient):
                weights = self._weigh(_widened(call), terms) if weighing else None
        if looked is not None:
            after = after._replace(sums=after.sums.masked_fill(looked.any(-1)[..., None, None], float("nan")))
        values, weights, shown_lse = call.spoiled(looked, values, weights, lse)
        kept = KernelState(after.sums[..., :-1], after.sums[..., -1], after.peak)
        return AttentionOutput(
            values=values.to(request.v.dtype),
            weights=weights,
            lse=shown_lse if need is not None and need.lse else None,
            state=None if segmented or not (terms.causal or state is not None) else kept,
        )

    def _mix(
        self, call: Call, terms: Terms, state: KernelState | None, sums_along: Along
    ) -> tuple[Tensor, Tensor, Sums]:
        """Return values, the logarithm of what normalises them, and the sums after the last key."""
        q, runs, back = call.q, terms.segments, None
        k, v, hidden = call.k, call.v, None if terms.keys is None else ~terms.keys
        if hidden is not None:
            k, v = k.masked_fill(hidden[..., None], 0), v.masked_fill(hidden[..., None], 0)
        if runs is not None and bool((runs.diff(dim=1) < 0).any()):  # stable: the order within a segment stays
            runs, order = runs.sort(dim=1, stable=True)
            back = order.argsort(1)
            q, k, v = (_taken(x, order) for x in (q, k, v))
            hidden = None if hidden is None else _taken(hidden.expand(q.shape[:3])[..., None], order)[..., 0]
        queries, query_scale = self.query_features(q)
        keys = self._keys(k, v, hidden)
        before = empty(keys) if state is None else self._sums(state, keys)
        behind = k.shape[2] - q.shape[2]
        if terms.causal or runs is not None:
            before = add(before, keys.cut(None, behind)) if behind > 0 else before
            summed, peak, after = sums_along(
                queries[:, :, max(0, -behind) :],
                keys.cut(max(0, behind), None),
                before,
                runs=runs,
                causal=terms.causal,
            )
            if behind < 0:  # these queries stand before the first key
                summed, peak = F.pad(summed, (0, 0, -behind, 0)), F.pad(peak, (-behind, 0))
        else:
            after = add(before, keys)
            summed, peak = queries @ after.sums, after.peak[..., None]
        total = summed[..., -1]
        values = summed[..., :-1] / total.masked_fill(total == 0, 1)[..., None]
        lse = total.log() + peak + (0 if query_scale is None else query_scale)
        return (
            (values, lse, after)
            if back is None
            else (_taken(values, back), _taken(lse[..., None], back)[..., 0], after)
        )

    def _keys(self, k: Tensor, v: Tensor, hidden: Tensor | None) -> Keys:
        """Return features of keys, 0 where hidden, and values with a column of ones, which sums what normalises."""
        features, scale = self.key_features(k)
        if hidden is not None:
            features = features.masked_fill(hidden[..., None], 0)
            scale = None if scale is None else scale.masked_fill(hidden, -torch.inf)
        return Keys(features, scale, torch.cat([v, torch.ones_like(v[..., :1])], -1))

    def _sums(self, state: Any, keys: Keys) -> Sums:
        batch, heads, _, width = keys.k.shape
        want = [(batch, heads, width, keys.v.shape[-1] - 1), (batch, heads, width), (batch, heads)]
        given = [tuple(each.shape) for each in state] if isinstance(state, KernelState) else type(state).__name__
        if given != want:
            raise ShapeError(f"{self.name} wants the state of an earlier call, of shapes {want}, but was given {given}")
        sums, total, peak = (each.to(keys.k.dtype) for each in state)
        return Sums(torch.cat([sums, total[..., None]], -1), peak)

    def _weigh(self, call: Call, terms: Terms) -> Weights | None:
        """Compute the weights that are needed, a few rows at a time."""
        k = call.k if terms.keys is None else call.k.masked_fill(~terms.keys[..., None], 0)
        (queries, _), (keys, scale) = self.query_features(call.q), self.key_features(k)

        def weigh_some(rows: Tensor) -> Tensor:
            mask = call.mask(rows)
            pairs = queries.index_select(2, rows) @ keys.mT
            if scale is not None:
                shown = scale[:, :, None] if mask is None else scale[:, :, None].masked_fill(~mask, -torch.inf)
                peak = DenseRows().max(shown)
                pairs = pairs * (shown - peak.masked_fill(peak == -torch.inf, 0)).exp()
            elif mask is not None:
                pairs = pairs.masked_fill(~mask, 0)
            total = pairs.sum(-1, keepdim=True)
            return pairs / total.masked_fill(total == 0, 1)

        return gather(call, weigh_some)


def _widened(call: Call) -> Call:
    wide = torch.promote_types(call.q.dtype, torch.float32)  # long sums lose too much in half precision
    return replace(call, q=call.q.to(wide), k=call.k.to(wide), v=call.v.to(wide))


def _taken(x: Tensor, order: Tensor) -> Tensor:
    """Take positions of each sample. Shapes: x (B, H, L, D), order (B, L)."""
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
