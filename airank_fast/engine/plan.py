"""Computes when a run evaluates and ends, in optimizer steps.

Training reads one endless stream, one permutation of the training set per epoch, in global batches of B samples. Epoch
e of n samples is complete after step ceil(e * n / B). A job counts its run and its evaluations in epochs, samples or
steps; one epoch may have several evaluations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from airank_fast.job import Schedule


@dataclass(frozen=True)
class Plan:
    """A schedule over a data set; all step numbers count completed optimizer steps."""

    schedule: Schedule
    samples_per_epoch: int
    batch_size: int
    world_size: int

    @property
    def total_steps(self) -> int:
        return self._steps(self.schedule.length.number, self.schedule.length.unit)

    def step_after(self, epochs: float) -> int:
        """The step that completes ``epochs`` epochs."""
        return self._steps(epochs, "epochs")

    def _steps(self, number: float, unit: str) -> int:
        """The step that completes ``number`` epochs, samples or steps."""
        if unit == "steps":
            return math.ceil(number)
        return math.ceil(number * (self.samples_per_epoch if unit == "epochs" else 1) / self.batch_size)

    def epoch_at(self, step: int) -> int:
        """Epochs that are complete after ``step``."""
        return step * self.batch_size // self.samples_per_epoch

    def epochs_ending_at(self, step: int) -> list[int]:
        """Epochs that ``step`` completes (none or one, as a batch is never larger than the data set)."""
        epoch = self.epoch_at(step)
        return [epoch] if epoch >= 1 and self.step_after(epoch) == step else []

    def evaluations(self) -> list[tuple[int, int]]:
        """(completed epochs, step) of every evaluation, in order; the last is at the end of the run.

        Evaluations that are due at the same step are made once.
        """
        every, offset, end = self.schedule.eval_every, self.schedule.eval_offset, self.total_steps
        steps, number = {end}, 0
        while (step := self._steps(offset + number * every.number, every.unit)) < end:
            if step > 0:
                steps.add(step)
            number += 1
        return [(self.epoch_at(step), step) for step in sorted(steps)]

    def block(self, samples: int, epoch: int) -> dict[str, int]:
        """The epochs of a block, as fields of its event: it begins after ``samples`` and ends with ``epoch``.

        {} where evaluations do not follow whole epochs; such a block has its samples alone.
        """
        every = self.schedule.eval_every
        if every.unit != "epochs" or every.number % 1 or self.schedule.eval_offset % 1:
            return {}
        first_epoch = samples // self.samples_per_epoch + 1
        return {"first_epoch": first_epoch, "epoch_count": epoch - first_epoch + 1}
