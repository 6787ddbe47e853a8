"""Layers one behind another, as encoder or decoder, and what they keep while a decoder writes token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from toolkit.attention.cache import Evict, KVCache
from toolkit.attention.layer import Projected
from toolkit.attention.mechanism import Buildable, Mechanism
from toolkit.attention.need import Need, Weights
from toolkit.attention.pattern import Pattern
from toolkit.attention.transformer import Activation, Order, TransformerLayer
from toolkit.errors import CapabilityError, ShapeError


class StackOutput(NamedTuple):
    """What a stack returns. Shapes: x (B, L, dim). attention, cross: each layer's weights, if they were asked for."""

    x: Tensor
    attention: list[Weights]
    cross: list[Weights]


@dataclass
class StackState:
    """What each layer keeps between the calls of a decoder.

    layers: caches of keys and values, or the states of mechanisms that have their own. context: the projected context
    of each layer; crossing: the state of each attention to it. length: tokens taken in so far.
    """

    layers: list[Any]
    context: list[Projected] = field(default_factory=list)
    crossing: list[Any] = field(default_factory=list)
    length: int = 0

    def reorder(self, samples: Tensor) -> None:
        """Let each text go on from another. Shapes: samples (B',) places in the batch; B' may be smaller."""
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.reorder(samples)
        self.layers = [each if isinstance(each, KVCache) else _taken(each, samples) for each in self.layers]
        self.context = [each.reorder(samples) for each in self.context]
        self.crossing = [_taken(each, samples) for each in self.crossing]


class TransformerStack(nn.Module):
    """`num_layers` transformer layers of the same kind, and the norm that `pre` layers want behind the last.

    Each layer has a mechanism of its own, so `attention` and `cross` are names or choices, not built ones. The options
    are `TransformerLayer`'s. To write token by token, `begin` once and give its state to every call.
    Source: arXiv:1706.03762, sec. 3.1.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        num_layers: int,
        attention: str | Buildable = "scaled_dot_product",
        cross: str | Buildable | None = None,
        hidden: int | None = None,
        kv_heads: int | None = None,
        dropout: float = 0.1,
        order: Order = "pre",
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ShapeError(f"a stack wants one layer or more, but num_layers={num_layers}")
        for what, given in (("attention", attention), ("cross", cross)):
            if isinstance(given, Mechanism):
                raise ShapeError(f"every layer has a mechanism of its own: give {what} by name, not one that is built")
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim=dim,
                heads=heads,
                attention=attention,
                cross=cross,
                hidden=hidden,
                kv_heads=kv_heads,
                dropout=dropout,
                order=order,
                activation=activation,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if order == "pre" else nn.Identity()

    def forward(
        self,
        x: Tensor,
        pattern: Pattern | None = None,
        *,
        context: Tensor | None = None,
        context_pattern: Pattern | None = None,
        state: StackState | None = None,
        need: Need | None = None,
    ) -> StackOutput:
        """Shapes: x (B, L, dim), context (B, Lk, dim), which a state has already.

        need: of which weights, in self-attention and attention to the context.
        Raises: ShapeError for a context beside a state that has one.
        """
        if state is not None and state.context and context is not None:
            raise ShapeError("the state holds its context, given to `begin`; give the call none")
        seen: list[Weights] = []
        crossed: list[Weights] = []
        for place, layer in enumerate(self.layers):
            before, own_context, crossing = self._before(state, place, context)
            output = layer(
                x,
                pattern,
                context=own_context,
                context_pattern=context_pattern,
                state=before,
                context_state=crossing,
                need=need,
            )
            x = output.x
            if state is not None:
                state.layers[place] = output.attention.state
                if output.cross is not None:
                    state.crossing[place] = output.cross.state
            if output.attention.weights is not None:
                seen.append(output.attention.weights)
            if output.cross is not None and output.cross.weights is not None:
                crossed.append(output.cross.weights)
        if state is not None:
            state.length += x.shape[1]
        return StackOutput(self.norm(x), seen, crossed)

    @staticmethod
    def _before(
        state: StackState | None, place: int, context: Tensor | None
    ) -> tuple[Any, Tensor | Projected | None, Any]:
        if state is None:
            return None, context, None
        if not state.context:
            return state.layers[place], context, None
        return state.layers[place], state.context[place], state.crossing[place]

    def begin(
        self,
        *,
        batch: int,
        capacity: int,
        context: Tensor | None = None,
        evict: Evict = "none",
        sinks: int | None = None,
    ) -> StackState:
        """Return the state before the first token, for `batch` texts of `capacity` tokens at most.

        context: what a decoder attends to, projected here once for all steps. Shapes: context (B, Lk, dim).
        evict, sinks: what a full cache does, see `KVCache`; mechanisms with a state of their own never fill up.
        Raises: CapabilityError for a mechanism that cannot be asked one token at a time; ShapeError for a context
        without attention to one, or the reverse.
        """
        if (context is None) != (self.layers[0].cross is None):
            raise ShapeError(
                f"the layers of this stack have {'no ' if context is not None else ''}attention to a context, but one "
                f"was {'not ' if context is None else ''}given to `begin`"
            )
        layers: list[Any] = []
        for layer in self.layers:
            attend: Any = layer.attention
            kept = attend.mechanism.capabilities.state
            if kept not in ("none", "keys"):
                raise CapabilityError(
                    f"self-attention by {attend.mechanism.name} cannot write token by token: its state is of "
                    f"{kept}; take a mechanism whose state is of keys, such as linear, or one that takes a KVCache"
                )
            cache = attend.cache(batch=batch, capacity=capacity, evict=evict, sinks=sinks) if kept == "none" else None
            layers.append(cache)
        crossing: list[Any] = [] if context is None else [layer.cross for layer in self.layers]
        projected = [each.project(context) for each in crossing]
        return StackState(layers, projected, [None] * len(projected))


def _taken(state: Any, samples: Tensor) -> Any:
    """Return samples of a mechanism's own state: tensors whose first dimension is the batch, or tuples of them."""
    if isinstance(state, Tensor):
        return state.index_select(0, samples)
    if isinstance(state, tuple):
        taken = [_taken(each, samples) for each in state]
        return type(state)(*taken) if hasattr(state, "_fields") else tuple(taken)
    if state is None or isinstance(state, int):  # a count of queries is the same for all
        return state
    raise CapabilityError(f"a state of type {type(state).__name__} cannot be reordered: it is no tensor or tuple")
