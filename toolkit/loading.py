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
    longest of their step: such of similar length then share one; several columns, such as source and target, sort by
    the first. batch_tokens: places of a step and process at most, padded ones among them, the longest column counting;
    steps then hold many short items or few long ones, and one item alone where it is longer than that.
    counts: how much each item counts for in the loss, such as its number of tokens; 1 unless given. The total that
    `make` is told is the sum of them. workers: processes that make batches ahead.
    Raises: ValueError for batch_tokens without lengths.
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
        batch_tokens: int | None = None,
        counts: Tensor | None = None,
        workers: int = 0,
    ) -> None:
        if batch_tokens is not None and (lengths is None or batch_tokens < 1):
            raise ValueError(f"batch_tokens={batch_tokens} wants to be 1 or more, and the lengths of the items")
        self.items = items
        self.lengths = lengths
        self.batch_tokens = batch_tokens
        self.counts = counts
        self.make = make
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.rank, self.processes = share
        self.workers = workers
        self.epoch = 0
        self.position = 0
        self._bounds: list[int] | None = None
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
        if self.batch_tokens is None:
            return num_steps(len(self.items), self.batch_size, self.processes)
        if self._bounds is None:  # the sorted lengths, and so the steps' sizes, are the same every epoch
            self._bounds = self._bounded(self._by_length(torch.arange(len(self.items))))
        return len(self._bounds)

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
        if self.batch_tokens is not None:
            order = self._by_length(order)
            len(self)
            assert self._bounds is not None
            parts: Sequence[Tensor] = order.split(self._bounds)
        else:
            if self.lengths is not None:
                pools = order.split(POOL * width) if self.shuffle else (order,)
                order = torch.cat([self._by_length(pool) for pool in pools])
            parts = cut(order, self.batch_size, self.processes)
        if self.lengths is not None and self.shuffle:
            parts = [parts[place] for place in torch.randperm(len(parts), generator=chance).tolist()]
        return [(self.items[part[self.rank :: self.processes]], self._total(part)) for part in parts]

    def _total(self, part: Tensor) -> int:
        return len(part) if self.counts is None else int(self.counts[part].sum())

    def _by_length(self, order: Tensor) -> Tensor:
        """Return places of items sorted by length, ties as they came."""
        assert self.lengths is not None
        columns = self.lengths[:, None] if self.lengths.dim() == 1 else self.lengths
        for column in reversed(range(columns.shape[1])):
            order = order[columns[order, column].argsort(stable=True)]
        return order

    def _bounded(self, order: Tensor) -> list[int]:
        """Return how many of the sorted items each step takes, within `batch_size` and `batch_tokens`."""
        assert self.lengths is not None
        assert self.batch_tokens is not None
        lengths = self.lengths[order]
        longest = (lengths if lengths.dim() == 1 else lengths.amax(1)).clamp_min(1).tolist()
        sizes: list[int] = []
        held = peak = 0
        for length in longest:
            peak = max(peak, length)
            rows = -(-(held + 1) // self.processes)  # of the process that gets most
            if held and (rows * peak > self.batch_tokens or rows > self.batch_size):
                sizes.append(held)
                held, peak = 0, length
            held += 1
        return [*sizes, held]


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
    return [(part[rank::processes], len(part)) for part in cut(items, batch_size, processes)]


def cut(items: Tensor, batch_size: int, processes: int) -> tuple[Tensor, ...]:
    """Return the items of each step, all processes' together, as equal as they can be."""
    return torch.tensor_split(items, num_steps(len(items), batch_size, processes))


def epoch_seed(epoch: int, step: int = 0, rank: int = 0) -> int:
    """Return a seed that depends on the run's seed and the place in it alone, so that a resumed run draws the same."""
    place = f"{torch.initial_seed()} {epoch} {step} {rank}".encode()
    return int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "big") >> 1  # manual_seed takes 63 bits
