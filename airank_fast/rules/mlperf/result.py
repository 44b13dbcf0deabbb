"""Checks the logs of an MLPerf result together: 5 of ResNet-50, 10 of BERT (4.0 round, closed division)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.foreign.detect import detect
from airank_fast.record.lines import PACKED
from airank_fast.rules.findings import ERROR, WARNING, Finding
from airank_fast.rules.mlperf import order, rcp, rules
from airank_fast.rules.mlperf.log import Log
from airank_fast.rules.mlperf.rules import is_number, short

_NAME = re.compile(rf"result_.*\.txt({'|'.join(map(re.escape, PACKED))})?", re.DOTALL)  # of the package checker

# Rules that a run without convergence breaks; a set may have one such run.
_NOT_CONVERGED = {rules.STATUS.name, rules.TARGET.name}
_MAY_DIFFER = {"init_stop", "run_start", "run_stop", "train_samples"}  # BERT's train_samples may be those to converge
_OF_THE_SYSTEM = (*rules.SUBMISSION_KEYS, "eval_samples")


def is_log(path: Path) -> bool:
    """Whether a file has the name of a result log, compressed or not: result_0.txt, result_0.txt.gz."""
    return _NAME.fullmatch(path.name) is not None


def logs_in(folder: Path) -> list[Path]:
    """The result logs in a directory; [] if none of them is an MLPerf log."""
    logs = sorted(path for path in folder.iterdir() if is_log(path) and path.is_file()) if folder.is_dir() else []
    return logs if any("mlperf" in formats_of(log) for log in logs) else []


def formats_of(path: Path) -> list[str]:
    """The formats of a file; [] if it cannot be read."""
    try:
        return detect(path)
    except UserError:
        return []


def check_set(paths: Iterable[str | os.PathLike], path: str | os.PathLike = "") -> Iterator[Finding]:
    """The findings about each log of a result, then those about the set at `path`, the directory of the logs.

    A run that did not converge is a warning if the benchmark allows that many.
    """
    logs = [order.read(each) for each in paths]
    failed = [log for log in logs if log.failed]
    may_fail = 0 < len(failed) <= _most_failed(logs)
    for log in logs:
        for finding in log.findings:
            if finding.rule in _NOT_CONVERGED and finding.severity == ERROR and may_fail:
                finding = replace(
                    finding, severity=WARNING, required=f"{finding.required}; it counts as the slowest run"
                )
            yield finding
    yield from judge_set(logs, os.fspath(path) or os.path.dirname(logs[0].path if logs else "") or ".")


def _most_failed(logs: Sequence[Log]) -> int:
    """The number of runs in a set that may fail to converge."""
    return max((rules.MAX_FAILED.get(str(log.value("submission_benchmark")), 1) for log in logs), default=1)


def judge_set(logs: Sequence[Log], path: str) -> Iterator[Finding]:
    """The findings about the set as a whole.

    A set has the benchmark's number of runs, one system, equal hyper-parameters and different seeds. It converges no
    faster than the reference. One run may fail to converge, and none may be a copy of another.
    """
    yield from _judge_number(logs, path)
    yield from _judge_copies(logs)
    yield from _judge_equality(logs)
    yield from _judge_seeds([log for log in logs if log.value("submission_division") != "open"])
    yield from _judge_convergence(logs, path)


def _judge_number(logs: Sequence[Log], path: str) -> Iterator[Finding]:
    failed = [log for log in logs if log.failed]
    names = (log.value("submission_benchmark") for log in logs)
    benchmark = next((name for name in names if isinstance(name, str) and name in rules.NUM_LOGS), None)
    most = _most_failed(logs)
    if benchmark and len(logs) != rules.NUM_LOGS[benchmark]:
        found = f"{len(logs)} runs of {benchmark}"
        yield rules.NUM_RUNS.broken(path, None, found, f"exactly {rules.NUM_LOGS[benchmark]}")
    if len(failed) > most:
        names = ", ".join(_name(log, logs) for log in failed)
        yield rules.CONVERGED.broken(path, None, f"{len(failed)} runs did not converge: {names}", f"{most} at most")


def same_start(starts_ms: Sequence[float | None]) -> list[list[int]]:
    """Groups of two or more runs that start at the same millisecond, by their indices in the set.

    Independent runs start at different times: all but one of a group are copies, even with different seeds.
    """
    groups = defaultdict(list)
    for place, start_ms in enumerate(starts_ms):
        if start_ms is not None:
            groups[start_ms].append(place)
    return [places for places in groups.values() if len(places) > 1]


def _judge_copies(logs: Sequence[Log]) -> Iterator[Finding]:
    for first, *others in same_start([log.run_start_ms for log in logs]):
        for log in (logs[place] for place in others):
            found = f"run_start at {log.run_start_ms:.0f} as in {_name(logs[first], logs)}"
            yield rules.COPY.broken(log.path, None, found, "a run of its own, not a copy")


def _name(log: Log, logs: Sequence[Log]) -> str:
    """The file name of a log; its path if another log has the same name."""
    name = os.path.basename(log.path)
    return name if sum(os.path.basename(other.path) == name for other in logs) == 1 else log.path


def _judge_equality(logs: Sequence[Log]) -> Iterator[Finding]:
    """Compares each value that all logs must share with its most frequent value."""
    for key in dict.fromkeys(key for log in logs for key in log.values if key not in _MAY_DIFFER):
        texts = [short(log.value(key)) if key in log.values else None for log in logs]
        usual = max(texts, key=lambda text: (text is not None, texts.count(text)))
        rule = rules.SAME_SYSTEM if key in _OF_THE_SYSTEM else rules.SAME_HYPERPARAMETERS
        for log, text in zip(logs, texts, strict=True):
            if text is not None and text != usual:  # a missing line is reported by its log
                yield rule.broken(log.path, log.values[key][1], f"{key} {text}", f"{usual} as in the other runs")


def _judge_seeds(logs: Sequence[Log]) -> Iterator[Finding]:
    """Two runs must not log one seed from the same source line; one run may repeat it."""
    taken: dict[tuple, Log] = {}
    for log in logs:
        mine = {}
        for seed, metadata, line in log.seeds:
            mine.setdefault((short(seed), short(metadata.get("file")), short(metadata.get("lineno"))), line)
        for place, line in mine.items():
            if place in taken:
                found = f"seed {place[0]} as in {_name(taken[place], logs)}"
                yield rules.SEEDS_DIFFER.broken(log.path, line, found, "a seed of its own")
            taken.setdefault(place, log)
    for log in logs:
        if taken and not log.seeds:
            found = f"no line seed; {_name(next(iter(taken.values())), logs)} has one"
            yield rules.SEEDS_OF_ALL.broken(log.path, None, found, "a seed in all runs, or in none")


def _judge_convergence(logs: Sequence[Log], path: str) -> Iterator[Finding]:
    """Compares the set with the reference convergence points of mlperf-logging, if it is installed."""
    sizes = defaultdict(list)
    for log in logs:
        if log.closed and is_number(log.value("global_batch_size")):
            sizes[log.closed.name, log.value("global_batch_size")].append(log)
    if len(sizes) != 1 or len(logs) < 3:
        return  # no batch size, or several: reported above
    (name, batch_size), of_one = next(iter(sizes.items()))
    verdict = rcp.compare(name, batch_size, [log.converged_at for log in of_one])
    if verdict is None:
        yield rules.RCP_MISSING.broken(
            path, None, "mlperf-logging is not installed", "its reference convergence points"
        )
        return
    if verdict.mean == float("inf"):
        return  # too few runs converged: reported above
    unit = "samples" if rules.BENCHMARKS[name].counts_samples else "epochs"
    found = f"{verdict.mean:.10g} {unit} to converge at a batch of {batch_size}: {verdict.reason}"
    if not verdict.accepted:
        least = verdict.point.minimum if verdict.point else None
        required = f"at least {least:.10g} {unit}" if least else "a reference of that batch size"
        yield rules.RCP.broken(path, None, found, required)
    elif verdict.scaling > 1:
        required = f"{verdict.point.mean:.10g} {unit}; minutes are multiplied by {verdict.scaling:.4f}"
        yield rules.RCP.broken(path, None, found, required, WARNING)
