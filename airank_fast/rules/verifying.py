"""Which rule book judges what: a path to the findings of every book that concerns it.

A file is what stands in it; a file that holds several formats is judged by the book of each. A directory is a
submission tree (rules/trees.py), the logs of an MLPerf result, a run directory (events.jsonl, and the logs made
from it), or a folder of such.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.foreign.detect import COMPRESSIONS, PROGRAMS, detect
from airank_fast.record.lines import Lines
from airank_fast.rules import agreement, airank, events, flagperf, trees
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule
from airank_fast.rules.known import Known
from airank_fast.rules.mlperf import order, result
from airank_fast.walk import entries

# Format of a file (see record/detect.py) -> its book: check(lines, known) yields findings.
BOOKS: dict[str, Callable[[Lines, Known], Iterator[Finding]]] = {
    "events": events.check,
    "airank": airank.check,
    "mlperf": order.check,
    "flagperf": flagperf.check,
    "flagperf_table": flagperf.check_table,
}
_NOTHING = Known()
MOST_OF_A_RULE = 20  # findings of one rule in one file
_FILE = "what every reader of a log expects"
_STATES = {  # oddities of record/lines.py
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
_CONVERT = "which airank_fast.convert makes a log of AI-Rank or MLPerf from"


def verify(path: str | os.PathLike, known: Known = _NOTHING) -> Iterator[Finding]:
    """The findings about a file, a run directory, a submission tree or a folder of such; of a file in the order of
    its lines, those about the file as a whole last.

    UserError if the path cannot be read or holds nothing that a book knows.
    """
    path = Path(path)
    if not path.is_dir():
        yield from _file(path, known)
        return
    found_any = False
    try:
        for check, item in _below(path):
            found_any = found_any or check is not _unjudged
            yield from check(item, known)
    except OSError as error:  # a path that is too long, or a folder that was just closed to us
        raise UserError(f"{path}: must be a directory that can be read, got {error.strerror} in it") from None
    if not found_any:
        raise UserError(f"{path}: must be a directory with logs of a known format, got none in it")


def _file(path: Path, known: Known) -> Iterator[Finding]:
    if not path.is_file():
        raise UserError(f"{path}: must be a file or a directory, got {'neither' if path.exists() else 'no such'}")
    detected = detect(path)
    formats = [name for name in detected if name in BOOKS]
    if not formats:
        got = f"{' and '.join(detected)}, {_CONVERT}" if detected else "none of them"
        raise UserError(f"{path}: must be a file in one of the formats {', '.join(BOOKS)}, got {got}")
    yield from in_order(check_file(path, formats, known))


def check_file(path: Path, formats: list[str], known: Known) -> Iterator[Finding]:
    """What the books of these formats find in a file, and what state it is in."""
    lines = Lines(path)
    for name in formats:
        yield from BOOKS[name](lines, known)
    for oddity, number in lines.oddities.items():
        severity, found, required = _STATES[oddity]
        rule = Rule(name=f"file.{oddity}", severity=severity, source=_FILE)
        yield rule.broken(lines.path, number, found, required)


def in_order(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings about one file by line, at most MOST_OF_A_RULE of each rule and severity; of the others, their
    number. So what is held does not grow with the file."""
    kept: list[Finding] = []
    counts: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        kind = finding.rule, finding.severity
        counts[kind] += 1
        if counts[kind] <= MOST_OF_A_RULE:
            kept.append(finding)
        else:
            last[kind] = finding
    for kind, finding in last.items():
        more = f"{counts[kind] - MOST_OF_A_RULE} more of this rule, the last: {finding.found}"
        kept.append(
            Finding(finding.severity, finding.path, finding.line, finding.rule, finding.source, more, finding.required)
        )
    yield from sorted(kept, key=lambda finding: (finding.line is None, finding.line or 0))


# directories


_Check = Callable[[Path, Known], Iterator[Finding]]


def _below(path: Path) -> Iterator[tuple[_Check, Path]]:
    """What a directory holds that can be judged, in order: of a submission its layout and its logs, and nothing of the
    programs and documents in it; else results, run directories and files."""
    waiting = [path]
    while waiting:
        path = waiting.pop()
        if not path.is_dir():
            yield _file_in_folder if _is_judged(path) else _unjudged, path
            continue
        inside = [Path(entry.path) for entry in entries(path) if not entry.name.startswith(".")]
        if trees.is_tree(path):
            yield from _of_tree(path)
            continue
        if (path / "events.jsonl").is_file():
            yield _run_directory, path
            continue
        results = set(result.logs_in(path))
        if results:
            yield _result, path
        waiting += [item for item in reversed(inside) if item not in results and _is_of_interest(item)]


def _of_tree(path: Path) -> Iterator[tuple[_Check, Path]]:
    yield _layout, path
    logs = trees.logs_of(path)
    for folder in dict.fromkeys(log.parent for log in logs):
        if result.logs_in(folder):
            yield _result, folder
        else:
            yield from ((_file_in_folder, log) for log in logs if log.parent == folder)


def _is_of_interest(path: Path) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir() or path.suffix in COMPRESSIONS:
        return True
    return path.is_file() and path.suffix not in PROGRAMS and bool(_formats(path))


def _formats(path: Path) -> list[str]:
    try:
        return detect(path)
    except UserError:
        return list(BOOKS)  # judged, and so reported


def _is_judged(path: Path) -> bool:
    return path.suffix not in COMPRESSIONS and any(name in BOOKS for name in _formats(path))


def _layout(path: Path, _: Known) -> Iterator[Finding]:
    yield from trees.check_tree(path)


def _result(path: Path, _: Known) -> Iterator[Finding]:
    logs = result.logs_in(path)
    readable = [log for log in logs if result.formats_of(log)]
    for log in (each for each in logs if each not in readable):
        yield from _file_in_folder(log, _NOTHING)
    yield from result.check_set(readable, path)


def _file_in_folder(path: Path, known: Known) -> Iterator[Finding]:
    try:
        yield from _file(path, known)
    except UserError as error:
        yield _READABLE.broken(str(path), None, str(error), "a file that can be read is required")


def _unjudged(path: Path, _: Known) -> Iterator[Finding]:
    """A file that is named, so that nobody takes the silence about it for consent."""
    if path.suffix in COMPRESSIONS:
        found, required = "a compressed file, which was not read", "its logs as text are required"
        yield _COMPRESSED.broken(str(path), None, found, required)
    else:
        yield _NO_BOOK.broken(str(path), None, f"a log of {' and '.join(_formats(path))}, {_CONVERT}", "not judged")


def _run_directory(path: Path, known: Known) -> Iterator[Finding]:
    """The events, each log beside them by its own book, and each against what the events say."""
    source = path / "events.jsonl"
    found = list(in_order(check_file(source, ["events"], known)))
    yield from found
    if any(finding.severity == ERROR and finding.rule in events.FORM_RULES for finding in found):
        yield agreement.NOT_COMPARED.broken(str(source), None, "events that are broken", "sound events are required")
        story, told = None, known
    else:
        story = agreement.Story(source)
        told = story.known(known)
    for log in (path / name for name in agreement.FILES):
        if log.is_file():
            yield from in_order(_beside_events(log, story, told))


def _beside_events(path: Path, story: agreement.Story | None, told: Known) -> Iterator[Finding]:
    try:
        formats = [name for name in detect(path) if name in BOOKS]
        if formats:
            yield from check_file(path, formats, told)
        if story is not None:
            yield from agreement.differences(story, path)
    except UserError as error:
        yield _READABLE.broken(str(path), None, str(error), "a file that can be read is required")
