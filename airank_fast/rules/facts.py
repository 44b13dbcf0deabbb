"""The facts that a checker needs and a log does not carry, such as the target and the samples of an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from airank_fast.tasks import Task


class Goal(NamedTuple):
    """The accuracy that a run had to reach, in the unit of its task's headline metric, and its source."""

    accuracy: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """None is a fact that nothing states. A check that needs it is left out, and a note names the option."""

    profile: str | None = None  # of AI-Rank's documents, 2020-12 or 2021-05
    task: Task | None = None
    target: float | None = None
    target_source: str = "--target"
    samples_per_epoch: int | None = None
    units_per_sample: float = 1.0  # of what throughput counts, tokens of a sentence for example
    warmup_epochs: int | None = None  # left out of avg_ips
    epochs: float | None = None  # trained
    avg_ips: float | None = None  # from the run's own events

    def required(self, profile: str) -> Goal | None:
        """The accuracy that a profile's document requires of the task."""
        found = self.task and self.task.target("airank", profile)
        return Goal(found.values[self.task.headline.name], found.source) if found else None

    def goal(self, profile: str) -> Goal | None:
        """The accuracy that the run had to reach under a profile: the target if one is given, else the document's."""
        return self.required(profile) if self.target is None else Goal(self.target, self.target_source)

    def epoch_size(self) -> int | None:
        """Samples of an epoch: as given, or of the task's data set if every preparation of it has the same size."""
        if self.samples_per_epoch is None and self.task is not None and self.task.least_samples is None:
            return self.task.train_samples
        return self.samples_per_epoch
