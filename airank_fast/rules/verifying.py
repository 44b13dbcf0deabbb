"""Checks a path against every rule book that applies to it; `verify` yields the findings.

The content of a file decides its format; a file with several formats is checked by the book of each. A directory is
a submission tree (_TREES), an MLPerf result, a run directory (events.jsonl and the logs made from it), or a
folder of these.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.foreign.detect import COMPRESSIONS, PROGRAMS, detect
from airank_fast.record.lines import Lines
from airank_fast.rules import (
    agreement,
    airank,
    airank_inference,
    airank_inference_tree,
    events,
    flagperf,
    flagperf_inference,
    inference_agreement,
    inference_events,
    trees,
)
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule
from airank_fast.rules.mlperf import order, result
from airank_fast.rules.mlperf_inference import log as inference_log
from airank_fast.rules.mlperf_inference import tree as inference_tree
from airank_fast.tasks import Task
from airank_fast.walk import entries

# Format of a file (record/foreign/detect.py) -> its book: check(lines, facts) yields findings.
BOOKS: dict[str, Callable[[Lines, Facts], Iterator[Finding]]] = {
    "events": events.check,
    "airank": airank.check,
    "mlperf": order.check,
    "loadgen": inference_log.check,
    "flagperf": flagperf.check,
    "flagperf_table": flagperf.check_table,
    "inference_events": inference_events.check,
    "airank_inference": airank_inference.check,
    "flagperf_inference": flagperf_inference.check,
    "flagperf_inference_table": flagperf_inference.check_table,
}
_NO_FACTS = Facts()
MAX_OF_A_RULE = 20  # findings of one rule and severity that are listed for one file
_FILE = "what every log reader expects"
_ODDITIES = {  # of record/lines.py
    "bom": (NOTE, "a byte order mark", "plain UTF-8 is the usual form"),
    "utf16": (WARNING, "UTF-16", "UTF-8 is required by most readers (PowerShell: Out-File -Encoding utf8)"),
    "crlf": (NOTE, "lines end with CRLF", "LF is the usual form"),
    "not_utf8": (WARNING, "bytes that are not UTF-8", "UTF-8 is required"),
    "nul": (WARNING, "NUL characters", "text is required: this is a hole left by a crash, or a binary file"),
    "long": (NOTE, "a line of more than 1 MiB, of which the rest was not read", "shorter lines are required"),
    "cut_off": (NOTE, "the last line has no end", "a newline is the usual form: the log may have been cut off"),
}
_READABLE = Rule(name="file.readable", severity=WARNING, source=_FILE)
_COMPRESSED = Rule(name="file.compressed", severity=WARNING, source=_FILE)
_NO_BOOK = Rule(name="file.no_book", severity=NOTE, source=_FILE)
_CONVERT = "which airank_fast.convert turns into a log of AI-Rank or MLPerf"


def verify(path: str | os.PathLike, facts: Facts = _NO_FACTS) -> Iterator[Finding]:
    """The findings about a file, a run directory, a submission tree or a folder of these.

    The findings of a file come in the order of its lines, those about the whole file last. An unreadable folder below
    the path is one finding. UserError if the path itself is unreadable or holds no log in a recognised format.
    """
    path = Path(path)
    if not path.is_dir():
        yield from _file(path, facts)
        return
    found_any = False
    try:
        for check, item in _below(path):
            found_any = found_any or check in _OF_LOGS
            yield from check(item, facts)
    except OSError as error:  # the path itself, or permissions that changed during the check
        raise UserError(f"{path}: must be a directory that can be read, got {error.strerror} in it") from None
    if not found_any:
        raise UserError(f"{path}: must be a directory with logs in a recognised format, got none in it")


def _file(path: Path, facts: Facts) -> Iterator[Finding]:
    if not path.is_file():
        raise UserError(f"{path}: must be a file or a directory, got {'neither' if path.exists() else 'no such'}")
    detected = detect(path)
    formats = [name for name in detected if name in BOOKS]
    if not formats:
        got = f"{' and '.join(detected)}, {_CONVERT}" if detected else "none of them"
        raise UserError(f"{path}: must be a file in one of the formats {', '.join(BOOKS)}, got {got}")
    yield from in_order(check_file(path, formats, facts))


def check_file(path: Path, formats: list[str], facts: Facts) -> Iterator[Finding]:
    """The findings of the books of these formats about a file, and those about its encoding and line ends."""
    lines = Lines(path)
    for name in formats:
        yield from BOOKS[name](lines, facts)
    for oddity, number in lines.oddities.items():
        severity, found, required = _ODDITIES[oddity]
        rule = Rule(name=f"file.{oddity}", severity=severity, source=_FILE)
        yield rule.broken(lines.path, number, found, required)


def in_order(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings about one file by line: MAX_OF_A_RULE of each rule and severity, then one with the number omitted.

    The memory needed does not grow with the file.
    """
    kept: list[Finding] = []
    counts: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        kind = finding.rule, finding.severity
        counts[kind] += 1
        if counts[kind] <= MAX_OF_A_RULE:
            kept.append(finding)
        else:
            last[kind] = finding
    for kind, finding in last.items():
        more = f"{counts[kind] - MAX_OF_A_RULE} more of this rule, the last: {finding.found}"
        kept.append(
            Finding(finding.severity, finding.path, finding.line, finding.rule, finding.source, more, finding.required)
        )
    yield from sorted(kept, key=lambda finding: (finding.line is None, finding.line or 0))


