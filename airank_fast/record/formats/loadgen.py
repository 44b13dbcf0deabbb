"""The logs of MLPerf's load generator (LoadGen), read: the detail log, the summary and the accuracy log of one test.

    detail = read_detail(Lines("mlperf_log_detail.txt"))
    detail.value("result_validity")                 # "VALID"
    detail.part("effective_")["min_duration_ms"]    # 600000
    read_summary(Lines("mlperf_log_summary.txt")).values["Result is"]
    read_accuracy(Lines("mlperf_log_accuracy.json")).data[7]     # the bytes of sample 7's answer, as hexadecimal digits

The detail log has a `:::MLLOG {json}` line for each key: requested_* are the settings as they were given, effective_*
those that applied, result_* the figures. Times are in ms since the start of the test, latencies in ns.

Source: LoadGen 4.0 to 6.0.17 (mlcommons/inference, loadgen/: results.cc, test_settings_internal.cc, logging.cc).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from airank_fast.record.events import dictionary
from airank_fast.record.files import sha256
from airank_fast.record.formats.mlperf import records

DETAIL, SUMMARY, ACCURACY = "mlperf_log_detail.txt", "mlperf_log_summary.txt", "mlperf_log_accuracy.json"
TRACE = "mlperf_log_trace.json"
FILES = (DETAIL, SUMMARY, ACCURACY, TRACE)
CUT = "..."  # the line that stands for what was cut out of a truncated accuracy log
_MANY = 1000  # messages and troubles that are kept
# Keys of which a test may log several lines.
REPEATED = ("generic_message", "loaded_qsl_set", "sample_", "power_", "logger_", "warning_", "error_")


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each of LoadGen's files in the folder of a test, by name; without those that are missing."""
    return {name: sha256(folder / name) for name in FILES if (folder / name).is_file()}


class Message(NamedTuple):
    """A line that LoadGen marks as an error or a warning."""

    line: int
    key: str
    text: str


@dataclass
class Detail:
    """The content of a detail log. `values` has the first value of each key and its line.

    `repeated` has the lines of a key that must appear once and has another value than the first time. `troubles` are
    lines that cannot be read, with the reason. `last_ms` is the time of the last line before the results.
    """

    values: dict[str, tuple[object, int]] = field(default_factory=dict)
    errors: list[Message] = field(default_factory=list)
    warnings: list[Message] = field(default_factory=list)
    repeated: list[tuple[int, str]] = field(default_factory=list)
    troubles: list[tuple[int, str]] = field(default_factory=list)
    last_ms: float = 0.0

    def value(self, key: str) -> object:
        """The first value of a key; None if the log has none."""
        return self.values.get(key, (None, 0))[0]

    def line(self, key: str) -> int | None:
        """The line of a key; None if the log has none."""
        return self.values[key][1] if key in self.values else None

    def part(self, prefix: str) -> dict[str, object]:
        """The values of the keys with a prefix (requested_, effective_, result_), without it."""
        return {key[len(prefix) :]: value for key, (value, _) in self.values.items() if key.startswith(prefix)}


def read_detail(lines: Iterable[str]) -> Detail:
    """The content of a detail log, whatever state it is in; lines of other programs are skipped."""
    detail = Detail()
    for number, record, trouble in records(lines):
        if trouble and len(detail.troubles) < _MANY:
            detail.troubles.append((number, trouble))
        if record is not None:
            _take(detail, number, record)
    return detail


def _take(detail: Detail, number: int, record: dict) -> None:
    key, value, metadata = record["key"], record["value"], dictionary(record.get("metadata"))
    for mark, kept in (("is_error", detail.errors), ("is_warning", detail.warnings)):
        if metadata.get(mark) and len(kept) < _MANY:
            kept.append(Message(number, key, str(value)[:200]))
    detail.last_ms = max(detail.last_ms, record["time_ms"])
    if key not in detail.values:
        detail.values[key] = value, number
    elif not key.startswith(REPEATED) and not _same(detail.values[key][0], value) and len(detail.repeated) < _MANY:
        detail.repeated.append((number, key))


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


# the summary


@dataclass
class Summary:
    """The content of a summary: `values` by the text before the colon, with the line; the number of errors it counts.

    `num_errors` is None if the summary does not say: it was cut off.
    """

    values: dict[str, tuple[str, int]] = field(default_factory=dict)
    num_errors: int | None = None

    def value(self, name: str) -> str | None:
        """The text after a name; None if the summary lacks it."""
        return self.values[name][0] if name in self.values else None


_ESTIMATE = re.compile(r"\* (Early stopping \d+(?:\.\d+)?th percentile estimate)$")


def read_summary(lines: Iterable[str]) -> Summary:
    """The content of a summary; lines that are no `name : value` are skipped."""
    summary = Summary()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("No errors encountered"):
            summary.num_errors = 0
        elif match := re.match(r"(\d{1,9}) ERRORS? encountered", text):
            summary.num_errors = int(match[1])
        name, colon, value = text.partition(":")
        name = name.strip()
        if colon and value.strip():
            match = _ESTIMATE.match(name)
            summary.values.setdefault(match[1] if match else name, (value.strip(), number))
    return summary


# the accuracy log


@dataclass
class Answers:
    """The content of an accuracy log: `data` is each sample's answer, as hexadecimal digits, by its index in the set.

    `num_entries` counts all entries; `again` has the indices that stand in several, `changed` those of them whose later
    answer is another one. A truncated log has the beginning
    and the end of the original.
    """

    data: dict[int, str] = field(default_factory=dict)
    num_entries: int = 0
    again: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    is_truncated: bool = False
    is_closed: bool = False  # ends with a bracket
    troubles: list[tuple[int, str]] = field(default_factory=list)


def read_accuracy(lines: Iterable[str]) -> Answers:
    """The content of an accuracy log, whole or truncated, one entry a line as LoadGen writes it."""
    answers = Answers()
    torn: tuple[int, str] | None = None  # an entry that may end at the cut
    is_after_cut = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text == "[":
            continue
        if text == CUT:
            answers.is_truncated, is_after_cut, torn = True, True, None
            continue
        if torn:
            _trouble(answers, *torn)
            torn = None
        answers.is_closed = text.endswith("]")
        if text == "]":
            continue
        if not _take_entries(answers, text):
            if not is_after_cut:
                torn = number, text
            is_after_cut = False
            continue
        is_after_cut = False
    if torn:
        _trouble(answers, *torn)
    return answers


def _trouble(answers: Answers, number: int, text: str) -> None:
    if len(answers.troubles) < _MANY:
        answers.troubles.append((number, f"an entry with qsl_idx and data is required, got {text[:60]!r}"))


def _take_entries(answers: Answers, text: str) -> bool:
    """Adds the entries of a line; False if it is none."""
    text = text.rstrip(",")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        index, data = dictionary(entry).get("qsl_idx"), dictionary(entry).get("data")
        if type(index) is not int or not isinstance(data, str):
            return False
        answers.num_entries += 1
        if index in answers.data:
            answers.again.append(index)
            if answers.data[index].lower() != data.lower():
                answers.changed.append(index)
        else:
            answers.data[index] = data
    return True
