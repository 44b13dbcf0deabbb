"""The parsed content of an MLPerf log, which the checks need: values, seeds, evaluations and times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from airank_fast.rules.findings import Finding
from airank_fast.rules.mlperf.rules import BENCHMARKS, OTHER_ROUNDS, WORDS, Benchmark, is_number


class Evaluation(NamedTuple):
    """An eval_accuracy line."""

    line: int
    accuracy: object
    epoch: object  # epoch_num
    samples_count: object  # or step_num, in some logs of 3.1

    def reaches(self, target: float) -> bool:
        """Whether the accuracy is a fraction at or above the target."""
        return is_number(self.accuracy) and target <= self.accuracy < 1


@dataclass
class Log:
    """The parsed content of a log and its findings."""

    path: str
    findings: list[Finding] = field(default_factory=list, repr=False)
    values: dict[str, tuple[object, int]] = field(default_factory=dict)  # of keys that appear once: first value, line
    seeds: list[tuple[object, dict, int]] = field(default_factory=list)  # value, metadata, line
    evaluations: list[Evaluation] = field(default_factory=list, repr=False)
    run_start_ms: float | None = None
    run_stop_ms: float | None = None
    status: str | None = None  # of the run_stop

    def value(self, key: str) -> object:
        """The first value of a key; None if the log has none."""
        return self.values.get(key, (None, 0))[0]

    @property
    def benchmark(self) -> Benchmark | None:
        """The rules of its benchmark; None for a benchmark without a book here."""
        name = self.value("submission_benchmark")
        return BENCHMARKS.get(name) if isinstance(name, str) else None

    @property
    def lacks_book(self) -> bool:
        """Whether its benchmark is one of MLPerf's without a book here."""
        name = self.value("submission_benchmark")
        return self.benchmark is None and name in WORDS["submission_benchmark"]

    @property
    def other_round(self) -> str | None:
        """The rounds that have its benchmark, if the round of this book does not."""
        name = self.value("submission_benchmark")
        return OTHER_ROUNDS.get(name) if isinstance(name, str) else None

    @property
    def closed(self) -> Benchmark | None:
        """The rules of its benchmark; None in the open division, which they do not bind."""
        return None if self.value("submission_division") == "open" else self.benchmark

    @property
    def failed(self) -> bool:
        """Whether the run did not converge; without a book, whether its status is no success."""
        return self.converged_at is None if self.benchmark else self.status != "success"

    @property
    def minutes(self) -> float | None:
        """The result of the run: minutes from run_start to run_stop."""
        if self.run_start_ms is None or self.run_stop_ms is None:
            return None
        return (self.run_stop_ms - self.run_start_ms) / 60_000

    @property
    def converged_at(self) -> float | None:
        """Epochs (BERT: samples) at the last evaluation of a run that ended in success, as the RCP checker reads it."""
        last = self.evaluations[-1].epoch if self.evaluations else None
        return round(last, 3) if self.status == "success" and is_number(last) else None