# directories


_Check = Callable[[Path, Facts], Iterator[Finding]]


def _below(folder: Path) -> Iterator[tuple[_Check, Path]]:
    """The checks of a folder's content, in the order of the paths; OSError or UserError if the folder is unreadable."""
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            checks, inside = _checks_of(path)
        except (OSError, UserError) as error:
            if path == folder:
                raise
            checks, inside = [(partial(_unreadable, error), path)], []
        yield from checks
        waiting += reversed(inside)


def _checks_of(path: Path) -> tuple[list[tuple[_Check, Path]], list[Path]]:
    """(the checks of one path, the paths inside it that are still to be checked).

    Of a submission tree the layout and the logs are checked, and not the programs and documents in it.
    """
    if not path.is_dir():
        return [(_file_in_folder if _has_book(path) else _no_book, path)], []
    for is_tree, checks in _TREES:
        if is_tree(path):
            return list(checks(path)), []
    if (path / "events.jsonl").is_file():
        return [(_run_directory, path)], []
    results = set(result.logs_in(path))
    paths = [Path(entry.path) for entry in entries(path) if not entry.name.startswith(".")]
    inside = [each for each in paths if each not in results and _may_hold_logs(each)]
    return [(_result, path)] if results else [], inside


def _checks_of_tree(path: Path) -> Iterator[tuple[_Check, Path]]:
    yield _layout, path
    logs = trees.logs_of(path)
    for folder in dict.fromkeys(log.parent for log in logs):
        if result.logs_in(folder):
            yield _result, folder
        else:
            yield from ((_file_in_folder, log) for log in logs if log.parent == folder)


def _checks_of_inference_tree(path: Path) -> Iterator[tuple[_Check, Path]]:
    yield _inference_tree, path


def _checks_of_airank_inference_tree(path: Path) -> Iterator[tuple[_Check, Path]]:
    yield _airank_inference_layout, path
    for log in airank_inference_tree.logs_of(path):
        task = tasks.find(airank_inference_tree.model_of(log))
        yield partial(_file_of_task, task), log


# How a submission tree is recognised, and its checks: the first that fits.
_TREES: tuple[tuple[Callable[[Path], bool], Callable[[Path], Iterator[tuple[_Check, Path]]]], ...] = (
    (inference_tree.is_tree, _checks_of_inference_tree),
    (airank_inference_tree.is_tree, _checks_of_airank_inference_tree),
    (trees.is_tree, _checks_of_tree),
)


def _may_hold_logs(path: Path) -> bool:
    try:
        if path.is_symlink():
            return False
        if path.is_dir() or path.suffix in COMPRESSIONS:
            return True
        return path.is_file() and path.suffix not in PROGRAMS and bool(_formats(path))
    except OSError:
        return True  # reported by _below


