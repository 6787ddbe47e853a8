"""Patterns by words, so that a failing example can be printed, made smaller and run again: `causal & padding`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_

import torch

from toolkit import attention as patterns
from toolkit.attention import EdgePattern, Pattern, edges
from toolkit.attention.pattern import AllOf, AnyOf, Dense, Padding, Segments
from toolkit.errors import UnknownNameError, nearest


@dataclass(frozen=True)
class Sizes:
    """What a pattern is made for: B samples, H heads, Lq queries, Lk keys; numbers are drawn from `seed`."""

    batch: int
    heads: int
    queries: int
    keys: int
    seed: int

    def generator(self, word: str) -> torch.Generator:
        """Return random numbers that are the same whatever other words stand beside this one."""
        return torch.Generator().manual_seed(self.seed * 65521 + zlib.crc32(word.encode()) % 65521)


def _padding(sizes: Sizes, shortest: int) -> Pattern:
    lengths = torch.randint(1, max(2, sizes.keys + 1), (sizes.batch,), generator=sizes.generator("padding"))
    lengths = lengths.clamp_max(sizes.keys)
    lengths[:1] = min(shortest, sizes.keys)
    return patterns.padding(lengths)


def _segments(sizes: Sizes) -> Pattern:
    generator = sizes.generator("segments")
    of_queries, of_keys = (
        torch.randint(0, 2, (sizes.batch, length), generator=generator).sort(1).values
        for length in (sizes.queries, sizes.keys)
    )
    return patterns.segments(of_keys) if sizes.queries == sizes.keys else patterns.segments(of_queries, of_keys)


def _mask(sizes: Sizes, word: str, batch: int = 1, heads: int = 1) -> torch.Tensor:
    mask = torch.rand(batch, heads, sizes.queries, sizes.keys, generator=sizes.generator(word)) < 0.6
    mask[..., :1] |= ~mask.any(-1, keepdim=True)  # nobody looks at nothing, unless that is what is asked for
    return mask


def _key_mask(sizes: Sizes) -> Pattern:
    """The same keys for all queries of a sample, some in the middle left out: a mask that needs no pairs."""
    mask = torch.rand(sizes.batch, 1, 1, sizes.keys, generator=sizes.generator("key_mask")) < 0.6
    mask[..., :1] |= ~mask.any(-1, keepdim=True)
    return patterns.dense(mask)


def _holes(sizes: Sizes) -> Pattern:
    mask = _mask(sizes, "holes")
    mask[:, :, : max(1, sizes.queries // 2)] = False
    return patterns.dense(mask)


def _graph(sizes: Sizes) -> EdgePattern:
    """Repeated edges and self-loops, in no order at all; target 0 has none unless it is the only one."""
    count, first = 2 * sizes.queries + sizes.keys, min(1, sizes.queries - 1)
    generator = sizes.generator("graph")
    target = torch.randint(first, sizes.queries, (count,), generator=generator)
    source = torch.randint(0, sizes.keys, (count,), generator=generator)
    own = torch.arange(first, min(sizes.queries, sizes.keys))
    index = torch.cat([torch.stack([own, own]), torch.stack([source, target])], 1)
    return edges(index[:, torch.randperm(index.shape[1], generator=generator)], sizes.queries, sizes.keys)


def _simple(sizes: Sizes) -> EdgePattern:
    """No edge twice, in no order."""
    target, source = _mask(sizes, "simple")[0, 0].nonzero(as_tuple=True)
    order = torch.randperm(len(target), generator=sizes.generator("order"))
    return edges(torch.stack([source, target])[:, order], sizes.queries, sizes.keys)


def _crowded(sizes: Sizes) -> EdgePattern:
    """Source 0 enters every target and every source enters target 0, four times each; own places are joined too."""
    targets, sources = torch.arange(sizes.queries).repeat(4), torch.arange(sizes.keys).repeat(4)
    own = torch.arange(min(sizes.queries, sizes.keys))
    pairs = ((torch.zeros_like(targets), targets), (sources, torch.zeros_like(sources)), (own, own))
    index = torch.cat([torch.stack(pair) for pair in pairs], 1)
    return edges(
        index[:, torch.randperm(index.shape[1], generator=sizes.generator("crowded"))], sizes.queries, sizes.keys
    )


WORDS: dict[str, Callable[[Sizes], Pattern]] = {
    "full": lambda sizes: patterns.full(),
    "causal": lambda sizes: patterns.causal(),
    "window": lambda sizes: patterns.window(1, 1),
    "past": lambda sizes: patterns.window(2, 0),
    "blocks": lambda sizes: patterns.blocks(2),
    "strided": lambda sizes: patterns.strided(2),
    "global": lambda sizes: patterns.global_tokens([0]),
    "padding": lambda sizes: _padding(sizes, max(1, sizes.keys // 2)),
    "empty_sample": lambda sizes: _padding(sizes, 0),
    "segments": _segments,
    "mask": lambda sizes: patterns.dense(_mask(sizes, "mask")),
    "sample_mask": lambda sizes: patterns.dense(_mask(sizes, "sample_mask", batch=sizes.batch)),
    "head_mask": lambda sizes: patterns.dense(_mask(sizes, "head_mask", heads=sizes.heads)),
    "key_mask": _key_mask,
    "holes": _holes,
    "graph": _graph,
    "simple": _simple,
    "crowded": _crowded,
}
"""Patterns that the kit knows by name. `holes` leaves the first half of the rows nothing to look at."""

ON_EDGES = ("graph", "simple", "crowded")


def make(words: str, sizes: Sizes) -> Pattern:
    """Make a pattern from words joined by `&` and `|`; `&` binds closer.

    Raises: UnknownNameError for a word that is not in `WORDS`.
    """
    return reduce(or_, (reduce(and_, (_word(word, sizes) for word in part)) for part in split(words)))


def of_sample(pattern: Pattern, b: int, queries: int, keys: int, batch: int, heads: int) -> Pattern:
    """Return the part of a pattern that is of one sample of a batch, of the same kind where that can be."""
    if not pattern.per_sample:
        return pattern
    if isinstance(pattern, Padding):
        return patterns.padding(pattern.lengths[b : b + 1])
    if isinstance(pattern, Segments):
        ids, others = pattern.ids[b : b + 1], pattern.key_ids[b : b + 1]
        return patterns.segments(ids, None if pattern.ids is pattern.key_ids else others)
    if isinstance(pattern, AllOf | AnyOf):
        parts = (of_sample(part, b, queries, keys, batch, heads) for part in pattern.parts)
        return reduce(and_ if isinstance(pattern, AllOf) else or_, parts)
    if isinstance(pattern, Dense):
        return patterns.dense(pattern.table[b : b + 1])
    return patterns.dense(pattern.mask(queries, keys, batch=batch, heads=heads)[b : b + 1])


def split(words: str) -> list[list[str]]:
    """Return the words of `a & b | c` as [[a, b], [c]]."""
    return [[word.strip() for word in part.split("&")] for part in words.split("|")]


def simpler(words: str) -> list[str]:
    """Return the same pattern with one word left out, each."""
    parts, found = split(words), []
    for place, part in enumerate(parts):
        for index in range(len(part)):
            left = [*parts[:place], part[:index] + part[index + 1 :], *parts[place + 1 :]]
            found.append(" | ".join(" & ".join(each) for each in left if each))
    return [each for each in found if each]


def _word(word: str, sizes: Sizes) -> Pattern:
    if word not in WORDS:
        raise UnknownNameError(f"no pattern of the kit is called {word!r}.{nearest(word, WORDS)}")
    return WORDS[word](sizes)
