"""Beam search over anything that goes on token by token, many texts at a time; one beam is greedy search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.decoding.decoder import Decoder
from toolkit.errors import ShapeError


class Hypothesis(NamedTuple):
    """A text that was written to its end, which is not among its tokens.

    score: what hypotheses are ranked by: log_probability / length ** penalty, the end counting as a token.
    """

    tokens: list[int]
    score: float
    log_probability: float


def beam_search(
    decoder: Decoder,
    *,
    begin: int,
    end: int,
    limits: Tensor,
    beams: int = 5,
    length_penalty: float = 1.0,
    best: int = 1,
    forbidden: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Return the `best` hypotheses of each of B begun texts, best first.

    At every step the `beams` best continuations of a text that do not end live on, and those that end among the `beams`
    best of all are kept apart. A text is done, and leaves the batch, when nothing that lives can still win:
    log-probabilities only fall, so a live one is worth log_probability / limit ** length_penalty at most. A text has
    fewer hypotheses than `best` where fewer ended. One beam is greedy search, which stops at the first end.
    begin, end: the marks before the first and behind the last token. limits: tokens of each text at most, its end among
    them: there it has to end. length_penalty: 0 ranks by probability, 1 by the mean log-probability of a token.
    forbidden: tokens that are never written.
    Shapes: limits (B,). Raises: ShapeError for sizes below 1, a negative penalty, or more hypotheses than beams.
    Source: the penalty is fairseq's (Ott et al. 2019, arXiv:1904.01038); Wu et al. 2016 (arXiv:1609.08144, eq. 14)
    divide by ((5 + length) / 6) ** penalty instead. The bound: Huang et al. 2017, When to Finish?, EMNLP, sec. 3.
    """
    shortest = int(limits.min()) if len(limits) else 1
    if not 1 <= best <= beams or length_penalty < 0 or shortest < 1:
        raise ShapeError(
            f"beam search wants beams >= best >= 1, length_penalty >= 0 and limits >= 1, but beams={beams}, "
            f"best={best}, length_penalty={length_penalty}, limits from {shortest} were given"
        )
    if not len(limits):
        return []
    scores = _Scores(decoder, begin, end, torch.tensor([*forbidden], dtype=torch.long, device=limits.device))
    if beams == 1:
        return [[each] for each in _greedy(scores, limits, length_penalty)]
    return _Search(scores, limits, beams, length_penalty, best).run()


class _Scores:
    """The log-probabilities of what comes next."""

    def __init__(self, decoder: Decoder, begin: int, end: int, never: Tensor) -> None:
        self.decoder, self.begin, self.end, self.never = decoder, begin, end, never

    def after(self, tokens: Tensor, last: Tensor) -> Tensor:
        """Take in a token of each text. Shapes: tokens (n,), last (n,) bool: texts that have to end now -> (n, V)."""
        logits = self.decoder.advance(tokens[:, None]).float()
        if len(self.never):
            logits = logits.index_fill(1, self.never, -torch.inf)
        found = logits.log_softmax(-1)
        if bool(last.any()):
            ending = found[:, self.end].clone()
            found = found.masked_fill(last[:, None], -torch.inf)
            found[:, self.end] = ending
        return found


def _greedy(scores: _Scores, limits: Tensor, length_penalty: float) -> list[Hypothesis]:
    """Write the most likely token again and again; finished texts leave when they are a quarter of the batch."""
    texts = torch.arange(len(limits), device=limits.device)  # whose each sequence of the batch is
    tokens = torch.full_like(limits, scores.begin)
    total = torch.zeros(len(limits), device=limits.device)
    ended = torch.zeros_like(limits, dtype=torch.bool)
    written: list[list[int]] = [[] for _ in range(len(limits))]
    sums = [0.0] * len(limits)
    for step in range(1, int(limits.max()) + 1):
        value, tokens = scores.after(tokens, limits[texts] == step).max(-1)
        total = total + value.where(~ended, value.new_zeros(()))
        for text, token, over, log_probability in zip(
            texts.tolist(), tokens.tolist(), ended.tolist(), total.tolist(), strict=True
        ):
            if not over:
                sums[text] = log_probability
                if token != scores.end:
                    written[text].append(token)
        ended = ended | (tokens == scores.end)
        if bool(ended.all()):
            break
        if int(ended.sum()) * 4 >= len(ended):
            live = (~ended).nonzero().flatten()
            scores.decoder.reorder(live)
            texts, tokens, total, ended = texts[live], tokens[live], total[live], ended[live]
    return [
        Hypothesis(each, value / (len(each) + 1) ** length_penalty, value)
        for each, value in zip(written, sums, strict=True)
    ]


