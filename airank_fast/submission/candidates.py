"""The runs that are to be handed in: what each is, which log stands for it, and which of them are chosen."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record import source
from airank_fast.record.logs import AIRANK_FILE, MLPERF_FILE
from airank_fast.record.runs import Run, read_run
from airank_fast.rules import verifying
from airank_fast.rules.findings import ERROR, Finding, Rule
from airank_fast.rules.trees import NUM_RESULTS

_LOGS = {"airank": AIRANK_FILE, "mlperf": MLPERF_FILE}
_CARDS_IN_NAME = re.compile(r"GPUx([1-9]\d*)")
REHEARSAL = "REHEARSAL"
ONE_SET = Rule(name="package.one_set", severity=ERROR,
               source="MLPerf training rules: the runs of a result differ in their seeds alone")  # fmt: skip
MAY_MISS = {"mlperf.target", "mlperf.status"}  # what one run of a set may miss: it counts as the slowest
SOURCE = Rule(name="package.source", severity=ERROR,
              source="MLPerf training rules, GP2BM and AI-Rank: the source code that ran is handed in")  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A run with the log that is handed in for it."""

    run: Run
    log: Path
    benchmark: str  # our name: resnet50, bert_large ...
    cards: int | None  # None: the log does not say, and nobody did

    @property
    def config(self) -> dict:
        return dictionary(self.run.first("run_config"))

    @property
    def system(self) -> dict:
        return self.run.first("system")

    @property
    def short(self) -> str:
        """MLPerf's name of the benchmark: resnet or bert."""
        return "bert" if self.benchmark.startswith("bert") else self.benchmark.removesuffix("50")

    @property
    def started(self) -> float:
        return self.run.first("run_start").get("t", 0.0)

    @property
    def minutes(self) -> float:
        """run_start to run_stop, in minutes; infinite for a run that did not reach its target."""
        summary = self.run.summary
        return summary["total_time"] / 60 if summary["status"] == "success" else float("inf")

    @property
    def source(self) -> dict[str, str]:
        """The identity of the source code as the run recorded it; {} if it did not."""
        return {name: str(value) for name, value in dictionary(self.system.get("source")).items()}

    @property
    def is_rehearsal(self) -> bool:
        return REHEARSAL in str(dictionary(self.config.get("submission")).get("org"))


def dictionary(value: object) -> dict:
    """The value if it is a dictionary, else {}: logs may hold anything."""
    return value if isinstance(value, dict) else {}


def read_candidate(path: Path, log_format: str, benchmark: str | None = None, cards: int | None = None) -> Candidate:
    """The candidate at `path`: a run directory, or a log of `log_format` (airank or mlperf).

    `benchmark` and `cards` say what a log does not. UserError if there is no such log, or nothing says the benchmark.
    """
    if path.name == _LOGS[log_format] and (path.parent / "events.jsonl").is_file():
        path = path.parent  # the events beside a log say more
    run = read_run(path, prefer=None if path.is_dir() else log_format)
    log = path / _LOGS[log_format] if path.is_dir() else path
    if log.is_symlink() or not log.is_file():
        got = "a symbolic link" if log.is_symlink() else "none"
        raise UserError(f"{log}: a log of format {log_format} is required, got {got}")
    config = run.first("run_config")
    benchmark = config.get("benchmark") or benchmark
    if not benchmark:
        raise UserError(f"{path}: the benchmark is required, got a log that does not say it; give --benchmark")
    named = _CARDS_IN_NAME.search(log.name)
    told = config.get("world_size") or (int(named[1]) if named else cards)
    if told is not None and (type(told) is not int or told < 1):
        raise UserError(f"{path}: a whole number of cards from 1 on is required, got {told!r}")
    return Candidate(run, log, str(benchmark), told)


