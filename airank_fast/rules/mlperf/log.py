"""What the rule book read of an MLPerf log: the values, evaluations and moments that judgements are made of."""

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
    samples_count: object  # or step_num, by which some logs of 3.1 count

    def reaches(self, target: float) -> bool:
        """At or above the target, and a fraction."""
        return is_number(self.accuracy) and target <= self.accuracy < 1


@dataclass
class Log:
    """What the book read of a log, for those who judge several together."""

    path: str
    findings: list[Finding] = field(default_factory=list, repr=False)
    values: dict[str, tuple[object, int]] = field(default_factory=dict)  # of what appears once: first value, line
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
        """What rules it falls under; None for a benchmark that this book does not know."""
        name = self.value("submission_benchmark")
        return BENCHMARKS.get(name) if isinstance(name, str) else None

    @property
    def lacks_book(self) -> bool:
        """Whether it is of one of MLPerf's benchmarks, and not of one that this book knows."""
        name = self.value("submission_benchmark")
        return self.benchmark is None and name in WORDS["submission_benchmark"]

    @property
    def other_round(self) -> str | None:
        """The rounds that have its benchmark, where this book's has not."""
        name = self.value("submission_benchmark")
        return OTHER_ROUNDS.get(name) if isinstance(name, str) else None

    @property
    def closed(self) -> Benchmark | None:
        """The same, unless it is of the open division, which may do otherwise."""
        return None if self.value("submission_division") == "open" else self.benchmark

    @property
    def failed(self) -> bool:
        """Whether the run did not converge, as far as is known."""
        return self.converged_at is None if self.benchmark else self.status != "success"

    @property
    def minutes(self) -> float | None:
        """The result of the run: from run_start to run_stop."""
        if self.run_start_ms is None or self.run_stop_ms is None:
            return None
        return (self.run_stop_ms - self.run_start_ms) / 60_000

    @property
    def converged_at(self) -> float | None:
        """Epochs (BERT: samples) at the last evaluation of a run that ended in success, as the RCP checker reads it."""
        last = self.evaluations[-1].epoch if self.evaluations else None
        return round(last, 3) if self.status == "success" and is_number(last) else None
