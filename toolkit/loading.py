"""Loaders whose order depends on the run's seed and the epoch alone: shared exactly, resumable in mid-epoch.

A torch DataLoader would collate and copy; a batch that is always the same must cost nothing to hand over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit.batches import Batch

AnyBatch = TypeVar("AnyBatch", bound=Batch)
Make = Callable[[Tensor, int, int], AnyBatch]
"""(items of this process, items of all processes, seed of what is drawn) -> batch: makes the same batch again."""


POOL = 50
"""Steps whose items are sorted by length together: more would waste less padding, and shuffle less."""


class HeldLoader(Generic[AnyBatch]):
    """The same batch objects every epoch, in order: full-batch training, and evaluation on few batches."""

    def __init__(self, batches: Sequence[AnyBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[AnyBatch]:
        return iter(self.batches)


class EpochLoader(Generic[AnyBatch]):
    """Batches made on the way from `items`, in a new order each epoch if `shuffle`.

    items: what `make` is given parts of, such as the nodes of a split. batch_size: items of a step and process; see
    `deal` for how they are shared out. lengths: how long each of the items is, for items that are padded to the
    longest of their step: such of similar length then share one. workers: processes that make batches ahead.
    `position` counts the batches handed out in this epoch, so that a checkpoint can go on from there.
    """

    def __init__(
        self,
        items: Tensor,
        make: Make[AnyBatch],
        *,
        batch_size: int,
        shuffle: bool = False,
        share: tuple[int, int] = (0, 1),
        lengths: Tensor | None = None,
        workers: int = 0,
    ) -> None:
        self.items = items
        self.lengths = lengths
        self.make = make
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.rank, self.processes = share
        self.workers = workers
        self.epoch = 0
        self.position = 0
        self._goes_on = (-1, 0)
        self.sampler = self  # where Lightning looks for set_epoch, and finds nothing to replace
        self.batch_sampler = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._goes_on = (int(state["epoch"]), int(state["position"]))

    def __len__(self) -> int:
        return num_steps(len(self.items), self.batch_size, self.processes)

    def __iter__(self) -> Iterator[AnyBatch]:
        epoch, position = self._goes_on
        first = (
            position if epoch == self.epoch and position < len(self) else 0
        )  # the end of an epoch is no place in one
        self._goes_on = (-1, 0)
        steps = _Steps(self, self._dealt())
        batches: Any = (steps[index] for index in range(first, len(steps)))
        if self.workers:
            own = Generator().manual_seed(epoch_seed(self.epoch))  # else it would draw from the global generator
            batches = DataLoader(
                steps, batch_size=None, sampler=range(first, len(steps)), num_workers=self.workers, generator=own
            )
        for index, batch in enumerate(batches, start=first):
            self.position = index + 1
            yield batch

    def _dealt(self) -> list[tuple[Tensor, int]]:
        """Share the items out over steps and processes; every process shuffles alike, or their shares would overlap."""
        chance = Generator().manual_seed(epoch_seed(self.epoch))
        count, width = len(self.items), self.batch_size * self.processes
        order = torch.randperm(count, generator=chance) if self.shuffle else torch.arange(count)
        if self.lengths is not None:
            pools = order.split(POOL * width) if self.shuffle else (order,)
            order = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        steps = deal(self.items[order], self.batch_size, self.rank, self.processes)
        if self.lengths is not None and self.shuffle:
            steps = [steps[place] for place in torch.randperm(len(steps), generator=chance).tolist()]
        return steps


class _Steps(Dataset[Any]):
    def __init__(self, loader: EpochLoader[Any], steps: list[tuple[Tensor, int]]) -> None:
        self.make, self.steps = loader.make, steps
        self.seeds = [epoch_seed(loader.epoch, step + 1, loader.rank) for step in range(len(steps))]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Batch:
        items, total = self.steps[index]
        batch: Batch = self.make(items, total, self.seeds[index])
        return batch


def num_steps(num_items: int, batch_size: int, processes: int) -> int:
    """Return how many steps an epoch takes: as many for every process, for they wait for each other."""
    return max(1, -(-num_items // (batch_size * processes)))


def deal(items: Tensor, batch_size: int, rank: int, processes: int) -> list[tuple[Tensor, int]]:
    """Share `items` out over the steps of an epoch and, in each step, over the processes.

    Nothing is dropped, padded or seen twice, and steps are as equal as they can be, at most `batch_size` a process.
    Returns one (items of this rank, items of all ranks) for each step. A rank's part is empty only where a step has
    fewer items than there are processes.
    """
    steps = num_steps(len(items), batch_size, processes)
    return [(part[rank::processes], len(part)) for part in torch.tensor_split(items, steps)]


def epoch_seed(epoch: int, step: int = 0, rank: int = 0) -> int:
    """Return a seed that depends on the run's seed and the place in it alone, so that a resumed run draws the same."""
    place = f"{torch.initial_seed()} {epoch} {step} {rank}".encode()
    return int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "big") >> 1  # manual_seed takes 63 bits
