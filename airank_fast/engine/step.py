"""One training step: the updates of a job, one after the other, over the same batches."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from airank_fast.job import Batch, Networks, Update


class TrainingStep:
    """Forward, backward and optimizer of each update, over the micro-batches; never waits for the device.

    Args:
        updates: in the order in which they are made.
        networks: all networks. During an update only its learner's parameters take gradients.
        scaler: dynamic loss scaling; enabled for fp16 only. With it torch's own optimizers wait for the device.
        losses: called instead of the updates' own losses, in their order; see `reduced`.
        autocast: a context for each loss.

    Gradients accumulate over the micro-batches in the dtype of the weights.
    """

    def __init__(
        self,
        updates: list[Update],
        networks: Networks,
        scaler: torch.amp.GradScaler,
        losses: Sequence[Callable[[Any], Tensor]] | None = None,
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        self.updates, self.scaler, self.autocast = updates, scaler, autocast
        everything = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
        self._parts = []
        for update, loss in zip(updates, losses or [update.loss for update in updates], strict=True):
            learned = {id(parameter) for parameter in update.learner.parameters()}
            self._parts.append((update.optimizer, loss, [p for p in everything if id(p) not in learned]))
            _own_learning_rates(update.optimizer)

    def __call__(self, batches: list[Batch], learning_rate: float) -> Tensor:
        """Train on micro-batches of equal size; returns the mean loss of each update, float32 [updates]."""
        self.set_learning_rate(learning_rate)
        return self.run(batches)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Write the learning rate, times each group's `lr_factor`, to where the optimizers read it in `run`."""
        for group in [group for update in self.updates for group in update.optimizer.param_groups]:
            rate = learning_rate * group.get("lr_factor", 1)
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate

    def run(self, batches: list[Batch]) -> Tensor:
        """The step itself. It depends on no value of the host, so that it can be captured."""
        totals: list[Tensor] = []
        for optimizer, loss_of, others in self._parts:
            parts = []
            with _without_gradient(others):
                for index, batch in enumerate(batches):
                    with _without_reduction(loss_of, index < len(batches) - 1):
                        with self.autocast():
                            loss = loss_of(batch) / len(batches)
                        self.scaler.scale(loss).backward()
                    parts.append(loss.detach())
            totals.append(functools.reduce(torch.add, parts))
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return torch.stack(totals)


class _Loss(nn.Module):
    """An update's loss as a module that has the learner's parameters alone: these are reduced over ranks."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.learner, self._loss = update.learner, (update.loss,)  # in a tuple, else it is a submodule

    def forward(self, batch: Any) -> Tensor:
        return self._loss[0](batch)


def reduced(update: Update, device: torch.device) -> DistributedDataParallel:
    """The update's loss; its backward pass averages the learner's gradients over the ranks."""
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(_Loss(update), ids, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def _without_gradient(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _without_reduction(loss_of: Callable, condition: bool) -> contextlib.AbstractContextManager:
    if condition and isinstance(loss_of, DistributedDataParallel):
        return loss_of.no_sync()
    return contextlib.nullcontext()


def _own_learning_rates(optimizer: torch.optim.Optimizer) -> None:
    """Give each group with a factor a learning-rate tensor of its own."""
    for group in optimizer.param_groups:
        if "lr_factor" in group and isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()
