"""GPT-2 as Hugging Face writes it, and a plain loop that trains it: what benchmarks/language_model.py compares with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.schedules import cosine
from toolkit.task import Optimization


def gpt2(options: dict[str, Any], spec: dict[str, Any]) -> Any:
    """Return a GPT2LMHeadModel of the size of a recipe's `model` section, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=spec["vocabulary"],
        n_positions=spec["max_length"],
        n_embd=options["dim"],
        n_layer=options["num_layers"],
        n_head=options["heads"],
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=spec["end"],
        eos_token_id=spec["end"],
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config)


@torch.no_grad()
def copy_weights(ours: Any, peer: Any) -> None:
    """Give GPT-2 the weights of our language model, layer for layer."""
    state = peer.state_dict()

    def put(name: str, weight: Tensor) -> None:  # GPT-2's Conv1D has the inputs first
        turned = weight.dim() == 2 and ".h." in name
        state[name].copy_(weight.mT if turned else weight)

    put("transformer.wte.weight", ours.embedding.tokens.weight)
    put("transformer.wpe.weight", ours.embedding.positions.weight)
    for kind in ("weight", "bias"):
        put(f"transformer.ln_f.{kind}", getattr(ours.stack.norm, kind))
        for place, layer in enumerate(ours.stack.layers):
            attend = layer.attention
            joined = torch.cat([getattr(each, kind) for each in (attend.query, attend.key, attend.value)])
            for name, weight in (
                ("ln_1", getattr(layer.norms[0], kind)),
                ("ln_2", getattr(layer.norms[1], kind)),
                ("attn.c_attn", joined),
                ("attn.c_proj", getattr(attend.out, kind)),
                ("mlp.c_fc", getattr(layer.feedforward[0], kind)),
                ("mlp.c_proj", getattr(layer.feedforward[3], kind)),
            ):
                put(f"transformer.h.{place}.{name}.{kind}", weight)


class PlainLoop:
    """forward, cross-entropy, backward, clip, AdamW, cosine: a step at a time."""

    def __init__(self, model: nn.Module, optimization: Optimization, *, steps: int, clip: float) -> None:
        self.model, self.clip = model.train(), clip
        self.optimizer = optimization.optimizer.build(list(model.parameters()))
        schedule = optimization.schedule
        assert schedule is not None
        assert schedule.name.endswith("cosine")
        self.schedule = cosine(self.optimizer, **{**schedule.options, "total_steps": steps})

    def step(self, batch: Any) -> Tensor:
        logits = self.model(batch.tokens).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


@torch.no_grad()
def bits_per_byte(model: nn.Module, batches: Iterable[Any], sizes: list[int]) -> float:
    """Return the bits per byte of a model on windows that score each token once."""
    model.eval()
    each = torch.tensor(sizes)
    nats = num_bytes = 0.0
    for batch in batches:
        logits = model(batch.tokens).logits
        logits = logits.flatten(0, 1) if batch.scored is None else logits[batch.scored]
        nats += F.cross_entropy(logits, batch.target, reduction="sum").item()
        num_bytes += int(each[batch.target].sum())
    model.train()
    return nats / math.log(2) / num_bytes
