"""What every attention mechanism is: a module that says what is computed, and declares what it can do."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from toolkit.attention.capabilities import Capabilities
from toolkit.attention.need import Need, Weights
from toolkit.attention.pattern import Pattern
from toolkit.signatures import HandsOn


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a mechanism is asked; `Mechanism.forward` says what each field holds."""

    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Pattern | None = None
    bias: Tensor | None = None
    state: Any = None
    need: Need | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionOutput:
    """What attention returns.

    Shapes: values dense (B, H, Lq, Dv), edges (Nt, H, Dv); lse the same without the last.
    weights, lse: given when `need` asks for them. state: what the next call of a mechanism with memory takes.
    aux: what else the mechanism gives, by name, such as the log-probability of what it drew.
    """

    values: Tensor
    weights: Weights | None = None
    lse: Tensor | None = None
    state: Any = None
    aux: dict[str, Tensor] = field(default_factory=dict)


class Attention(HandsOn, nn.Module):
    """Base of all that is registered as attention: options are keyword arguments, beside `heads` and `dim`.

    A constructor may end in `**options`, which go to its base class and are part of its signature like those it names
    itself. dim: the size of one head.
    """

    name: ClassVar[str]
    capabilities: Capabilities  # of the class, or of an instance whose options change what it can do

    def __init__(self, *, heads: int, dim: int) -> None:
        super().__init__()
        if heads < 1 or dim < 1:
            raise ValueError(f"{type(self).__name__} wants positive heads and dim, but heads={heads}, dim={dim}")
        self.heads, self.dim = heads, dim

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dim={self.dim}"


class Mechanism(Attention):
    """Base of attention between queries and keys; a subclass writes `attend`.

    dim: the size D of one head's queries and keys.
    projections: which of q, k, v a layer projects with the same weights: `shared` all three, `shared_kv` k and v,
    `separate` none.
    reads_queries: whether scores depend on what queries hold; without it a layer need not project them.
    """

    projections: ClassVar[Literal["shared", "shared_kv", "separate"]] = "separate"
    reads_queries: ClassVar[bool] = True

    @property
    def learns_from_aux(self) -> bool:
        """Whether its scores get their gradient from a loss on `aux` alone, so that a model must add one."""
        return False

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: Pattern | None = None,
        *,
        bias: Tensor | None = None,
        state: Any = None,
        need: Need | None = None,
    ) -> AttentionOutput:
        """Attend. A row that may look at nothing gives 0, with gradient 0.

        Shapes: dense q (B, H, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv), Hkv dividing H; edges q (Nt, H, D),
        k (Ns, H, D), v (Ns, H, Dv) with pattern `edges(...)`. bias is added to the scores: it broadcasts to
        (B, H, Lq, Lk), or is (E, H) or (E, 1) in the caller's edge order.
        Raises: ShapeError for tensors that do not fit, CapabilityError for what this mechanism does not do.
        """
        return self.attend(Request(q=q, k=k, v=v, pattern=pattern, bias=bias, state=state, need=need))

    @property
    def positional(self) -> bool:
        """Whether the places of queries and keys matter beyond the pattern."""
        return bool(self.capabilities.positional)

    @abstractmethod
    def attend(self, request: Request) -> AttentionOutput:
        """Answer a request; see `forward` for the shapes."""


class Buildable(Protocol):
    """A mechanism that is chosen but not yet built: a layer knows heads and dim."""

    def build(self, *, heads: int, dim: int) -> Mechanism: ...
