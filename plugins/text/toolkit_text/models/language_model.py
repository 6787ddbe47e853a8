"""A decoder-only transformer that says what comes next, with any causal attention mechanism."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.attention import (
    Capabilities,
    LearnedPositions,
    Mechanism,
    Need,
    TransformerStack,
    Weights,
    causal,
    require,
)
from toolkit.attention.layer import MultiHeadAttention
from toolkit.attention.mechanism import Buildable
from toolkit.attention.transformer import Activation
from toolkit.binding import Positive, Probability
from toolkit.linear_cross_entropy import linear_cross_entropy
from toolkit.plugins import current_toolkit
from toolkit_text.data.stream import WindowBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import Positions, TokenEmbedding

_STD = 0.02


class LanguageModel(nn.Module):
    """Token vectors with positions, causal layers of attention, and the same vectors again to score what is next.

    attention: the mechanism of every layer; one that cannot be causal is refused. positions: `none` where the
    mechanism knows places itself. With scaled_dot_product, learned positions and activation `gelu_tanh` it computes
    what GPT-2 does. Weights start as GPT-2's: deviation 0.02, and less for what layers add.
    Raises: CapabilityError. Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, sec. 2.3.
    """

    def __init__(
        self,
        *,
        tokens: TokenSpec,
        attention: Buildable,
        dim: Positive = 256,
        heads: Positive = 4,
        num_layers: Positive = 6,
        hidden: Positive | None = None,
        kv_heads: Positive | None = None,
        dropout: Probability = 0.0,
        positions: Positions = "learned",
        activation: Activation = "gelu_tanh",
    ) -> None:
        super().__init__()
        self.context = tokens.max_length
        self.embedding = TokenEmbedding(tokens=tokens, dim=dim, positions=positions, dropout=dropout)
        self.stack = TransformerStack(
            dim=dim,
            heads=heads,
            num_layers=num_layers,
            attention=attention,
            hidden=hidden,
            kv_heads=kv_heads,
            dropout=dropout,
            activation=activation,
        )
        _require_causal(self)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights as GPT-2's; those of a mechanism's own stay as it drew them."""
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                for linear in (module.query, module.key, module.value, module.out):
                    _draw(linear)
        layers: Any = self.stack.layers
        for layer in layers:
            wide, narrow = (each for each in layer.feedforward if isinstance(each, nn.Linear))
            _draw(wide)
            _draw(narrow, (2 * len(layers)) ** -0.5)
            _draw(layer.attention.out, (2 * len(layers)) ** -0.5)
        nn.init.normal_(self.embedding.tokens.weight, std=_STD)
        if isinstance(self.embedding.positions, LearnedPositions):
            self.embedding.positions.reset_parameters()

    def forward(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the targets, and the nats of each. Shapes: (), (S,)."""
        x = self.states(batch.tokens)
        x = x.flatten(0, 1) if batch.scored is None else x[batch.scored]
        if not len(x):
            return x.sum() * 0, self.logits(x).sum(-1)
        return linear_cross_entropy(x, self.embedding.tokens.weight, batch.target)

    def states(self, tokens: Tensor) -> Tensor:
        """Return the vector behind each token. Shapes: (B, L) -> (B, L, dim)."""
        found: Tensor = self.stack(self.embedding(tokens), causal()).x
        return found

    def logits(self, states: Tensor) -> Tensor:
        """Score every token as the next one. Shapes: (..., dim) -> (..., V)."""
        return F.linear(states, self.embedding.tokens.weight)

    def attention_weights(self, batch: WindowBatch, need: Need | None = None) -> list[Weights]:
        """Return each layer's exact weights. Shapes: (B, heads, L, L)."""
        with torch.set_grad_enabled(need is not None and need.gradient):
            return self.stack(self.embedding(batch.tokens), causal(), need=need or Need()).attention


def _draw(linear: nn.Linear, factor: float = 1.0) -> None:
    nn.init.normal_(linear.weight, std=_STD * factor)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def _require_causal(model: nn.Module) -> None:
    """Raise CapabilityError for a mechanism that would see the tokens that are to be foretold."""
    for module in model.modules():
        if isinstance(module, Mechanism) and not module.capabilities.causal:
            entries = current_toolkit().registry.all("attention")
            others = {entry.name: entry.load() for entry in entries}
            known = {name: each.capabilities for name, each in others.items() if issubclass(each, Mechanism)}
            declared = {name: each for name, each in known.items() if isinstance(each, Capabilities)}
            require(module.capabilities, module.name, declared, causal=True)
