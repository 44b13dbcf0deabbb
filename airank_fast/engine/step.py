"""One optimizer step."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class TrainingStep:
    """Forward, backward and update over the micro-batches of one step; never waits for the device.

    Args:
        job: gives ``loss(model, batch)``, a float32 scalar, the mean over the batch.
        model: the network, or its DistributedDataParallel wrapper.
        optimizer: understands ``grad_scale`` and ``found_inf`` when ``scaler`` is enabled.
        scaler: dynamic loss scaling; enabled for fp16 only.

    Gradients accumulate over the micro-batches in the dtype of the weights.
    """

    def __init__(self, job, model: nn.Module, optimizer, scaler) -> None:
        self.job = job
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler

    def __call__(self, batches: list, learning_rate: float) -> Tensor:
        """Train on micro-batches of equal size; returns their mean loss, a float32 scalar on the device."""
        self.set_learning_rate(learning_rate)
        return self.run(batches)

    def set_learning_rate(self, learning_rate: float) -> None:
        """For the next `run`: from the host to where the optimizer reads it."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(learning_rate)

    def run(self, batches: list) -> Tensor:
        """The step itself: nothing in it depends on a value on the host, so that it can be captured."""
        total = torch.zeros((), device=batches[0].labels.device)
        for index, batch in enumerate(batches):
            with self._without_reduction(index < len(batches) - 1):
                loss = self.job.loss(self.model, batch) / len(batches)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _without_reduction(self, wanted: bool):
        if wanted and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()
