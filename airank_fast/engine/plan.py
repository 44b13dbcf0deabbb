"""When a run evaluates and ends, in optimizer steps.

Training reads one endless stream, a permutation of the training set per epoch after the other, in global batches
of B samples; epoch e of n samples is complete after step ceil(e * n / B).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Sizes of the run; all step numbers count completed optimizer steps."""

    samples_per_epoch: int
    batch_size: int
    epochs: int
    eval_every: int
    eval_offset: int
    world_size: int

    def step_after(self, epochs: float) -> int:
        """The step that completes ``epochs`` epochs."""
        return math.ceil(epochs * self.samples_per_epoch / self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.step_after(self.epochs)

    def evaluations(self) -> list[tuple[int, int]]:
        """(epoch, step) of every evaluation: epochs e with e mod eval_every = eval_offset, and the last one."""
        due = [
            e
            for e in range(1, self.epochs + 1)
            if e % self.eval_every == self.eval_offset or e == self.epochs
        ]
        return [(epoch, self.step_after(epoch)) for epoch in due]

    def epochs_ending_at(self, step: int) -> list[int]:
        """Epochs that ``step`` completes (none or one, as a batch is never larger than the data set)."""
        epoch = step * self.batch_size // self.samples_per_epoch
        return [epoch] if epoch >= 1 and self.step_after(epoch) == step else []
