"""Which split each text belongs to: by the text itself, so that equal texts lie in one, and each class by its share."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.errors import ToolkitWarning


def draw(text: str, seed: int) -> int:
    """Return a whole number below 2^64 that a text always draws with a seed."""
    digest = hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def draws(texts: Sequence[str], seed: int) -> np.ndarray:
    """Return what each text draws. Shapes: (texts,) uint64."""
    return np.array([draw(text, seed) for text in texts], dtype=np.uint64)


def assign(drawn: np.ndarray, labels: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the places of `train` and of each split that is a share of the texts.

    What a text draws decides: it stays in its split when others come and go. Equal texts (those that draw the same)
    stay together, as one text with the label of the first of them. Of a class that has enough different texts each
    split with a share above 0 gets one at least, the lowest of where most are; rarer classes are in train first.
    Shapes: drawn (texts,), labels (texts,), whole numbers.
    """
    drawn_once, first, group = np.unique(drawn, return_index=True, return_inverse=True)
    label = labels[first]
    split = np.zeros(len(first), dtype=np.int64)
    place, low = drawn_once / 2.0**64, 0.0
    for number, share in enumerate(shares.values(), start=1):
        split[(place >= low) & (place < low + share)] = number
        low += share
    wanted = [0, *(number for number, share in enumerate(shares.values(), start=1) if share > 0)]
    by_label = label.argsort(kind="stable")  # those of a class in the order of what they drew
    for members in np.split(by_label, np.flatnonzero(np.diff(label[by_label])) + 1):
        for number in wanted[: len(members)] if len(members) < len(wanted) else wanted:
            held = np.bincount(split[members], minlength=len(shares) + 1)
            if not held[number]:
                split[members[split[members] == held.argmax()][0]] = number
    return {name: np.flatnonzero(split[group] == number) for number, name in enumerate(("train", *shares))}


def warn_of_repeats(drawn: Mapping[str, np.ndarray]) -> None:
    """Tell of texts that are measured on and trained on: two files may hold the same. drawn: what each text draws."""
    for name in ("val", "test"):
        if repeated := int(np.isin(drawn[name], drawn["train"]).sum()):
            warnings.warn(
                ToolkitWarning(
                    f"{repeated} of {len(drawn[name])} texts of {name} are in train too: known by heart, perhaps"
                ),
                stacklevel=2,
            )
