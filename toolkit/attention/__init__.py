"""Attention as a part: patterns say who may look, mechanisms what is computed, backends how.

from toolkit import attention
attend = attention.build("gat", heads=8, dim=16, dropout=0.6)
output = attend(h, h, h, attention.edges(index, num_nodes), need=attention.Need(rows=[0]))
"""

from __future__ import annotations

import inspect
from typing import Any

from toolkit.attention.cache import KVCache
from toolkit.attention.capabilities import Capabilities, require
from toolkit.attention.edge_pattern import EdgePattern, edges, to_edges
from toolkit.attention.importers import from_additive, from_hugging_face, from_multihead
from toolkit.attention.layer import MultiHeadAttention, Projected
from toolkit.attention.mechanism import Attention, AttentionOutput, Mechanism, Request
from toolkit.attention.need import Need, Weights
from toolkit.attention.pairwise import InnerProduct, Pairwise, Separable
from toolkit.attention.pattern import Pattern, causal, dense, full, padding, segments, window
from toolkit.attention.pooling import AttentionPooling
from toolkit.attention.positions import LearnedPositions, SinusoidalPositions
from toolkit.attention.rollout import pushed, rollout
from toolkit.attention.sparse_pattern import blocks, dilated, fixed, global_tokens, random_blocks, strided
from toolkit.attention.stack import StackOutput, StackState, TransformerStack
from toolkit.attention.torch_layer import TorchMultiheadAttention
from toolkit.attention.transformer import TransformerLayer

__all__ = [
    "Attention",
    "AttentionOutput",
    "AttentionPooling",
    "Capabilities",
    "EdgePattern",
    "InnerProduct",
    "KVCache",
    "LearnedPositions",
    "Mechanism",
    "MultiHeadAttention",
    "Need",
    "Pairwise",
    "Pattern",
    "Projected",
    "Request",
    "Separable",
    "SinusoidalPositions",
    "StackOutput",
    "StackState",
    "TorchMultiheadAttention",
    "TransformerLayer",
    "TransformerStack",
    "Weights",
    "blocks",
    "build",
    "causal",
    "dense",
    "dilated",
    "edges",
    "fixed",
    "from_additive",
    "from_hugging_face",
    "from_multihead",
    "full",
    "global_tokens",
    "padding",
    "pushed",
    "random_blocks",
    "require",
    "rollout",
    "segments",
    "strided",
    "to_edges",
    "window",
]


def build(name: str, *, dim: int, heads: int | None = None, **options: Any) -> Attention:
    """Build the attention registered under a name, `gat` or `plugin:name`, with the options of its constructor.

    heads: None is what its constructor says; most want a number.
    Raises: UnknownNameError for a name that nothing registered, TypeError for an option that it does not have, or for
    heads that are not given.
    """
    from toolkit.plugins import current_toolkit

    target = current_toolkit().registry.get("attention", name).load()
    if heads is not None:
        options["heads"] = heads
    elif (asked := inspect.signature(target).parameters.get("heads")) is not None and asked.default is asked.empty:
        raise TypeError(
            f"attention {name!r} wants heads=..., and dim as the size of one head; dim={dim} alone was given"
        )
    made: Attention = target(dim=dim, **options)
    return made