def refusals(candidates: list[Candidate]) -> list[Finding]:
    """The errors that the rule books find in the logs, and what is wrong with the source they were made by.

    Every other finding is for `airank_fast.verify` to tell.
    """
    lost = [one for one in candidates if one.minutes == float("inf")]
    errors = []
    for one in candidates:
        is_the_one = one in lost and sum(other.short == one.short for other in lost) == 1
        errors += [
            finding for finding in verifying.verify(one.log)
            if finding.severity == ERROR and not (is_the_one and finding.rule in MAY_MISS)
        ]  # fmt: skip
    first = next((one.source["commit"] for one in candidates if "commit" in one.source), None)
    for one in candidates:
        commit, modified = one.source.get("commit"), one.source.get("modified", "0")
        if commit is None:
            continue
        if commit != first:
            errors.append(SOURCE.broken(str(one.log), None, f"made by commit {commit}", f"{first} as the other runs"))
        if modified != "0":
            found = f"made with {modified} files changed since commit {commit}"
            errors.append(SOURCE.broken(str(one.log), None, found, "the source of a commit is required"))
        if not source.has_commit(commit):
            found = f"commit {commit} is not in this checkout"
            errors.append(SOURCE.broken(str(one.log), None, found, "the source that made the run is required"))
    return errors


def set_errors(candidates: list[Candidate]) -> list[Finding]:
    """What keeps the runs of a benchmark from being one MLPerf result: the same seed twice, different batches."""
    errors = []
    for runs in by_benchmark(candidates, lambda one: one.short).values():
        seeds: dict[str, Candidate] = {}
        for one in runs:
            for name in ("global_batch_size", "world_size", "precision"):
                value, first = one.config.get(name), runs[0].config.get(name)
                if value != first:
                    required = f"{first!r} as in the others"
                    errors.append(ONE_SET.broken(str(one.log), None, f"{name} {value!r}", required))
            seed = one.config.get("seed")
            if seed is not None and seeds.setdefault(str(seed), one) is not one:
                found = f"seed {seed}, which is that of {seeds[str(seed)].log} too"
                errors.append(ONE_SET.broken(str(one.log), None, found, "a seed of its own is required"))
    return errors


def check_distinct(candidates: list[Candidate]) -> None:
    """UserError for a log that is given twice."""
    seen = set()
    for one in candidates:
        real = os.path.realpath(one.log)
        if real in seen:
            raise UserError(f"{one.log}: every run once is required, got it twice")
        seen.add(real)


def by_benchmark(candidates: Iterable[Candidate], name: Callable[[Candidate], str]) -> dict[str, list[Candidate]]:
    """Candidates by what `name` calls their benchmark, in the order of these names."""
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(name(one), []).append(one)
    return dict(sorted(found.items()))


def olympic_minutes(runs: list[Candidate]) -> float | None:
    """Mean of the minutes without the fastest and the slowest; None if more than one run did not converge."""
    minutes = sorted(one.minutes for one in runs)
    kept = minutes[1:-1]
    return sum(kept) / len(kept) if kept and kept[-1] != float("inf") else None


def choose(benchmark: str, runs: list[Candidate]) -> list[Candidate]:
    """As many runs as MLPerf wants of `benchmark` (resnet, bert), in the order of their starts.

    Of more, the median of all windows of consecutive runs by their olympic mean. UserError for fewer.
    """
    required = NUM_RESULTS.get(benchmark)
    if required is None:
        raise UserError(f"benchmark: one of {', '.join(NUM_RESULTS)} is required, got {benchmark}")
    if len(runs) < required:
        raise UserError(f"{benchmark}: {required} runs are required, got {len(runs)}")
    runs = sorted(runs, key=lambda one: (one.started, str(one.log)))
    windows = [runs[first : first + required] for first in range(len(runs) - required + 1)]

    def score(window: list[Candidate]) -> float:
        minutes = olympic_minutes(window)
        return float("inf") if minutes is None else minutes

    return sorted(windows, key=score)[len(windows) // 2]
