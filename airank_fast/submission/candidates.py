"""The runs of a submission: the benchmark, cards and log of each, and the findings that exclude it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record import source
from airank_fast.record.events import dictionary
from airank_fast.record.foreign.read import Run, cards_in_name, read_run
from airank_fast.record.logs import AIRANK_FILE, MLPERF_FILE
from airank_fast.rules import agreement, verifying
from airank_fast.rules.findings import ERROR, Finding, Rule
from airank_fast.rules.scoring import benchmark_of

_LOGS = {"airank": AIRANK_FILE, "mlperf": MLPERF_FILE}
REHEARSAL = "REHEARSAL"
SOURCE = Rule(
    name="package.source",
    severity=ERROR,
    source="MLPerf training rules, GP2BM and AI-Rank: the source code that ran is handed in",
)


@dataclass(frozen=True)
class Candidate:
    """A run with the log that is handed in for it."""

    run: Run
    log: Path
    benchmark: str  # our name: resnet50, bert_large ...
    cards: int | None  # None: neither the log nor --cards states it

    @property
    def config(self) -> dict:
        return dictionary(self.run.first("run_config"))

    @property
    def system(self) -> dict:
        return self.run.first("system")

    @property
    def mlperf_name(self) -> str:
        """MLPerf's name of the benchmark: resnet or bert."""
        found = benchmark_of(self.benchmark)
        return found.name if found else self.benchmark

    @property
    def started(self) -> float:
        return self.run.first("run_start").get("t", 0.0)

    @property
    def source(self) -> dict[str, str]:
        """The identity of the source code as the run recorded it; {} if it did not."""
        return {name: str(value) for name, value in dictionary(self.system.get("source")).items()}

    @property
    def is_rehearsal(self) -> bool:
        return REHEARSAL in str(dictionary(self.config.get("submission")).get("org"))


def read_candidate(path: Path, log_format: str, benchmark: str | None = None, cards: int | None = None) -> Candidate:
    """The candidate at `path`: a run directory, or a log of `log_format` (airank or mlperf).

    `benchmark` and `cards` are used where the log has none. UserError without such a log, or without a benchmark.
    """
    if path.name == _LOGS[log_format] and (path.parent / "events.jsonl").is_file():
        path = path.parent  # its events have more than the log
    given = {"benchmark": benchmark} if benchmark else None
    run = read_run(path, given, prefer=None if path.is_dir() else log_format)
    log = path / _LOGS[log_format] if path.is_dir() else path
    if log.is_symlink() or not log.is_file():
        got = "a symbolic link" if log.is_symlink() else "none"
        raise UserError(f"{log}: must be a log of format {log_format}, got {got}")
    config = run.first("run_config")
    benchmark = config.get("benchmark")
    if not benchmark:
        raise UserError(f"{path}: must be a log that states its benchmark, got none; give --benchmark")
    cards = config.get("world_size") or cards_in_name(log) or cards
    if cards is not None and (type(cards) is not int or cards < 1):
        raise UserError(f"{path}: cards must be a whole number from 1 on, got {cards!r}")
    return Candidate(run, log, str(benchmark), cards)


def refusals(candidates: list[Candidate]) -> list[Finding]:
    """The findings that exclude runs: errors of verify, and source code that cannot be handed in.

    Of a run directory the log, the events, and every file that disagrees with the events are judged. An MLPerf log is
    judged beside the others of its result (see results.refusals).
    """
    errors = []
    for one in candidates:
        errors += [
            finding
            for finding in verifying.verify(one.run.path)
            if finding.severity == ERROR and _concerns(finding, one)
        ]
    return errors + source_errors(candidates)


def _concerns(finding: Finding, one: Candidate) -> bool:
    if finding.rule == agreement.DISAGREES.name:
        return True
    is_judged_with_others = finding.rule.startswith("mlperf.")
    return finding.path in (str(one.log), str(one.run.source)) and not is_judged_with_others


def source_errors(candidates: Sequence[Candidate]) -> list[Finding]:
    """Unless the source code that made the runs is one commit, without changes, in this checkout: the errors."""
    errors = []
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


def check_distinct(candidates: Iterable[Candidate]) -> None:
    """UserError for a log that is given twice."""
    seen = set()
    for one in candidates:
        real = os.path.realpath(one.log)
        if real in seen:
            raise UserError(f"{one.log}: must be given once, got it twice")
        seen.add(real)


def by_benchmark(candidates: Iterable[Candidate], name: Callable[[Candidate], str]) -> dict[str, list[Candidate]]:
    """Candidates by the benchmark that `name` returns for each, in the order of these names."""
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(name(one), []).append(one)
    return dict(sorted(found.items()))
