"""What adapters of other packages share: they read the pattern, hand over tensors and masks, and compute nothing.

An adapter declares what its peer's documentation and signatures claim, and refuses the rest, so that what a peer does
not claim (causality of linformer, weights of performer-pytorch) is not counted against it. Peers that project x
themselves are given q, k, v side by side as features, and `Part` in place of each projection.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from toolkit.attention.call import Call, checked
from toolkit.attention.mechanism import Mechanism, Request
from toolkit.attention.need import Need
from toolkit.attention.terms import Terms, read, refuse
from toolkit.errors import ShapeError

DENSE: Any = frozenset({"dense"})


class Part(nn.Module):
    """Stands in the place of a projection: takes one of the equal parts that features are made of."""

    def __init__(self, place: int, parts: int) -> None:
        super().__init__()
        self.place, self.parts = place, parts

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(self.parts, -1)[
            self.place
        ].clone()  # a tensor of its own, as a projection's is: peers write to it


class Peer(Mechanism):
    """Base of adapters. claims: what the peer's documentation and signatures offer, in words."""

    claims: ClassVar[str]

    def read(self, request: Request, *, biased: bool = False) -> tuple[Call, Terms]:
        """Check a request and read its pattern, refusing what the peer does not claim."""
        call = checked(request, self)
        self.refuse(request, biased=biased)
        return call, read(call, self)

    def refuse(self, request: Request, *, biased: bool = False) -> None:
        """Refuse what the peer does not claim. Raises: CapabilityError."""
        need, can = request.need or Need(weights=False), self.capabilities
        lengths = request.q.shape[2], request.k.shape[2]
        refuse(
            self,
            (request.bias is not None and not biased, "a bias", "the peer takes none"),
            (request.state is not None, "a state", "the peer keeps none"),
            (need.lse, "a need for lse", "the peer gives none"),
            (can.weights == "none" and (need.weights or need.received), "a need for weights", "the peer gives none"),
            (not can.cross and lengths[0] != lengths[1], f"{lengths} queries and keys", "the peer takes one sequence"),
        )


def keys_of(call: Call, terms: Terms) -> Tensor | None:
    """Return the keys that may be looked at, as peers want them. Shapes: (B, Lk) bool."""
    return None if terms.keys is None else terms.keys[:, 0].expand(call.q.shape[0], -1)


def merged(call: Call) -> list[Tensor]:
    """Lay heads side by side. Shapes: (B, H, L, D) -> (B, L, H D)."""
    if call.v.shape[-1] != call.q.shape[-1]:
        raise ShapeError(f"the peer has one size of heads, but q {tuple(call.q.shape)}, v {tuple(call.v.shape)}")
    return [each.transpose(1, 2).flatten(2) for each in (call.q, call.k, call.v)]


def split(values: Tensor, heads: int) -> Tensor:
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)
