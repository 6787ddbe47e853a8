"""Keys and values of the tokens so far, for decoding a few tokens at a time, in memory that is allocated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from toolkit.attention.edge_pattern import EdgePattern
from toolkit.attention.pattern import Lengths, Pattern, full
from toolkit.attention.wrapped import Wrapped
from toolkit.errors import CapabilityError, ShapeError

Evict = Literal["none", "oldest", "sinks"]
_SINKS = 4  # as the paper keeps


class KVCache:
    """Keys and values of one layer while it decodes: `append` a few, attend to what it returns.

    `MultiHeadAttention` does so by itself when it is given a cache as its state. For a mechanism alone:

        cache = KVCache(batch=1, heads=8, dim=64, capacity=1024, evict="sinks")
        k, v = cache.append(k, v)
        output = attend(q, k, v, cache.pattern(attention.causal()))

    All samples take the same number of tokens at a time; prompts of different lengths are padded, and the pattern says
    where. Patterns speak of all tokens since the start, as if none had been evicted, with the last query at the last
    key; `pattern` asks them about those that are kept.
    evict: what goes when `capacity` is full: `none` raises, `oldest` keeps the newest, `sinks` keeps the first `sinks`
    tokens, 4 unless given, and the newest of the others. What a mechanism adds by position (rotary, ALiBi, T5) counts
    places among the kept keys, as the source does; `positions` gives those since the start.
    When several tokens come at once, what goes is gone for all of them: one at a time, each would see `capacity` keys.
    A pattern that looks back less than capacity - n keys, for n at a time, gives the same either way.
    Tensors returned are views, good until the next `append`. For inference: it refuses keys that want gradients.
    Shapes: key (B, H, capacity, D), value (B, H, capacity, Dv), where H may be the heads of grouped keys.
    Source of `sinks`: Xiao et al. 2024, arXiv:2309.17453, sec. 3.2.
    """

    def __init__(
        self,
        *,
        batch: int,
        heads: int,
        dim: int,
        capacity: int,
        value_dim: int | None = None,
        evict: Evict = "none",
        sinks: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if evict not in ("none", "oldest", "sinks"):
            raise ValueError(f"KVCache evicts 'none', 'oldest' or 'sinks', but {evict!r} was given")
        if min(batch, heads, dim, capacity, 1 if value_dim is None else value_dim) < 1:
            raise ValueError(
                f"KVCache wants positive sizes, but batch={batch}, heads={heads}, dim={dim}, capacity={capacity}, "
                f"value_dim={value_dim} were given"
            )
        if sinks is not None and evict != "sinks":
            raise ValueError(
                f"KVCache keeps sinks={sinks} with evict='sinks' only, but evict={evict!r} was given; leave sinks out, "
                "or give evict='sinks'"
            )
        self.evict, self.capacity = evict, capacity
        self.sinks = (_SINKS if sinks is None else sinks) if evict == "sinks" else 0
        if not 0 <= self.sinks < capacity:
            raise ValueError(f"KVCache wants fewer sinks than its capacity of {capacity}, but sinks={self.sinks}")
        self.key = torch.zeros(batch, heads, capacity, dim, dtype=dtype, device=device)
        self.value = torch.zeros(batch, heads, capacity, value_dim or dim, dtype=dtype, device=device)
        self._positions = torch.zeros(capacity, dtype=torch.long, device=device)
        self.length = self.total = 0  # tokens kept, and tokens seen

    @property
    def positions(self) -> Tensor:
        """Where each kept token stands since the start. Shapes: (length,)."""
        return self._positions[: self.length]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take in new tokens, and return all that are kept, the new ones last.

        Shapes: k (B, H, n, D), v (B, H, n, Dv) -> (B, H, length, D), (B, H, length, Dv).
        Raises: ShapeError for other shapes or types, or more tokens than there is room for; CapabilityError for tensors
        that want gradients.
        """
        self._check(k, v)
        new = k.shape[2]
        if (excess := self.length + new - self.capacity) > 0:
            self._evict(excess, new)
        end = self.length + new
        self.key[:, :, self.length : end] = k.detach()
        self.value[:, :, self.length : end] = v.detach()
        if new == 1:  # as decoding goes: no tensor for one number
            self._positions[self.length] = self.total
        else:
            self._positions[self.length : end] = torch.arange(self.total, self.total + new, device=self.key.device)
        self.length, self.total = end, self.total + new
        return self.key[:, :, :end], self.value[:, :, :end]

    def pattern(self, pattern: Pattern | None) -> Pattern | None:
        """Return `pattern`, made for all tokens since the start, for the kept keys that `append` returned.

        None stays None until something is evicted. Then mechanisms with a pattern of their own, such as block_local,
        learn from this one where the kept keys stand.
        """
        if self.length == self.total:
            return pattern
        if isinstance(pattern, EdgePattern):
            raise CapabilityError("a cache holds sequences, and edges is no pattern of these; dense(edges.table) is")
        return Kept(pattern or full(), self.positions.clone(), self.total)

    def reset(self) -> None:
        """Forget everything; the memory stays allocated."""
        self.length = self.total = 0

    def reorder(self, samples: Tensor) -> None:
        """Let each sample go on from another, as beam search does, or leave some out.

        Shapes: samples (B',) positions in the batch, which then has B' samples. Raises: ShapeError.
        """
        if samples.dim() != 1 or not len(samples):
            raise ShapeError(f"reorder wants positions of one sample or more, but {tuple(samples.shape)} was given")
        if len(samples) != len(self.key):
            self.key, self.value = self.key[samples], self.value[samples]
            return
        for x in (self.key, self.value):
            x[:, :, : self.length] = x[samples, :, : self.length]

    def _check(self, k: Tensor, v: Tensor) -> None:
        for what, x, own in (("k", k, self.key), ("v", v, self.value)):
            batch, heads, _, dim = own.shape
            if x.dim() != 4 or (*x.shape[:2], x.shape[3]) != (batch, heads, dim) or x.shape[2] != k.shape[2]:
                raise ShapeError(
                    f"this cache takes {what} of shape ({batch}, {heads}, n, {dim}), but {tuple(x.shape)} was given"
                )
            if x.dtype != own.dtype or x.device != own.device:
                raise ShapeError(
                    f"this cache holds {own.dtype} on {own.device}, but {what} is {x.dtype} on {x.device}; build it "
                    "with that dtype and device"
                )
            if x.requires_grad and torch.is_grad_enabled():
                raise CapabilityError(f"KVCache is for inference, but {what} wants a gradient; use torch.no_grad()")

    def _evict(self, excess: int, new: int) -> None:
        if self.evict == "none":
            raise ShapeError(
                f"the cache is full: {self.length} of {self.capacity} tokens are kept and {new} were given; give it a "
                "larger capacity, or evict='oldest' or 'sinks'"
            )
        if new > self.capacity - self.sinks:
            raise ShapeError(
                f"{new} tokens at once do not fit beside {self.sinks} sinks into a capacity of {self.capacity}; append "
                "them in parts"
            )
        kept = slice(self.sinks + excess, self.length)
        place = slice(self.sinks, self.length - excess)
        for x in (self.key, self.value):
            x[:, :, place] = x[:, :, kept].clone()  # the two places may overlap
        self._positions[place] = self._positions[kept].clone()
        self.length -= excess


@dataclass(frozen=True, eq=False)
class Kept(Wrapped):
    """A pattern over `total` tokens, asked about the keys at some positions. Shapes: positions (Lk,)."""

    positions: Tensor
    total: int

    def inner(self, shape: Lengths) -> Lengths:
        return Lengths(shape.queries, self.total)

    def beside(self, own: Pattern) -> Pattern:
        return Kept(own, self.positions, self.total)

    def allowed(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, shape: Lengths) -> Tensor:
        return self.base.allowed(b, h, i, self.positions[j], self.inner(shape))

    def check(self, batch: int, heads: int, shape: Lengths) -> None:
        if shape.keys != len(self.positions):
            raise ShapeError(
                f"this pattern is for the {len(self.positions)} keys that a cache held, but there are {shape.keys}; "
                "ask the cache again after each append"
            )
        super().check(batch, heads, shape)