class _Search:
    """Beams of the texts that are not done.

    Shapes, for n such texts with w live beams and t tokens each: texts (n,), live (n, w) log-probabilities,
    tokens (n, w, t); score, log_probability (n, best) and lengths of the best that ended, ended (n, best, longest).
    """

    def __init__(self, scores: _Scores, limits: Tensor, beams: int, penalty: float, best: int) -> None:
        self.scores, self.limits, self.beams, self.penalty = scores, limits, beams, penalty
        count, device = len(limits), limits.device
        self.texts = torch.arange(count, device=device)
        self.live = torch.zeros(count, 1, device=device)
        self.tokens = torch.zeros(count, 1, 0, dtype=torch.long, device=device)
        self.score = torch.full((count, best), -torch.inf, device=device)
        self.log_probability = self.score.clone()
        self.lengths = torch.zeros(count, best, dtype=torch.long, device=device)
        self.ended = torch.zeros(count, best, int(limits.max()), dtype=torch.long, device=device)
        self.found: list[list[Hypothesis]] = [[] for _ in range(count)]

    def run(self) -> list[list[Hypothesis]]:
        following = torch.full_like(self.limits, self.scores.begin)
        for step in range(1, int(self.limits.max()) + 1):
            origin = self._step(following, step)
            done = self._done(step)
            self._hand_over(done)
            kept = (~done).nonzero().flatten()
            if not len(kept):
                break
            self._keep(kept)
            self.scores.decoder.reorder(origin[kept].flatten())
            following = self.tokens[:, :, -1].flatten()
        return self.found

    def _step(self, following: Tensor, step: int) -> Tensor:
        """Go on by one token. Returns where in the decoder's batch each live beam comes from. Shapes: (n, w)."""
        count, width = self.live.shape
        last = (self.limits[self.texts] == step).repeat_interleave(width)
        totals = self.live[:, :, None] + self.scores.after(following, last).unflatten(0, (count, width))
        vocabulary = totals.shape[-1]
        # twice the beams: as many as that may end, and there are as many again to live on
        top = totals.flatten(1).topk(min(2 * self.beams, width * vocabulary))
        beam, token = top.indices // vocabulary, top.indices % vocabulary
        ending = token == self.scores.end
        self._finish(top.values, beam, ending, step)
        living = top.values.masked_fill(ending, -torch.inf)
        chosen = living.topk(min(self.beams, living.shape[1]))
        self.live, beam, token = chosen.values, beam.gather(1, chosen.indices), token.gather(1, chosen.indices)
        before = self.tokens.gather(1, beam[:, :, None].expand(-1, -1, self.tokens.shape[2]))
        self.tokens = torch.cat([before, token[:, :, None]], 2)
        return torch.arange(count, device=beam.device)[:, None] * width + beam

    def _finish(self, values: Tensor, beam: Tensor, ending: Tensor, step: int) -> None:
        """Keep the best of what ends now and what ended before. Shapes: values, beam, ending (n, candidates)."""
        values, beam = values[:, : self.beams], beam[:, : self.beams]
        ends = ending[:, : self.beams]
        if not bool(ends.any()):
            return
        values = values.masked_fill(~ends, -torch.inf)
        written = self.tokens.gather(1, beam[:, :, None].expand(-1, -1, step - 1))
        room = self.ended.shape[2] - written.shape[2]
        written = torch.nn.functional.pad(written, (0, room))
        score = torch.cat([self.score, values / step**self.penalty], 1)
        best = score.topk(self.score.shape[1])
        self.score = best.values
        self.log_probability = torch.cat([self.log_probability, values], 1).gather(1, best.indices)
        self.lengths = torch.cat([self.lengths, torch.full_like(beam, step - 1)], 1).gather(1, best.indices)
        place = best.indices[:, :, None].expand(-1, -1, self.ended.shape[2])
        self.ended = torch.cat([self.ended, written], 1).gather(1, place)

    def _done(self, step: int) -> Tensor:
        """Tell which texts no live beam can better. Shapes: (n,) bool."""
        limits = self.limits[self.texts]
        most = self.live.amax(1) / limits.to(self.live.dtype) ** self.penalty
        return (most <= self.score[:, -1]) | most.isneginf() | (limits <= step)

    def _hand_over(self, done: Tensor) -> None:
        for place in done.nonzero().flatten().tolist():
            rows = zip(
                self.score[place].tolist(),
                self.log_probability[place].tolist(),
                self.lengths[place].tolist(),
                self.ended[place].tolist(),
                strict=True,
            )
            self.found[int(self.texts[place])] = [
                Hypothesis(tokens[:length], score, log_probability)
                for score, log_probability, length, tokens in rows
                if score > -torch.inf
            ]

    def _keep(self, kept: Tensor) -> None:
        for name in ("texts", "live", "tokens", "score", "log_probability", "lengths", "ended"):
            setattr(self, name, getattr(self, name)[kept])
