"""When a run evaluates and ends, in optimizer steps.

Training reads one endless stream, a permutation of the training set per epoch after the other, in global batches
of B samples; epoch e of n samples is complete after step ceil(e * n / B). A benchmark counts its run and its
evaluations in epochs (Plan) or in samples (SamplePlan).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


class _Epochs:
    """Where epochs end, for any plan."""

    samples_per_epoch: int
    batch_size: int

    def step_after(self, epochs: float) -> int:
        """The step that completes ``epochs`` epochs."""
        return math.ceil(epochs * self.samples_per_epoch / self.batch_size)

    def epochs_ending_at(self, step: int) -> list[int]:
        """Epochs that ``step`` completes (none or one, as a batch is never larger than the data set)."""
        epoch = step * self.batch_size // self.samples_per_epoch
        return [epoch] if epoch >= 1 and self.step_after(epoch) == step else []


@dataclass(frozen=True)
class Plan(_Epochs):
    """Sizes of a run of whole epochs; all step numbers count completed optimizer steps."""

    samples_per_epoch: int
    batch_size: int
    epochs: int
    eval_every: int
    eval_offset: int
    world_size: int

    @property
    def total_steps(self) -> int:
        return self.step_after(self.epochs)

    def evaluations(self) -> list[tuple[int, int]]:
        """(epoch, step) of every evaluation: epochs e with e mod eval_every = eval_offset, and the last one."""
        due = [e for e in range(1, self.epochs + 1) if e % self.eval_every == self.eval_offset or e == self.epochs]
        return [(epoch, self.step_after(epoch)) for epoch in due]

    def block(self, samples: int, epoch: int) -> dict:
        """What a block that begins after ``samples`` and ends with ``epoch`` is called in the log."""
        first_epoch = samples // self.samples_per_epoch + 1
        return {"first_epoch": first_epoch, "epoch_count": epoch - first_epoch + 1}


@dataclass(frozen=True)
class SamplePlan(_Epochs):
    """Sizes of a run of so many steps, evaluated every so many samples; its blocks are counted in samples."""

    samples_per_epoch: int
    batch_size: int
    total_steps: int
    eval_every_samples: int
    world_size: int

    def evaluations(self) -> list[tuple[int, int]]:
        """(completed epochs, step) of every evaluation: the first step at each multiple of samples, and the last."""
        multiples = range(1, self.total_steps * self.batch_size // self.eval_every_samples + 1)
        steps = {math.ceil(number * self.eval_every_samples / self.batch_size) for number in multiples}
        return [(step * self.batch_size // self.samples_per_epoch, step) for step in sorted(steps | {self.total_steps})]

    def block(self, samples: int, epoch: int) -> dict:
        """Nothing beyond the samples, which every block says."""
        return {}


def make_plan(samples_per_epoch: int, batch_size: int, world_size: int, **schedule: int) -> Plan | SamplePlan:
    """The plan of a job's ``schedule``: epochs, eval_every, eval_offset; or total_steps, eval_every_samples."""
    kind = Plan if "epochs" in schedule else SamplePlan
    return kind(samples_per_epoch=samples_per_epoch, batch_size=batch_size, world_size=world_size, **schedule)
