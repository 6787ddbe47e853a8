"""Beam search against every text there is, and what leaves the batch when."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from toolkit.decoding.beam import beam_search
from toolkit.errors import ShapeError

BEGIN, END, VOCABULARY = 0, 1, 5


class Table:
    """A decoder whose scores depend on the text, on its whole beginning, and on nothing else."""

    def __init__(self, texts: int, sharpness: float = 1.5) -> None:
        self.names = [str(text) for text in range(texts)]
        self.sharpness = sharpness
        self.sizes: list[int] = []

    def advance(self, tokens: Tensor) -> Tensor:
        self.sizes.append(len(tokens))
        assert len(tokens) == len(self.names)
        self.names = [f"{name} {token}" for name, token in zip(self.names, tokens[:, 0].tolist(), strict=True)]
        return torch.stack([logits(name, self.sharpness) for name in self.names])

    def reorder(self, samples: Tensor) -> None:
        self.names = [self.names[place] for place in samples.tolist()]


def logits(name: str, sharpness: float) -> Tensor:
    chance = torch.Generator().manual_seed(sum(ord(each) * 31**place for place, each in enumerate(name)) % 2**62)
    return sharpness * torch.randn(VOCABULARY, generator=chance)


def every_text(text: int, limit: int, penalty: float, forbidden: tuple[int, ...], sharpness: float = 1.5):
    """Return all texts of up to `limit` tokens with their scores, best first."""
    inner = [token for token in range(VOCABULARY) if token != END and token not in forbidden]
    found = []
    for length in range(limit):
        for tokens in itertools.product(inner, repeat=length):
            name, total = f"{text} {BEGIN}", 0.0
            for token in (*tokens, END):
                scores = logits(name, sharpness)
                scores[list(forbidden)] = -torch.inf
                total += float(scores.log_softmax(0)[token])
                name += f" {token}"
            found.append((list(tokens), total / (length + 1) ** penalty, total))
    return sorted(found, key=lambda each: -each[1])


def search(decoder: Table, limits: list[int], **options):
    return beam_search(decoder, begin=BEGIN, end=END, limits=torch.tensor(limits), **options)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("forbidden", [(), (BEGIN, 3)])
def test_with_beams_for_all_it_finds_the_best_of_every_text(penalty, forbidden):
    limits = [4, 1, 3, 4, 2]
    found = search(Table(5), limits, beams=700, best=6, length_penalty=penalty, forbidden=forbidden)
    for text, (limit, hypotheses) in enumerate(zip(limits, found, strict=True)):
        expected = every_text(text, limit, penalty, forbidden)[:6]
        assert [each.tokens for each in hypotheses] == [tokens for tokens, _, _ in expected]
        for one, (_, score, total) in zip(hypotheses, expected, strict=True):
            assert one.score == pytest.approx(score, abs=1e-4)
            assert one.log_probability == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_what_it_finds_does_not_depend_on_the_batch(beams):
    limits = [6, 3, 9, 1, 7, 9, 2, 8]
    together = search(Table(8), limits, beams=beams, best=2)
    for text, limit in enumerate(limits):
        alone = Table(text + 1)
        alone.names = [str(text)]
        (found,) = search(alone, [limit], beams=beams, best=2)
        assert [each.tokens for each in found] == [each.tokens for each in together[text]]


def test_a_text_is_done_when_nothing_that_lives_can_win():
    """Stopping early finds what going on to every limit finds; it takes fewer steps."""
    for text in range(30):
        early, late = Table(text + 1, 3.0), Table(text + 1, 3.0)
        early.names = late.names = [str(text)]
        (found,) = search(early, [12], beams=3, length_penalty=0.0)
        exhaustive = _to_the_end(late, 12, 3)
        assert found[0].tokens == exhaustive
        assert len(early.sizes) <= 12
    assert len(early.sizes) < 12


def _to_the_end(decoder: Table, limit: int, beams: int) -> list[int]:
    """Plain beam search of one text in Python, without stopping early."""
    live, ended = [(0.0, [], str(decoder.names[0]))], []
    for step in range(1, limit + 1):
        grown = []
        for total, tokens, name in live:
            name = f"{name} {tokens[-1] if tokens else BEGIN}"
            scores = logits(name, decoder.sharpness).log_softmax(0)
            choices = [END] if step == limit else range(VOCABULARY)
            grown += [(total + float(scores[token]), [*tokens, token], name) for token in choices]
        grown.sort(key=lambda each: -each[0])
        ended += [each for each in grown[:beams] if each[1][-1] == END]
        live = [each for each in grown if each[1][-1] != END][:beams]
    return max(ended, key=lambda each: each[0])[1][:-1]


def test_finished_texts_leave_the_batch():
    for beams in (1, 3):
        decoder = Table(40, 3.0)
        search(decoder, [3] * 30 + [30] * 10, beams=beams)
        assert decoder.sizes[0] == 40
        assert max(decoder.sizes[4:]) <= 14 * beams  # greedy search lets up to a quarter stay
        assert decoder.sizes[4:] == sorted(decoder.sizes[4:], reverse=True)


def test_one_beam_takes_the_likeliest_token_each_time():
    limits = [10, 1, 4, 10, 10, 7]
    found = search(Table(6), limits, beams=1, length_penalty=1.0)
    for text, limit in enumerate(limits):
        name, tokens, total = f"{text} {BEGIN}", [], 0.0
        while True:
            scores = logits(name, 1.5).log_softmax(0)
            token = END if len(tokens) + 1 == limit else int(scores.argmax())
            total += float(scores[token])
            if token == END:
                break
            tokens.append(token)
            name += f" {token}"
        assert found[text][0].tokens == tokens
        assert found[text][0].log_probability == pytest.approx(total, abs=1e-4)
        assert found[text][0].score == pytest.approx(total / (len(tokens) + 1), abs=1e-4)


def test_length_penalty_makes_texts_longer():
    lengths = []
    for penalty in (0.0, 1.0):
        found = search(Table(60), [12] * 60, beams=4, length_penalty=penalty)
        lengths.append(sum(len(each[0].tokens) for each in found))
    assert lengths[0] < lengths[1]


def test_sizes_that_cannot_be_are_refused():
    for options in ({"beams": 0}, {"beams": 2, "best": 3}, {"best": 0}, {"length_penalty": -0.1}):
        with pytest.raises(ShapeError, match="beam search wants"):
            search(Table(1), [3], **options)
    with pytest.raises(ShapeError, match="limits from 0"):
        search(Table(2), [3, 0])
    assert search(Table(0), []) == []
