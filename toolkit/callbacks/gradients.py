"""The norm of the gradient, for seeing trouble before the loss does."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from toolkit.binding import Positive


class GradientNorm(pl.Callback):
    """Log `train/gradient_norm`, the 2-norm over all weights before clipping, every `every_steps` steps."""

    def __init__(self, *, every_steps: Positive = 1) -> None:
        self.every_steps = every_steps

    def on_before_optimizer_step(self, trainer: pl.Trainer, task: pl.LightningModule, optimizer: Optimizer) -> None:
        if trainer.global_step % self.every_steps:
            return
        gradients = [weight.grad for weight in task.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        for logger in trainer.loggers:
            logger.log_metrics({"train/gradient_norm": float(norm)}, step=trainer.global_step)