def _formats(path: Path) -> list[str]:
    try:
        return detect(path)
    except UserError:
        return list(BOOKS)  # an unreadable file is reported by its check


def _has_book(path: Path) -> bool:
    return path.suffix not in COMPRESSIONS and any(name in BOOKS for name in _formats(path))


def _layout(path: Path, _: Facts) -> Iterator[Finding]:
    yield from trees.check_tree(path)


def _inference_tree(path: Path, _: Facts) -> Iterator[Finding]:
    yield from inference_tree.check_tree(path)


def _file_of_task(task: Task | None, path: Path, facts: Facts) -> Iterator[Finding]:
    yield from _file_in_folder(path, replace(facts, task=facts.task or task))


def _airank_inference_layout(path: Path, _: Facts) -> Iterator[Finding]:
    yield from airank_inference_tree.check_tree(path)


def _result(path: Path, _: Facts) -> Iterator[Finding]:
    logs = result.logs_in(path)
    readable = [log for log in logs if result.formats_of(log)]
    for log in (each for each in logs if each not in readable):
        yield from _file_in_folder(log, _NO_FACTS)
    yield from result.check_set(readable, path)


def _file_in_folder(path: Path, facts: Facts) -> Iterator[Finding]:
    try:
        yield from _file(path, facts)
    except UserError as error:
        yield _READABLE.broken(str(path), None, str(error), "a file that can be read is required")


def _unreadable(error: OSError | UserError, path: Path, _: Facts) -> Iterator[Finding]:
    """An unreadable folder: an error, because the logs in it are not checked."""
    reason = error.strerror if isinstance(error, OSError) else error
    found, required = f"the folder cannot be read: {reason}", "a folder that can be read is required"
    yield _READABLE.broken(str(path), None, found, required, ERROR)


def _no_book(path: Path, _: Facts) -> Iterator[Finding]:
    """A log that no book applies to: a finding states that it was not checked."""
    if path.suffix in COMPRESSIONS:
        found, required = "a compressed file, which was not read", "its logs as text are required"
        yield _COMPRESSED.broken(str(path), None, found, required)
    else:
        yield _NO_BOOK.broken(str(path), None, f"a log of {' and '.join(_formats(path))}, {_CONVERT}", "not checked")


def _run_directory(path: Path, facts: Facts) -> Iterator[Finding]:
    """The events by their book, and each log beside them by its own book and against the events."""
    source = path / "events.jsonl"
    is_inference = "inference_events" in _formats(source)
    name, room = ("inference_events", inference_agreement) if is_inference else ("events", agreement)
    found = list(in_order(check_file(source, [name], facts)))
    yield from found
    form_rules = events.FORM_RULES | inference_events.FORM_RULES
    if any(finding.severity == ERROR and finding.rule in form_rules for finding in found):
        yield agreement.NOT_COMPARED.broken(str(source), None, "events that are broken", "sound events are required")
        run = None
    else:
        run = room.RunEvents(source)
        facts = run.facts(facts)
    differences = partial(room.differences, run) if run is not None else None
    for log in room.files_in(path):
        own = run.facts_of(log, facts) if run is not None else facts
        yield from in_order(_beside_events(log, differences, own))
    if run is not None:
        yield from _named(path, room.named(run, path))


def _named(directory: Path, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings about the files of a run that its events name, of which one may be unreadable."""
    try:
        yield from findings
    except OSError as error:
        place = str(error.filename or directory)
        yield _READABLE.broken(
            place, None, f"it cannot be read: {error.strerror}", "a file that can be read is required"
        )


def _beside_events(
    path: Path, differences: Callable[[Path], Iterator[Finding]] | None, facts: Facts
) -> Iterator[Finding]:
    try:
        formats = [name for name in detect(path) if name in BOOKS]
        if formats:
            yield from check_file(path, formats, facts)
        if differences is not None:
            yield from differences(path)
    except UserError as error:
        yield _READABLE.broken(str(path), None, str(error), "a file that can be read is required")


# Checks of paths that hold logs; without any of them a directory is none of logs.
_OF_LOGS = (_layout, _inference_tree, _airank_inference_layout, _result, _run_directory, _file_in_folder)
