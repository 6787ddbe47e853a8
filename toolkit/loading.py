"""Loaders whose order is a function of (seed, epoch) alone: shared exactly between processes, resumable in mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit.batches import Batch

AnyBatch = TypeVar("AnyBatch", bound=Batch)
Collate = Callable[[Tensor, Generator], AnyBatch]
"""Makes a batch of item positions (S,); all it draws comes from the generator, so a batch can be made again."""


class WholeLoader(Generic[AnyBatch]):
    """One batch an epoch, the same object every time: full-batch training and evaluation."""

    def __init__(self, batch: AnyBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[AnyBatch]:
        yield self.batch


class EpochLoader(Generic[AnyBatch]):
    """Batches of `num_items` items; with several processes each step's items are dealt out between them.

    A step holds `batch_size` items a process. When shuffling, items left over at the end that do not reach one a
    process are dropped, others next epoch; in order, every item is yielded once and a process may have one batch less.
    `position` counts the batches of this epoch that were handed out, so that a checkpoint can go on from there.
    """

    def __init__(
        self,
        *,
        num_items: int,
        batch_size: int,
        collate: Collate[AnyBatch],
        shuffle: bool,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        workers: int = 0,
    ) -> None:
        self.num_items = num_items
        self.batch_size = batch_size
        self.collate = collate
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.processes = share
        self.workers = workers
        self.epoch = 0
        self.position = 0
        self.sampler = self  # where Lightning looks for set_epoch, and finds nothing to replace
        self.batch_sampler = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])

    def _steps(self) -> list[Tensor]:
        """Return the item positions of each global step of this epoch."""
        order = torch.arange(self.num_items)
        if self.shuffle:
            order = torch.randperm(self.num_items, generator=_generator(self.seed, self.epoch))
        steps = list(order.split(self.batch_size * self.processes)) if self.num_items else []
        if steps and len(steps[-1]) < self.processes and self.shuffle:
            steps.pop()
        return steps

    def __len__(self) -> int:
        whole, left = divmod(self.num_items, self.batch_size * self.processes)
        mine = left >= self.processes if self.shuffle else left > self.rank
        return whole + int(mine)

    def __iter__(self) -> Iterator[AnyBatch]:
        first = self.position if self.position < len(self) else 0
        steps = _Steps(self, self._steps()[: len(self)])
        batches: Any = (steps[index] for index in range(first, len(steps)))
        if self.workers:
            batches = DataLoader(
                steps,
                batch_size=None,
                sampler=range(first, len(steps)),
                num_workers=self.workers,
                generator=_generator(self.seed, self.epoch),
            )
        self.position = first
        for batch in batches:
            self.position += 1
            yield batch
        self.position = 0


class _Steps(Dataset[Any]):
    def __init__(self, loader: EpochLoader[Any], steps: list[Tensor]) -> None:
        self.collate, self.steps = loader.collate, steps
        self.rank, self.processes = loader.rank, loader.processes
        self.seed, self.epoch = loader.seed, loader.epoch

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Batch:
        items = self.steps[index]
        generator = _generator(self.seed, self.epoch, index, self.rank)
        batch: Batch = self.collate(items[self.rank :: self.processes], generator)
        if self.processes > 1:
            batch.total = len(items)
        return batch


def _generator(*numbers: int) -> Generator:
    """Return a generator seeded by a few small numbers, mixed so that neighbours have nothing in common."""
    mixed = 0x9E3779B97F4A7C15
    for number in numbers:
        mixed = ((mixed ^ number) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
        mixed ^= mixed >> 31
    return Generator().manual_seed(mixed % 2**63)
