"""Holds LoadGen's summary against the detail log of the same test: both are written from the same figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from airank_fast.numeric import is_number
from airank_fast.record.formats.loadgen import Detail, Summary
from airank_fast.rules.findings import Finding
from airank_fast.rules.mlperf_inference import rules
from airank_fast.rules.mlperf_inference.judge import short

_TEXTS = {  # name in the summary: key in the detail log
    "SUT name": "sut_name",
    "Scenario": "effective_scenario",
    "Mode": "effective_test_mode",
    "Result is": "result_validity",
}
_FLAGS = {
    "Performance constraints satisfied": "result_perf_constraints_met",
    "Min duration satisfied": "result_min_duration_met",
    "Min queries satisfied": "result_min_queries_met",
    "Early stopping satisfied": "early_stopping_met",
}
_FIGURES = {
    "Samples per second": "result_samples_per_second",
    "Scheduled samples per second": "result_scheduled_samples_per_sec",
    "Completed samples per second": "result_completed_samples_per_sec",
    "QPS w/ loadgen overhead": "result_qps_with_loadgen_overhead",
    "QPS w/o loadgen overhead": "result_qps_without_loadgen_overhead",
}
_UNITS = {" (ns)": "_ns", " (ms)": "_ms"}


def differences(path: Path, summary: Summary, detail: Detail) -> Iterator[Finding]:
    """A finding for each line of the summary that the detail log contradicts, and for one that was cut off.

    A summary of an accuracy run says nothing but that.
    """
    if detail.value("effective_test_mode") == "AccuracyOnly":
        return
    if "Result is" not in summary.values:
        found = "no line 'Result is'"
        yield rules.SUMMARY_RULE.broken(str(path), None, found, "LoadGen's whole summary is required")
    for name, (text, line) in summary.values.items():
        key = _key(name, detail)
        if key is None or key not in detail.values:
            continue
        value = detail.value(key)
        if not _agree(name, text, value):
            required = f"{short(value)}, as {key} of the detail log, is required"
            yield rules.SUMMARY_RULE.broken(str(path), line, f"{name}: {text[:60]}", required)
    if summary.num_errors is not None and summary.num_errors != len(detail.errors):
        found = f"{summary.num_errors} errors counted"
        yield rules.SUMMARY_RULE.broken(str(path), None, found, f"{len(detail.errors)}, as in the detail log")


def _key(name: str, detail: Detail) -> str | None:
    """The key in the detail log of a name in the summary; None if no key has that figure."""
    fixed = {**_TEXTS, **_FLAGS, **_FIGURES}.get(name)
    if fixed:
        return fixed
    per_query = "query_" if detail.value("effective_scenario") == "MultiStream" else ""
    if match := re.fullmatch(r"(Min|Max|Mean) latency \(ns\)", name):
        return f"result_{match[1].lower()}_{per_query}latency_ns"
    if match := re.fullmatch(r"(\d+\.\d+) percentile latency \(ns\)", name):
        return f"result_{match[1]}_percentile_{'per_' * bool(per_query)}{per_query}latency_ns"
    if match := re.fullmatch(r"(\d+)(?:\.0)?th percentile latency \(ns\)", name):
        return f"result_{match[1]}.00_percentile_{'per_' * bool(per_query)}{per_query}latency_ns"
    if match := re.fullmatch(r"Early stopping (\d+)(?:\.0)?th percentile estimate", name):
        return "early_stopping_latency_ss" if match[1] == "90" else "early_stopping_latency_ms"
    for unit, suffix in _UNITS.items():
        name = name.removesuffix(unit) + suffix if name.endswith(unit) else name
    return f"effective_{name}" if re.fullmatch(r"[a-z0-9_]+", name) else None


def _agree(name: str, text: str, value: object) -> bool:
    if name in _FLAGS:
        return text == "Skipped" or (text.lower() == "yes") is (value is True)
    if isinstance(value, bool):
        return text in (str(int(value)), str(value).lower())
    if is_number(value):
        try:
            stated = float(text)
        except ValueError:
            return False
        if re.fullmatch(r"\d{1,30}", text):  # beyond 2^53 a float would not do
            return int(text) == value or abs(stated - value) <= 1e-5 * abs(value)
        return abs(stated - value) <= max(1e-5 * abs(value), 0.0051)  # rates have two decimals
    return not isinstance(value, str) or text == value.strip()
