"""What a process does around training: libraries kept quiet, signals turned into wishes, ranks told early."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only


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
    """Whether somebody asked the run to stop; `arm` makes Ctrl-C and SIGTERM ask for it.

    A second Ctrl-C stops at once. Lightning takes SIGTERM for itself when it sets up, so `arm` is called again then.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.asked

    def arm(self) -> None:
        try:
            for caught in (signal.SIGINT, signal.SIGTERM):
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
    """Turn the first Ctrl-C or SIGTERM of the block into a wish to stop after the current step."""
    wish = StopWish()
    wish.arm()
    try:
        yield wish
    finally:
        wish.disarm()
