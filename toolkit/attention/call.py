"""One request to a pairwise mechanism, checked: what every backend receives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.attention.capabilities import Layout
from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.need import Need, Weights
from toolkit.attention.pattern import Full, Lengths, Pattern, describe
from toolkit.errors import CapabilityError, ShapeError

if TYPE_CHECKING:
    from toolkit.attention.mechanism import Mechanism, Request


@dataclass(frozen=True, kw_only=True)
class Call:
    """Queries, keys and values whose shapes agree, key and value heads already repeated to H. `dropout` is a rate.

    queries: how many queries the pattern speaks of; q holds fewer when it is a choice of rows.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Pattern | None
    bias: Tensor | None
    need: Need | None
    dropout: float
    layout: Layout
    queries: int

    @property
    def edges(self) -> EdgePattern:
        assert isinstance(self.pattern, EdgePattern)
        return self.pattern

    def mask(self, rows: Tensor | None = None) -> Tensor | None:
        """Lower the pattern to a dense mask (B or 1, H or 1, R, Lk); None when everything is allowed."""
        if self.pattern is None or isinstance(self.pattern, Full):
            return None
        batch, heads, keys, device = *self.q.shape[:2], self.k.shape[2], self.q.device
        return self.pattern.mask(self.queries, keys, batch=batch, heads=heads, rows=rows, device=device)

    def places(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return head, query position and key position, shaped to broadcast to (1, H, R, Lk); aligned bottom-right."""
        heads, keys, device = self.q.shape[1], self.k.shape[2], self.q.device
        i = torch.arange(self.queries, device=device) if rows is None else rows
        head = torch.arange(heads, device=device)[None, :, None, None]
        return head, (i + keys - self.queries)[None, None, :, None], torch.arange(keys, device=device)[None, None, None]

    def rows(self, rows: Tensor) -> Call:
        """Return the same request for some query rows of a dense layout; the pattern is lowered to those rows."""
        bias = self.bias
        if bias is not None and bias.shape[2] > 1:
            bias = bias.index_select(2, rows)
        return replace(self, q=self.q.index_select(2, rows), bias=bias)

    def quarantined(self) -> tuple[Call, Tensor | None]:
        """Take NaN and infinity out of keys and values, and say which rows look at them.

        Zero times NaN is NaN, so a fast backend would spread them from masked keys to rows that never look there.
        Shapes: rows dense (B, H, Lq), edges (Nt, H) bool; None when all is finite, which costs one pass over k and v.
        A compiler cannot look at numbers: there, keys that no query may look at, such as padding, are cleaned unasked.
        """
        if self.pattern is None or isinstance(self.pattern, Full):
            return self, None
        if torch.compiler.is_compiling():
            hidden = self.pattern.hidden(Lengths(self.queries, self.k.shape[2])) if self.layout == "dense" else None
            if hidden is None:
                return self, None
            k, v = (x.masked_fill(hidden[..., None], 0) for x in (self.k, self.v))
            return replace(self, k=k, v=v), None
        with torch.no_grad():
            total = self.v.sum() if self.k is self.v else self.k.sum() + self.v.sum()
            if bool(torch.isfinite(total)):
                return self, None
            bad = ~(torch.isfinite(self.k).all(-1) & torch.isfinite(self.v).all(-1))
            if self.layout == "edges":
                seen = bad.new_zeros(self.q.shape[:2], dtype=torch.int64)
                looked = seen.index_add_(0, self.edges.index[1], bad[self.edges.index[0]].long()) > 0
            else:
                steps = torch.arange(self.q.shape[2], device=bad.device).split(256)
                parts = [(self.mask(rows) & bad[:, :, None]).any(-1) for rows in steps]  # type: ignore[operator]
                looked = torch.cat(parts, 2) if parts else bad.new_zeros(self.q.shape[:3])
        clean = bad[..., None]
        return replace(self, k=self.k.masked_fill(clean, 0), v=self.v.masked_fill(clean, 0)), looked

    def spoiled(
        self, looked: Tensor | None, values: Tensor, weights: Weights | None = None, lse: Tensor | None = None
    ) -> tuple[Tensor, Weights | None, Tensor | None]:
        """Give NaN to the rows that look at NaN or infinity, and only to those, in all that is shown of them.

        Shapes: looked as `quarantined` gives it, lse like it; received mass is NaN for all keys that such rows share.
        """
        if looked is None:
            return values, weights, lse
        values = values.masked_fill(looked[..., None], float("nan"))
        lse = None if lse is None else lse.masked_fill(looked, float("nan"))
        return values, None if weights is None else self._spoiled(looked, weights), lse

    def _spoiled(self, looked: Tensor, weights: Weights) -> Weights:
        shown, received = weights.values, weights.received
        looked = looked if weights.heads is None else looked[:, list(weights.heads)]
        if self.layout == "dense":
            rows = looked if weights.rows is None else looked.index_select(2, weights.rows)
            row, key = rows[..., None], rows.any(2)[..., None]
        else:
            source, target = self.edges.index if weights.edges is None else self.edges.index[:, weights.edges]
            row = looked[target]
            key = row.new_zeros(len(self.k), row.shape[1], dtype=torch.int64).index_add_(0, source, row.long()) > 0
        return replace(
            weights,
            values=None if shown is None else shown.masked_fill(row, float("nan")),
            received=None if received is None else received.masked_fill(key, float("nan")),
        )


def checked(request: Request, mechanism: Mechanism, dropout: float = 0.0) -> Call:
    """Check that tensors, pattern and bias belong together. Raises: ShapeError, CapabilityError."""
    q, k, v, pattern, bias = request.q, request.k, request.v, request.pattern, request.bias
    heads, dim, name = mechanism.heads, mechanism.dim, mechanism.name
    given = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.dim() == k.dim() == v.dim() or q.dim() not in (3, 4):
        raise ShapeError(f"{name} wants q (B, H, Lq, D), k, v (B, Hkv, Lk, D), or edges q (N, H, D); given {given}")
    layout: Layout = "edges" if q.dim() == 3 else "dense"
    if layout not in mechanism.capabilities.layouts:
        raise CapabilityError(
            f"{name} runs on {', '.join(sorted(mechanism.capabilities.layouts))}, but {given} is the {layout} layout"
        )
    if q.shape[1] != heads or q.shape[-1] != dim:
        raise ShapeError(f"{name} was built for heads={heads}, dim={dim}, but given {given}")
    kv_heads = k.shape[1]
    fits = k.shape[:-1] == v.shape[:-1] and k.shape[-1] == dim and kv_heads and heads % kv_heads == 0
    if not fits or (layout == "dense" and q.shape[0] != k.shape[0]):
        raise ShapeError(
            f"{name} wants k and v alike but for the last size, with heads that divide {heads}; given {given}"
        )
    if layout == "edges":
        if not isinstance(pattern, EdgePattern):
            raise CapabilityError(
                f"{name} was given {given}, the edge layout, with pattern {describe(pattern)}; it needs edges(index, "
                "...). to_edges(pattern, queries, keys) lists a pattern's pairs; dense attention takes q (B, H, L, D)"
            )
        shape = (q.shape[0], k.shape[0])
        if shape != (pattern.num_targets, pattern.num_sources):
            ends = f"{pattern.num_targets} targets and {pattern.num_sources} sources"
            raise ShapeError(f"the edges connect {ends} but {name} was given {given}")
        want: tuple[int, ...] = (pattern.num_edges, heads)
    else:
        want = (q.shape[0], heads, q.shape[2], k.shape[2])
    if bias is not None:
        bias = _broadcast(bias, want, name)
    if kv_heads != heads:
        same = k is v
        k = k.repeat_interleave(heads // kv_heads, 1)
        v = k if same else v.repeat_interleave(heads // kv_heads, 1)
    queries = q.shape[-2 if layout == "dense" else 0]
    if request.need is not None:
        check_need(request.need, queries, heads, name)
    return Call(
        q=q, k=k, v=v, pattern=pattern, bias=bias, need=request.need, dropout=dropout, layout=layout, queries=queries
    )


def check_need(need: Need, queries: int, heads: int, name: str) -> None:
    """Raise ShapeError unless the rows and heads that are needed are there, each asked for once."""
    for what, chosen, size in (("rows", need.rows, queries), ("heads", need.heads, heads)):
        if chosen is None or torch.compiler.is_compiling():
            continue
        places = torch.as_tensor(chosen)
        if places.numel() and (
            int(places.min()) < 0 or int(places.max()) >= size or places.unique().numel() < len(places)
        ):
            raise ShapeError(
                f"{name}: need.{what} are different places from 0 to {size - 1}, but {places.tolist()} was given"
            )


def _broadcast(bias: Tensor, want: tuple[int, ...], name: str) -> Tensor:
    while bias.dim() < len(want) and len(want) == 4:
        bias = bias[None]
    if bias.dim() != len(want) or any(have not in (1, size) for have, size in zip(bias.shape, want, strict=True)):
        raise ShapeError(f"{name} wants a bias that broadcasts to {want}, but {tuple(bias.shape)} was given")
    return bias if len(want) == 4 else bias.expand(want[0], -1)  # edges are picked by place


def dropout_rate(module: Any) -> float:
    """Return the dropout rate that holds now: 0 in evaluation."""
    return float(module.dropout) if module.training else 0.0
