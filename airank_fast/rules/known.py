"""What a checker is given besides the files it reads: facts that a log does not carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from airank_fast.tasks import Task


class Goal(NamedTuple):
    """The accuracy that a run had to reach, in the unit of its task's headline metric, and where that stands."""

    accuracy: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """Each None where nothing states it; then what needs it is not checked, and a note says so."""

    profile: str | None = None  # of AI-Rank's documents, 2020-12 or 2021-05
    task: Task | None = None
    target: float | None = None
    target_source: str = "--target"
    samples_per_epoch: int | None = None
    warmup_epochs: int | None = None  # that avg_ips leaves out
    epochs: float | None = None  # trained
    avg_ips: float | None = None  # from the run's own events

    def required(self, profile: str) -> Goal | None:
        """The accuracy that a profile's document requires of this task."""
        found = self.task and self.task.target("airank", profile)
        return Goal(found.values[self.task.headline.name], found.source) if found else None

    def goal(self, profile: str) -> Goal | None:
        """The accuracy that this run had to reach under a profile, and who says so."""
        return self.required(profile) if self.target is None else Goal(self.target, self.target_source)

    def epoch_size(self) -> int | None:
        """Samples of an epoch: as given, or of the task's data set where all who prepare it have the same."""
        if self.samples_per_epoch is None and self.task is not None and self.task.least_samples is None:
            return self.task.train_samples
        return self.samples_per_epoch
