"""What a process does around training: quiet libraries, signals turned into wishes, ranks told early, no crowds."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from toolkit.errors import RecipeError


def process_rank() -> int:
    """Return this process's rank as its launcher told it, before there is a trainer; 0 alone."""
    return int(getattr(rank_zero_only, "rank", 0))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Lightning's banners and its advice about worker processes off the terminal; errors still come through."""
    names = ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
        warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support is in beta.*")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


class StopWish:
    """Whether somebody asked the run to stop: once armed, by Ctrl-C or SIGTERM. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.asked

    def arm(self, trainer: pl.Trainer) -> None:
        """Take both signals, and take them back whenever Lightning has taken SIGTERM.

        Lightning's own handler waits in the midst of anything for a broadcast of process 0. A signal that reaches one
        process alone, or several at different steps, then leaves them waiting for each other for good. Here a wish is
        only noted, and the processes agree on it between two steps.
        """
        self._take()
        connector = trainer._signal_connector
        lightning_takes = connector.register_signal_handlers

        def take_back() -> None:
            lightning_takes()
            self._take()

        connector.register_signal_handlers = take_back  # type: ignore[method-assign]

    def _take(self) -> None:
        try:
            for caught in (signal.SIGINT, signal.SIGTERM):
                if not (self.asked and caught == signal.SIGINT):  # the second Ctrl-C is not ours
                    before = signal.signal(caught, self._ask)
                    self._before.setdefault(caught, before)
        except ValueError:  # not the main thread: signals are somebody else's business
            self._before.clear()

    def disarm(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])


@contextmanager
def stop_on_signal() -> Iterator[StopWish]:
    """Yield a wish to stop; once it is armed, the first Ctrl-C or SIGTERM of the block makes it."""
    wish = StopWish()
    try:
        yield wish
    finally:
        wish.disarm()


def refuse_crowd(trainer: pl.Trainer) -> None:
    """Refuse more processes than a machine without a GPU has cores: they would take all its memory and its time.

    Two are allowed everywhere, for trying out what happens between processes. Raises: RecipeError.
    """
    most = max(2, os.cpu_count() or 1)
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > most:
        raise RecipeError(
            f"trainer.devices: {trainer.num_devices} processes were asked for, but this run trains on the CPU of a "
            f"machine with {os.cpu_count()} core(s), which takes {most} at most. GPUs are asked for by "
            "trainer.accelerator=gpu"
        )
