"""Judges a LoadGen test: its own log must show the requested settings, no error, and every sample answered.

What LoadGen advises about an invalid test is left out, as its pieces of advice contradict each other; the reasons here
have the numbers instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airank_fast.errors import UserError, require
from airank_fast.inference.settings import TestSettings, required_values
from airank_fast.inference.sut import Sut, one_line, span_s
from airank_fast.record.formats import loadgen as log
from airank_fast.record.lines import Lines


@dataclass(frozen=True)
class Outcome:
    """What a test has shown.

    reasons: why it does not count, one line each; none of a valid test. failure: the failure that ended it, which is
    then the one reason. effective, result: the values of LoadGen's detail log, by their keys without the prefix
    `effective_`; errors: the texts of its error lines. generated: how many
    queries LoadGen made, and for how many ns. is_disk_full: whether the failure is that of a full disk.
    """

    reasons: tuple[str, ...]
    failure: str | None = None
    effective: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    version: str | None = None
    generated: tuple[int, int] = (0, 0)
    is_disk_full: bool = False

    @property
    def is_valid(self) -> bool:
        """Whether the test counts."""
        return not self.reasons

    def metric(self, scenario: str) -> dict[str, float]:
        """The figures that MLPerf takes from the log, by the names of the test_stop event; in seconds, not ns.

        An early-stopping latency of 0 is LoadGen's for too few queries, and left out.
        """
        return {name: self.result[key] / divisor for name, key, divisor in _METRICS[scenario] if self.result.get(key)}


_METRICS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "offline": (("samples_per_s", "result_samples_per_second", 1.0),),
    "server": (
        ("scheduled_qps", "result_scheduled_samples_per_sec", 1.0),
        ("completed_qps", "result_completed_samples_per_sec", 1.0),
        ("latency_p99_s", "result_99.00_percentile_latency_ns", 1e9),
    ),
    "singlestream": (
        ("latency_p90_s", "early_stopping_latency_ss", 1e9),
        ("latency_p99_s", "early_stopping_latency_ms", 1e9),
    ),
    "multistream": (("latency_p99_s", "early_stopping_latency_ms", 1e9),),
}


def judge(settings: TestSettings, sut: Sut, num_samples: int, output: Path) -> Outcome:
    """The outcome of a test that has ended, from its system and the files that LoadGen left in `output`."""
    if sut.failure is not None:
        return Outcome((sut.failure,), sut.failure)
    try:
        detail = _whole_detail(settings, output / log.DETAIL)
        answers = _whole_answers(output / log.ACCURACY) if settings.is_accuracy else log.Answers()
    except UserError as error:
        no_room = _no_room(output)
        failure = no_room or str(error)
        return Outcome((failure,), failure, is_disk_full=no_room is not None)
    effective = detail.part("effective_")
    result = {key: value for key, (value, _) in detail.values.items() if key.startswith(("result_", "early_stopping_"))}
    errors = tuple(message.text for message in detail.errors)
    reasons = [*_differences(settings, num_samples, effective), *_error_reasons(errors)]
    if settings.is_accuracy:
        missing = num_samples - len(answers.data)
        reasons += [f"{missing} of {num_samples} samples are missing in LoadGen's accuracy log"] if missing else []
    else:
        reasons += _shortfalls(settings, sut, result)
    version, made = str(detail.value("loadgen_version")), detail.part("generated_query_")
    count, duration_ns = made.get("count"), made.get("duration")
    generated = (count, duration_ns) if isinstance(count, int) and isinstance(duration_ns, int) else (0, 0)
    return Outcome(tuple(reasons), None, effective, result, errors, version, generated)


def _whole_detail(settings: TestSettings, path: Path) -> log.Detail:
    """UserError for a log that is missing or cut off."""
    detail = log.read_detail(_lines(path))
    last = "loadgen_version" if settings.is_accuracy else "result_validity"
    is_whole = not detail.troubles and detail.value("loadgen_version") is not None and detail.value(last) is not None
    require(is_whole, str(path), "LoadGen's whole detail log", "a part")
    return detail


def _whole_answers(path: Path) -> log.Answers:
    """UserError for a log that is missing or cut off."""
    answers = log.read_accuracy(_lines(path))
    is_whole = answers.is_closed and not answers.troubles and not answers.is_truncated
    require(is_whole, str(path), "LoadGen's whole accuracy log", "a part")
    return answers


def _lines(path: Path) -> Lines:
    require(path.is_file(), str(path), "a log that LoadGen wrote", "none")
    return Lines(path)


def _differences(settings: TestSettings, num_samples: int, effective: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in required_values(settings, num_samples).items():
        got = effective.get(key)
        both_numbers = isinstance(value, float) and isinstance(got, (int, float))
        # LoadGen prints six digits of a rate.
        is_same = abs(got - value) <= 1e-5 * abs(value) if both_numbers else got == value
        if not is_same:
            found.append(f"effective_{key}: must be {value}, LoadGen's log has {got}")
    return found


_OWN_WORDS = (
    ("Ran out of generated queries", "LoadGen had too few queries for the duration: the expected latency was too long"),
    ("Max test duration reached", "the test reached its greatest duration"),
    ("PerfClock and system_clock differ", "the clocks of the system differ by more than 1 %"),
)


def _error_reasons(errors: Sequence[str]) -> list[str]:
    """LoadGen's errors; what it advises to do about them is left out, as it contradicts itself."""
    known = [next((own for part, own in _OWN_WORDS if part in error), None) for error in errors]
    return [own or f"LoadGen logged an error: {error.strip()}" for own, error in zip(known, errors, strict=True)]


def _shortfalls(settings: TestSettings, sut: Sut, result: Mapping[str, Any]) -> list[str]:
    """What of the performance test LoadGen finds invalid, with the numbers."""
    rows = sut.records.rows()
    seconds = span_s(rows)
    queries = sut.ledger.issued if settings.scenario == "offline" else len(rows)
    unit = "samples" if settings.scenario == "offline" else "queries"
    found = []
    if not result.get("result_min_duration_met", False):
        found.append(f"the test must last {settings.min_duration_s:g} s, lasted {seconds:.3g} s")
    if not result.get("result_min_queries_met", False):
        found.append(f"the test must have {settings.min_queries} {unit}, had {queries}")
    if settings.scenario == "server" and not result.get("result_perf_constraints_met", False):
        found.append(_late(settings, result, queries, "the latency bound is not met"))
    elif not result.get("early_stopping_met", settings.scenario == "offline"):
        what = f"early stopping at p{100 * (settings.percentile or 0):g} is not met"
        is_server = settings.scenario == "server"
        found.append(_late(settings, result, queries, what) if is_server else f"{what}: {queries} queries")
    if result.get("result_validity") != "VALID" and not found:
        found.append(f"LoadGen's verdict is {result.get('result_validity', 'missing')}")
    return found


def _late(settings: TestSettings, result: Mapping[str, Any], queries: int, what: str) -> str:
    over = result.get("result_overlatency_query_count")
    return f"{what}: {over} of {queries} queries took longer than {(settings.target_latency_s or 0) * 1000:g} ms"


def write_something(directory: Path) -> None:
    """Write and delete 64 KiB in a directory; OSError where that fails."""
    path = directory / ".room"
    try:
        with open(path, "wb") as file:
            file.write(os.urandom(1 << 16))  # zeros might be compressed away
    finally:
        path.unlink(missing_ok=True)


def _no_room(output: Path) -> str | None:
    """The failure of a disk that has become full, None where it has room."""
    try:
        write_something(output)
    except OSError as error:
        return f"{output}: must have room for LoadGen's logs, got: {one_line(error)}"
    return None
