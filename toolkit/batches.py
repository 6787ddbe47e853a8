"""What data modules hand to tasks: dataclasses of tensors that move between devices as one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Batch:
    """The part every modality shares: what to predict, and how much this process's share weighs.

    Shapes: target (S, ...), one entry for each of the S items that this process answers for.
    total: the number of items in this optimisation step over all processes; None when each process holds an equal
    share. With it the base task scales the mean loss by `S * processes / total`, so that the average DDP takes of the
    gradients equals the gradient of the whole step.
    """

    target: Tensor
    total: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return this batch with every field that can move on `device`."""

        def moved(value: Any) -> Any:
            return value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value

        return replace(self, **{field.name: moved(getattr(self, field.name)) for field in fields(self)})
