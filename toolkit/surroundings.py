"""What a process does around training: libraries kept quiet, signals turned into wishes, ranks told early."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
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


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop after the current step; a second Ctrl-C stops at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before: dict[int, Any] = {}
    try:
        for caught in (signal.SIGINT, signal.SIGTERM):
            before[caught] = signal.signal(caught, ask)
    except ValueError:  # not the main thread: signals are somebody else's business
        before.clear()
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
