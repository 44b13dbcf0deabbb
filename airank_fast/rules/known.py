"""What a checker is told besides the files it reads: facts that a log does not carry."""

from __future__ import annotations

from dataclasses import dataclass

from airank_fast.rules.targets import IMAGENET_SAMPLES, TARGETS, Target


@dataclass(frozen=True, kw_only=True)
class Known:
    """Each None where nobody said it; then what needs it is not checked, and a note says so."""

    profile: str | None = None  # of AI-Rank's documents, 2020-12 or 2021-05
    model: str | None = None  # one of targets.MODELS
    target: float | None = None  # a fraction
    target_source: str = "--target"
    samples_per_epoch: int | None = None
    warmup_epochs: int | None = None  # that avg_ips leaves out
    epochs: float | None = None  # trained
    avg_ips: float | None = None  # from the run's own events

    def goal(self, profile: str) -> Target | None:
        """The accuracy that this run had to reach under a profile, and who says so."""
        if self.target is not None:
            return Target(self.target, self.target_source)
        return TARGETS.get((profile, self.model)) if self.model is not None else None

    def epoch_size(self) -> int | None:
        """Samples of an epoch: as told, or of the data set that the model is trained on."""
        if self.samples_per_epoch is None and self.model == "resnet50":
            return IMAGENET_SAMPLES
        return self.samples_per_epoch
