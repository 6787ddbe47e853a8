"""Sampling: one token after another, drawn from what a model finds likely, many texts at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from toolkit.decoding.decoder import Decoder
from toolkit.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn.

    temperature: what logits are divided by; 0 takes the likeliest token, always. top_k: draw from so many of the
    likeliest tokens, and from equals of the last of them. top_p: draw from the fewest likeliest tokens that together
    have this probability, never from none; 1 leaves all. Both hold together, top_k first, after the temperature.
    repetition_penalty: what the scores of tokens that are in the text already, its prompt included, are divided by
    where positive, and multiplied by where negative; 1 changes nothing. seed: of a generator of its own, so that the
    same seed writes the same whatever else draws numbers.
    Raises: ValueError for values outside these ranges.
    Source: top_k: Fan et al. 2018, arXiv:1805.04833, sec. 5.1; top_p: Holtzman et al. 2020, arXiv:1904.09751, eq. 3;
    repetition_penalty: Keskar et al. 2019, arXiv:1909.05858, sec. 4.1.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for what, given, fits, wants in (
            ("temperature", self.temperature, 0 <= self.temperature < torch.inf, "0 or more"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < torch.inf, "above 0"),
        ):
            if not fits:
                raise ValueError(f"{what} is {wants}, but {given} was given")

    def narrowed(self, logits: Tensor) -> Tensor:
        """Return logits divided by the temperature, -inf for tokens that are not to be drawn.

        Shapes: (B, V) -> the same. With a temperature of 0 only the likeliest token is left, the first of equals.
        """
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.full_like(logits, -torch.inf).scatter(1, best, 0.0)
        # relative to the best: a small temperature would make infinity of large logits, and NaN of their difference
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            ordered, places = logits.sort(descending=True, stable=True)
            share = ordered.softmax(-1)
            enough = share.cumsum(-1) - share >= self.top_p  # those before it suffice; nothing is before the first
            enough[:, 0] = False
            logits = logits.masked_fill(enough.gather(1, places.argsort(-1)), -torch.inf)
        return logits

    def penalised(self, logits: Tensor, written: Tensor) -> Tensor:
        """Make tokens less likely that are written already. Shapes: logits (B, V), written (B, V) bool."""
        if self.repetition_penalty == 1:
            return logits
        weaker = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
        return torch.where(written, weaker, logits)


@torch.inference_mode()
def sample(
    decoder: Decoder,
    prompt: Tensor,
    *,
    tokens: int,
    sampling: Sampling,
    stop: Collection[int] = (),
    forbidden: Collection[int] = (),
) -> Iterator[list[int | None]]:
    """Yield what is written, a step at a time: the next token of each text, None for a text that has ended.

    A text ends with a token of `stop`, which is not yielded. Texts that ended leave the decoder's batch, and what the
    others draw does not depend on it: each step draws one number a text, for all that began.
    prompt: what every text begins with. tokens: how many each writes at most. forbidden: tokens that are never written.
    Shapes: prompt (B, n). Raises: ShapeError for an empty prompt: there is nothing to go on from.
    """
    if prompt.dim() != 2 or not prompt.numel():
        raise ShapeError(f"sampling wants a prompt of one token or more for each text, given {tuple(prompt.shape)}")
    device, count = prompt.device, len(prompt)
    chance = Generator(device).manual_seed(sampling.seed)
    stopping = torch.tensor([*stop], dtype=torch.long, device=device)
    never = torch.tensor([*forbidden], dtype=torch.long, device=device)
    texts = torch.arange(count, device=device)
    written: Tensor | None = None
    following = prompt
    for step in range(tokens):
        logits = decoder.advance(following).float()
        if sampling.repetition_penalty != 1:
            if written is None:
                written = torch.zeros_like(logits, dtype=torch.bool)
            written = written.scatter(1, following, True)
            logits = sampling.penalised(logits, written)
        if len(never):
            logits = logits.index_fill(1, never, -torch.inf)
        drawn = _drawn(logits, texts, count, sampling, chance)
        ended = torch.isin(drawn, stopping) if len(stopping) else None
        given: list[int | None] = [None] * count
        over = [False] * len(drawn) if ended is None else ended.tolist()
        for text, token, last in zip(texts.tolist(), drawn.tolist(), over, strict=True):
            given[text] = None if last else token
        if any(over):
            assert ended is not None
            live = (~ended).nonzero().flatten()
            if not len(live):
                return
            texts, drawn = texts[live], drawn[live]
            written = None if written is None else written[live]
            if step + 1 < tokens:
                decoder.reorder(live)
        yield given
        following = drawn[:, None]


def _drawn(logits: Tensor, texts: Tensor, count: int, sampling: Sampling, chance: Generator) -> Tensor:
    """Draw a token for each text that goes on. Shapes: logits (n, V), texts (n,) -> (n,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    share = sampling.narrowed(logits).softmax(-1).double().cumsum(-1)
    total = share[:, -1:]
    height = torch.rand(count, generator=chance, device=logits.device, dtype=torch.float64)[texts, None] * total
    height = torch.minimum(height, torch.nextafter(total, torch.zeros_like(total)))  # rounding may reach the end
    return torch.searchsorted(share, height, right=True)[:, 0]
