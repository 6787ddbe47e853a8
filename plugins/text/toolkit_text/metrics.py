"""How well a language model foretells text: from the nats of each token, exact for any batches and processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from toolkit.data import Spec
from toolkit_text.data.token_bytes import token_bytes


class Perplexity(Metric):
    """exp(nats / tokens). Shapes: preds (S,) nats of each token, or (S, V) its logits; target (S,) the tokens."""

    full_state_update = False
    nats: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        nats = preds if preds.dim() == 1 else F.cross_entropy(preds.float(), target, reduction="none")
        self.nats.add_(nats.detach().to(self.nats.dtype).sum())
        self.count.add_(self.weight(target))

    def weight(self, target: Tensor) -> Any:
        """Return how much the targets count for."""
        return len(target)

    def compute(self) -> Tensor:
        return (self.nats / self.count).exp()


class BitsPerByte(Perplexity):
    """nats / ln 2 / bytes of the text that the tokens stand for: comparable between tokenizers, and with compressors.

    The marks between documents are foretold like all tokens, and are no bytes.
    """

    sizes: Tensor

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)

    def weight(self, target: Tensor) -> Any:
        return self.sizes[target].sum()

    def compute(self) -> Tensor:
        return self.nats / self.count / math.log(2)


def perplexity(spec: Spec) -> Metric:
    """Return the perplexity of a token."""
    return Perplexity()


def bits_per_byte(spec: Spec) -> Metric:
    """Return the bits that a byte of text takes."""
    return BitsPerByte([len(each) for each in token_bytes(Tokenizer.from_str(spec["tokenizer"]))])
