"""End-to-end memory networks: questions answered by looking at the sentences of a story, several times over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.attention import Need, Weights
from toolkit.attention.mechanism import AttentionOutput, Buildable, Mechanism
from toolkit.attention.memory_hops import MemoryHops
from toolkit.attention.normalizers import normalizer
from toolkit.attention.pairwise import Pairwise
from toolkit.binding import NonNegative, Positive
from toolkit.errors import CapabilityError, RecipeError
from toolkit_text.data.story import StorySpec
from toolkit_text.data.story_batch import StoryBatch
from toolkit_text.models.sentences import Encoding, SentenceVectors


class MemoryNetwork(nn.Module):
    """u <- f(H u + attention(u, A x + T_A, C x + T_C)) for several hops from u = B q, then softmax(W u) over answers.

    attention: the mechanism that looks at the sentences; `dot` is the paper's. None takes the mean of all sentences in
    its place. `memory_hops` makes its hops by itself, so it wants tie: layerwise, and hops: 1 here.
    dim: size of a sentence's vector, shared by `heads`. hops: how often it looks.
    tie: `adjacent` takes C of a hop as A of the next, A of the first as B and C of the last as W, with H = 1;
    `layerwise` has the same A and C in every hop, a learned H, and B and W of their own.
    encoding: how words become a sentence, see `SentenceVectors`. nonlinear: f is a ReLU, else nothing.
    linear_start: train without the softmax of attention until that many validations are done (the paper: until their
    loss no longer falls, which with some tasks is as good as never); 0 begins with softmax.
    Shapes: words (sets, rows, dim), times (sets, memory + 1, dim), where a set is one of A, B, C.
    Raises: RecipeError, CapabilityError for settings that do not go together.
    Source: Sukhbaatar et al. 2015, arXiv:1503.08895, sec. 2 and 4.1; f: sec. 4.4, the footnote on non-linearity.
    """

    def __init__(
        self,
        *,
        classes: int,
        stories: StorySpec,
        attention: Buildable | None = None,
        dim: Positive = 50,
        heads: Positive = 1,
        hops: Positive = 3,
        tie: Literal["adjacent", "layerwise"] = "adjacent",
        encoding: Encoding = "position",
        nonlinear: bool = False,
        linear_start: NonNegative = 0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise RecipeError(f"model.dim={dim} is no multiple of model.heads={heads}")
        self.heads, self.hops, self.tie, self.nonlinear = heads, hops, tie, nonlinear
        mechanism: Mechanism | None = None if attention is None else attention.build(heads=heads, dim=dim // heads)
        self.linear_start = linear_start
        self._check(mechanism)
        self.mechanism = mechanism
        sets = hops + 1 if tie == "adjacent" else 3  # layerwise: A, C, B
        self.sentences = SentenceVectors(rows=stories.rows, width=stories.width, dim=dim, sets=sets, encoding=encoding)
        self.times = nn.Parameter(torch.empty(sets if tie == "adjacent" else 2, stories.memory + 1, dim))
        self.turn = nn.Linear(dim, dim, bias=False) if tie == "layerwise" and not self._own_hops else None
        self.answer = nn.Linear(dim, classes, bias=False) if tie == "layerwise" else None
        self.register_buffer("answers", torch.tensor(stories.answers), persistent=False)
        self.answers: Tensor
        self.register_buffer("validations", torch.tensor(0))
        self.validations: Tensor
        self.reset_parameters()

    def _check(self, mechanism: Mechanism | None) -> None:
        own = mechanism if isinstance(mechanism, MemoryHops) else None
        if own is not None and (self.tie != "layerwise" or self.hops != 1 or self.nonlinear):
            raise RecipeError(
                "attention memory_hops makes hops of its own, each with the same memory: set attention.hops, and "
                "model.tie=layerwise model.hops=1 model.nonlinear=false"
            )
        if own is not None and not own.residual:
            raise RecipeError("a memory network answers from H u + o: set attention.residual=true for memory_hops")
        if mechanism is not None and mechanism.positional:
            raise CapabilityError(
                f"places matter to attention {mechanism.name!r}, and a question has none among the sentences; times "
                "are part of each sentence here. Take a mechanism without positions, such as 'dot'"
            )
        removable = isinstance(mechanism, Pairwise) and mechanism.normalize == "softmax"
        if self.linear_start and (not removable or own is not None):
            what = "no attention" if mechanism is None else f"attention {mechanism.name!r}"
            raise CapabilityError(
                f"model.linear_start trains without softmax at first, and {what} has none that could be left out; take "
                "'dot' or another pairwise mechanism, or model.linear_start=0"
            )

    @property
    def _own_hops(self) -> bool:
        return isinstance(self.mechanism, MemoryHops)

    def reset_parameters(self) -> None:
        """Draw what the paper draws from N(0, 0.1^2); H begins as it does in `memory_hops`, as the identity."""
        nn.init.normal_(self.times, std=0.1)
        if self.turn is not None:
            nn.init.eye_(self.turn.weight)
        if self.answer is not None:
            nn.init.normal_(self.answer.weight, std=0.1)

    def forward(self, batch: StoryBatch) -> Tensor:
        """Return logits of each question. Shapes: (S, classes)."""
        return self.answered(batch, None)[0]

    def attention_weights(self, batch: StoryBatch, need: Need | None = None) -> list[Weights]:
        """Return how much of each sentence each hop takes, before dropout. Shapes: (S, heads, 1, M) a hop."""
        return self.answered(batch, need or Need())[1]

    def sentence_weights(self, batch: StoryBatch) -> Tensor:
        """Return how much each hop takes of each sentence, the mean over heads. Shapes: (S, hops, M)."""
        seen = [weights.values.mean(1)[:, 0] for weights in self.attention_weights(batch) if weights.values is not None]
        return torch.stack(seen, 1) if seen else self.times.new_zeros(len(batch.lengths), 0, batch.memory.shape[1])

    def answered(self, batch: StoryBatch, need: Need | None) -> tuple[Tensor, list[Weights]]:
        """Return logits, and the weights of each hop if they are needed."""
        vectors = self.sentences(batch.words, batch.sizes)  # (U, sets, dim)
        gathered = F.embedding(batch.memory, vectors.flatten(1)).unflatten(2, vectors.shape[1:])  # (S, M, sets, dim)
        times = F.embedding(batch.time, self.times.transpose(0, 1).flatten(1)).unflatten(2, (-1, vectors.shape[2]))
        adjacent = self.tie == "adjacent"
        told = gathered if adjacent else gathered[:, :, :2]
        memory = (told + times).unbind(2)  # a slice at a time would fill a gradient of the whole with zeros for each
        u = F.embedding(batch.question, vectors.unbind(1)[0 if adjacent else 2])
        seen: list[Weights] = []
        for hop in range(self.hops):
            keys, values = (hop, hop + 1) if adjacent else (0, 1)
            read, weights = self._look(u, memory[keys], memory[values], batch, need)
            seen += weights
            if self._own_hops:
                u = read
                continue
            u = read + (u if self.turn is None else self.turn(u))
            u = u.relu() if self.nonlinear else u
        if self.answer is not None:
            return self.answer(u), seen
        return u @ self.sentences.words[-1][self.answers].T, seen

    def _look(
        self, u: Tensor, keys: Tensor, values: Tensor, batch: StoryBatch, need: Need | None
    ) -> tuple[Tensor, list[Weights]]:
        """Look at the sentences once. Shapes: u (S, dim), keys, values (S, M, dim) -> (S, dim)."""
        if self.mechanism is None:
            share = batch.mask.to(values.dtype) / batch.lengths.clamp_min(1)[:, None]
            return (share[:, None] @ values)[:, 0], []
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (u[:, None], keys, values))
        with self._softmax_or_not():
            output: AttentionOutput = self.mechanism(q, k, v, batch.pattern, need=need)
        read = output.values.transpose(1, 2).flatten(1)
        if "hop_weights" in output.aux and output.weights is not None:
            shown = output.weights
            return read, [
                Weights(pattern=shown.pattern, values=each, rows=shown.rows, heads=shown.heads)
                for each in output.aux["hop_weights"]
            ]
        return read, [] if output.weights is None else [output.weights]

    @contextmanager
    def _softmax_or_not(self) -> Iterator[None]:
        """Leave the softmax of attention out for as long as the start is linear."""
        mechanism = self.mechanism
        if not isinstance(mechanism, Pairwise) or not self.linear:
            yield
            return
        before = mechanism.normalize, mechanism.normalizer
        mechanism.normalize, mechanism.normalizer = "none", normalizer("none")
        try:
            yield
        finally:
            mechanism.normalize, mechanism.normalizer = before

    @property
    def linear(self) -> bool:
        """Whether attention is still without softmax."""
        return int(self.validations) < self.linear_start

    def validated(self) -> None:
        """Take note of a validation, in training: after some of them the linear start ends."""
        if self.linear:
            self.validations += 1
