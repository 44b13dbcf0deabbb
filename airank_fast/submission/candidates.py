"""The runs that are to be handed in: what each is, which log stands for it, and what speaks against it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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
        known = benchmark_of(self.benchmark)
        return known.name if known else self.benchmark

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

    `benchmark` and `cards` say what a log does not. UserError if there is no such log, or nothing says the benchmark.
    """
    if path.name == _LOGS[log_format] and (path.parent / "events.jsonl").is_file():
        path = path.parent  # the events beside a log say more
    known = {"benchmark": benchmark} if benchmark else None
    run = read_run(path, known, prefer=None if path.is_dir() else log_format)
    log = path / _LOGS[log_format] if path.is_dir() else path
    if log.is_symlink() or not log.is_file():
        got = "a symbolic link" if log.is_symlink() else "none"
        raise UserError(f"{log}: must be a log of format {log_format}, got {got}")
    config = run.first("run_config")
    benchmark = config.get("benchmark")
    if not benchmark:
        raise UserError(f"{path}: must be a log that states its benchmark, got none; give --benchmark")
    told = config.get("world_size") or cards_in_name(log) or cards
    if told is not None and (type(told) is not int or told < 1):
        raise UserError(f"{path}: cards must be a whole number from 1 on, got {told!r}")
    return Candidate(run, log, str(benchmark), told)


def refusals(candidates: list[Candidate]) -> list[Finding]:
    """What keeps runs from being handed in: the errors of verify on the run or the log, and sources that are not right.

    Of a run directory that is what it hands in, its events, and every file that says other than they do. An MLPerf log
    is judged beside the others of its result (see results.refusals).
    """
    errors = []
    for one in candidates:
        errors += [
            finding
            for finding in verifying.verify(one.run.path)
            if finding.severity == ERROR and _concerns(finding, one)
        ]
    return errors + _source_errors(candidates)


def _concerns(finding: Finding, one: Candidate) -> bool:
    if finding.rule == agreement.DISAGREES.name:
        return True
    is_judged_with_others = finding.rule.startswith("mlperf.")
    return finding.path in (str(one.log), str(one.run.source)) and not is_judged_with_others


def _source_errors(candidates: list[Candidate]) -> list[Finding]:
    """The source code that made the runs: one commit, without changes, that is there to be handed in."""
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


def check_distinct(candidates: list[Candidate]) -> None:
    """UserError for a log that is given twice."""
    seen = set()
    for one in candidates:
        real = os.path.realpath(one.log)
        if real in seen:
            raise UserError(f"{one.log}: must be given once, got it twice")
        seen.add(real)


def by_benchmark(candidates: Iterable[Candidate], name: Callable[[Candidate], str]) -> dict[str, list[Candidate]]:
    """Candidates by what `name` calls their benchmark, in the order of these names."""
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(name(one), []).append(one)
    return dict(sorted(found.items()))
