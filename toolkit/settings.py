"""The sections of a recipe that are ours alone: when to stop, what to keep, what to claim, whether to compile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.binding import NonNegative, NonNegativeFloat, Positive

Mode = Literal["auto", "min", "max"]


def mode_of(metric: str, mode: Mode) -> Literal["min", "max"]:
    """Return whether less or more of a metric is better; `auto` takes losses and errors as less."""
    if mode != "auto":
        return mode
    words = set(metric.rpartition("/")[2].split("_"))
    return "min" if words & {"loss", "error", "perplexity", "mse", "mae", "wer", "cer"} else "max"


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """Stop when none of the monitored metrics has improved for `patience` validations.

    monitor: one metric or several; with several, training goes on while any of them improves, as in GAT's own code.
    count_ties: whether to equal the best so far is to improve, for metrics that take few values.
    """

    monitor: str | list[str] = "val/loss"
    patience: Positive = 10
    mode: Mode = "auto"
    min_delta: NonNegativeFloat = 0.0
    count_ties: bool = False

    @property
    def monitors(self) -> list[str]:
        return _names(self.monitor)

    def __post_init__(self) -> None:
        if self.count_ties and self.min_delta:
            raise ValueError("count_ties and min_delta contradict each other: give one of them")


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Keep the best and the last state of training.

    monitor: what the best is best by; of several metrics each breaks the ties of those before it (default: what `stop`
    monitors first, else val/loss). every_seconds: at most this much work is lost to a killed process.
    """

    monitor: str | list[str] | None = None
    mode: Mode = "auto"
    every_seconds: NonNegativeFloat = 30.0

    def monitors(self, stop: StopSettings | None) -> list[str]:
        """Return the metrics in order, given what the recipe stops by."""
        if self.monitor is not None:
            return _names(self.monitor)
        return stop.monitors[:1] if stop is not None else ["val/loss"]


def _names(monitor: str | list[str]) -> list[str]:
    names = [monitor] if isinstance(monitor, str) else monitor
    if not names:
        raise ValueError("monitor names no metric")
    return names


@dataclass(frozen=True, kw_only=True)
class CompileSettings:
    """Whether and how to pass the model through torch.compile."""

    enabled: bool = False
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    dynamic: bool | None = None
    fullgraph: bool = False


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a recipe claims, and how many seeds it is held to over.

    The mean of `metric` over seeds `first_seed`.. must be at least (or at most) the bound.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    seeds: Positive = 10
    first_seed: NonNegative = 0
    source: str = ""
    published: str = ""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give one of at_least and at_most")

    def met_by(self, mean: float) -> bool:
        """Tell whether a mean meets the bound."""
        return mean >= self.at_least if self.at_least is not None else mean <= (self.at_most or 0.0)

    @property
    def bound(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
