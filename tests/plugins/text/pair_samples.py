"""Pairs of texts whose translation is a rule, and batches of them."""

from __future__ import annotations

import random

import torch
from toolkit_text.data.pair_batch import PairBatch
from toolkit_text.data.parallel import EncodedPairs, Pairs
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.translator import PairSpec

SPEC = {"begin": 1, "end": 2, "pad": 0, "max_length": 20}
NUMBERS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}


def counted(count: int) -> Pairs:
    """Return numbers in English, and in German from the last to the first."""
    chance, words = random.Random(0), list(NUMBERS)
    source = [" ".join(chance.choices(words, k=1 + row % 4)) for row in range(count)]
    target = [" ".join(NUMBERS[word] for word in reversed(text.split())) for text in source]
    return Pairs(source, target, list(range(count)))


def pair_spec(vocabulary: int = 30, joint: bool = True) -> PairSpec:
    tokens = TokenSpec(vocabulary, SPEC["pad"], SPEC["max_length"])
    other = tokens if joint else TokenSpec(vocabulary - 7, SPEC["pad"], SPEC["max_length"])
    return PairSpec(tokens, other, joint, SPEC["end"])


def encoded(sizes: list[tuple[int, int]], vocabulary: int = 20) -> EncodedPairs:
    """Return pairs of random tokens, source and target of the given lengths without marks."""
    chance = torch.Generator().manual_seed(0)

    def drawn(size: int) -> list[int]:
        return torch.randint(3, vocabulary, (size,), generator=chance).tolist()

    texts = [""] * len(sizes)
    source, target = zip(*((drawn(one), drawn(other)) for one, other in sizes), strict=True)
    return EncodedPairs(source, target, Pairs(texts, texts, list(range(len(sizes)))), SPEC)


def batch_of(*sizes: tuple[int, int]) -> PairBatch:
    return encoded(list(sizes)).batch(torch.arange(len(sizes)))
