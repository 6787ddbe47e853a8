"""A few training steps of a recipe, measured: shapes, parameters, memory and time, before hours are spent on it."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from toolkit.assemble import build_data, build_for_training
from toolkit.rehearsal import ALONE, EnoughError, StepClock
from toolkit.resolve import Resolved

STEPS = 6
"""The first warms up and is not timed."""

ENOUGH_SECONDS = 20.0


class _Probe(StepClock):
    """Time each step, and count what the first one keeps for its backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.batch: Any = None
        self.saved = 0
        self.batches = 0.0
        self.optimizer_bytes = 0

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.batches = float(trainer.num_training_batches)

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.batch is None:
            self.batch = shapes(batch)
        super().on_train_batch_start(trainer, task, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)
        if len(self.train_seconds) < STEPS and self.elapsed < ENOUGH_SECONDS:
            return
        for optimizer in trainer.optimizers:
            states = [value for state in optimizer.state.values() for value in state.values()]
            self.optimizer_bytes += sum(num_bytes(value) for value in states if isinstance(value, Tensor))
        raise EnoughError


def measure(resolved: Resolved) -> dict[str, Any]:
    """Train a few steps without leaving anything behind, and return what they showed, as plain values."""
    pl.seed_everything(resolved.seed, workers=True, verbose=False)
    data = build_data(resolved)
    task = build_for_training(resolved, data)
    probe = _Probe()
    output: dict[str, Any] = {}
    setattr(task, "step", _watched(task, task.step, probe, output))  # noqa: B010 (mypy refuses the assignment)
    trainer = pl.Trainer(
        **{**resolved.trainer, **ALONE, "limit_val_batches": 0},
        callbacks=[probe],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(EnoughError):
        trainer.fit(task, datamodule=data)
    weights = [*task.model.parameters(), *task.model.buffers()]
    trained = [weight for weight in task.model.parameters() if weight.requires_grad]
    memory = {
        "weights": sum(map(num_bytes, weights)),
        "gradients": sum(map(num_bytes, trained)),
        "optimizer": probe.optimizer_bytes,
        "activations": probe.saved,
    }
    memory["total"] = sum(memory.values())
    if trainer.strategy.root_device.type == "cuda":
        memory["device_peak"] = torch.cuda.max_memory_allocated()
    return {
        "device": str(trainer.strategy.root_device),
        "spec": {
            key: value for key, value in data.spec.items() if not isinstance(value, list | dict) or len(value) < 12
        },
        "batch": probe.batch,
        "output": output,
        "parameters": parameter_counts(task.model),
        "memory_bytes": memory,
        **_times(resolved, probe),
    }


def _watched(task: Any, step: Callable[[Any], Any], probe: _Probe, output: dict[str, Any]) -> Callable[[Any], Any]:
    """Wrap a task's step: the first call notes its output and the tensors that autograd keeps."""

    def watched(batch: Any) -> Any:
        if output:
            return step(batch)
        seen = {_storage(weight) for weight in task.parameters()}
        seen |= {_storage(value) for value in _tensors(batch)}

        def keep(tensor: Tensor) -> Tensor:
            place = _storage(tensor)
            if place not in seen:
                seen.add(place)
                probe.saved += _storage_bytes(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = step(batch)
        output.update(shapes(found._asdict()))
        return found

    return watched


def _times(resolved: Resolved, probe: _Probe) -> dict[str, Any]:
    step = statistics.median(probe.train_seconds[1:] or probe.train_seconds or [float("nan")])
    epochs, steps = resolved.trainer.get("max_epochs"), resolved.trainer.get("max_steps", -1)
    total = None
    if epochs and epochs > 0:
        total = epochs * probe.batches
    if steps and steps > 0:
        batches = steps * resolved.trainer["accumulate_grad_batches"]
        total = min(batches, total) if total is not None else batches
    finite = total is not None and total != float("inf")
    return {
        "step_seconds": step,
        "first_step_seconds": probe.train_seconds[0] if probe.train_seconds else None,
        "batches_per_epoch": int(probe.batches) if probe.batches != float("inf") else None,
        "batches": int(total) if finite and total is not None else None,
        "run_seconds": step * total if finite and total is not None else None,
    }


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Return the number of parameters of each top-level module, of the model's own, and in all."""
    counts = {name: sum(weight.numel() for weight in child.parameters()) for name, child in model.named_children()}
    own = sum(weight.numel() for weight in model.parameters(recurse=False))
    if own:
        counts["(its own)"] = own
    counts["total"] = sum(weight.numel() for weight in model.parameters())
    return counts


def shapes(value: Any) -> dict[str, Any]:
    """Return shape and type of each tensor in a batch, by name."""
    items = value.items() if isinstance(value, Mapping) else _fields(value)
    found: dict[str, Any] = {}
    for name, item in items:
        if isinstance(item, Tensor):
            found[str(name)] = {"shape": list(item.shape), "dtype": str(item.dtype).removeprefix("torch.")}
        elif isinstance(item, Mapping | list | tuple) or dataclasses.is_dataclass(item):
            found |= {f"{name}.{key}": each for key, each in shapes(item).items()}
    return found


def _fields(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return list(vars(value).items()) if hasattr(value, "__dict__") else []


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else [item for _, item in _fields(value)]
    nested = (Tensor, Mapping, list, tuple)
    return [
        tensor
        for item in items
        if isinstance(item, nested) or dataclasses.is_dataclass(item)
        for tensor in _tensors(item)
    ]


def _parts(tensor: Tensor) -> list[Tensor]:
    """Return the dense tensors that a tensor is made of: itself, or the indices and values of a sparse one."""
    if tensor.layout == torch.sparse_csr:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [tensor]


def _storage(tensor: Tensor) -> int:
    try:
        return _parts(tensor)[-1].untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a layout or subclass without storage of its own
        return id(tensor)


def _storage_bytes(tensor: Tensor) -> int:
    try:
        return sum(part.untyped_storage().nbytes() for part in _parts(tensor))
    except (RuntimeError, NotImplementedError):
        return num_bytes(tensor)


def num_bytes(tensor: Tensor) -> int:
    """Return the size of a dense tensor's values."""
    return tensor.numel() * tensor.element_size()
