"""Judges the figures of a performance test: whether they meet the round's rules, and whether they fit together.

LoadGen logs no single latency, but its figures follow from each other: samples, durations and rates, percentiles, the
estimate of early stopping and the text that explains it. An edited figure contradicts the others.
"""

from __future__ import annotations

import re
from itertools import pairwise

from airank_fast.numeric import is_number
from airank_fast.rules import early_stopping
from airank_fast.rules.findings import ERROR
from airank_fast.rules.mlperf_inference import rules
from airank_fast.rules.mlperf_inference.judge import Judge, short

_PERCENTILES = ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")
_SIX_DIGITS = 2e-5  # LoadGen prints floats with six significant digits
_CLOCKS = 1e-3  # between the times of lines and measured times


def judge_figures(judge: Judge) -> None:
    """Adds the findings about the results of a performance test."""
    _verdict(judge)
    _number_of_queries(judge)
    _duration(judge)
    _order_of_latencies(judge, "result_", "_latency_ns")
    if judge.scenario_name == "MultiStream":
        _order_of_latencies(judge, "result_", "_query_latency_ns")
    check = {"Offline": _offline, "Server": _server, "SingleStream": _single_stream, "MultiStream": _multi_stream}
    if judge.scenario_name is not None:
        check[judge.scenario_name](judge)


def result_of(judge: Judge) -> float | None:
    """The figure that is the test's result: samples/s, queries/s or ns; None if the log has none."""
    if judge.scenario_name is None:
        return None
    value = judge.value(rules.RESULTS[judge.scenario_name][0])
    return float(value) if is_number(value) else None


def _verdict(judge: Judge) -> None:
    # LoadGen's reason is advice, which contradicts itself; the flags below say what is not met.
    if "result_validity" in judge.detail.values:
        judge.require(judge.value("result_validity") == "VALID", rules.VALID, "result_validity", "VALID")
    for key, rule in rules.FLAGS.items():
        if key in judge.detail.values:
            judge.require(judge.value(key) is True, rule, key, "true", ERROR)


def _number_of_queries(judge: Judge) -> None:
    num = judge.count("result_query_count")
    least = judge.number("effective_min_query_count")
    if num is None:
        return
    if least is not None:
        judge.require(num >= least, rules.MIN_QUERIES, "result_query_count", f"at least {least:g}, the setting,", ERROR)
    scenario = judge.scenario
    if scenario is None or scenario.name == "offline":
        return
    judge.require(
        num >= scenario.min_queries, rules.MIN_QUERIES, "result_query_count", f"at least {scenario.min_queries}"
    )


def _duration(judge: Judge) -> None:
    setting = judge.number("effective_min_duration_ms")
    if setting is None:
        return
    if judge.scenario is not None:
        least_ms = judge.scenario.min_duration_s * 1000
        judge.require(setting >= least_ms, rules.DURATION, "effective_min_duration_ms", f"at least {least_ms:.0f}")
    measured = _measured_s(judge)
    if measured is not None:
        seconds, key = measured
        if seconds * 1000 < setting * (1 - _SIX_DIGITS):
            found = f"{key} {short(judge.value(key))}: a test of {seconds:.3f} s"
            judge.find(rules.DURATION, key, found, f"at least {setting / 1000:g} s, the setting, is required", ERROR)
    if judge.detail.last_ms < setting:
        found = f"a log of {judge.detail.last_ms / 1000:.3f} s"
        judge.find(rules.CLOCK, None, found, f"at least {setting / 1000:g} s, the minimum duration, is required")


def _measured_s(judge: Judge) -> tuple[float, str] | None:
    """The duration of the test by its figures, as LoadGen holds it against the minimum, and the key it follows from."""
    if judge.scenario_name == "Offline":
        longest = judge.number("result_max_latency_ns")
        return None if longest is None else (longest / 1e9, "result_max_latency_ns")
    rate_key = {
        "Server": "result_scheduled_samples_per_sec",
        "SingleStream": "result_qps_with_loadgen_overhead",
    }.get(judge.scenario_name or "")
    num = judge.count("result_query_count")
    rate = judge.number(rate_key) if rate_key else None
    return ((num - 1) / rate, rate_key) if rate_key and rate and num and rate > 0 else None


def _order_of_latencies(judge: Judge, prefix: str, suffix: str) -> None:
    """Minimum, percentiles and maximum rise; the mean lies between."""
    middle = "_percentile_per_query_latency_ns" if suffix == "_query_latency_ns" else "_percentile_latency_ns"
    keys = [f"{prefix}min{suffix}", *(f"{prefix}{each}{middle}" for each in _PERCENTILES), f"{prefix}max{suffix}"]
    known = [(key, value) for key in keys if (value := judge.number(key)) is not None]
    for (before, low), (key, high) in pairwise(known):
        if high < low:
            found, required = f"{key} {high:.0f}", f"at least {low:.0f}, the {before}, is required"
            judge.find(rules.CONTRADICTION, key, found, required)
    mean_key = f"{prefix}mean{suffix}"
    mean = judge.number(mean_key)
    if mean is not None and known and not known[0][1] - 1 <= mean <= known[-1][1]:
        required = f"between {known[0][1]:.0f} and {known[-1][1]:.0f}, minimum and maximum,"
        judge.require(False, rules.CONTRADICTION, mean_key, required)


def _near(value: float, expected: float, tolerance: float = _SIX_DIGITS) -> bool:
    return abs(value - expected) <= tolerance * abs(expected)


def _offline(judge: Judge) -> None:
    setting = judge.number("effective_samples_per_query")
    samples = judge.number("generated_samples_per_query") or setting
    rate, longest = judge.number("result_samples_per_second"), judge.number("result_max_latency_ns")
    if rate is None:
        judge.find(rules.MISSING, None, "no line result_samples_per_second", "the result is required")
    elif samples is not None and longest:
        expected = samples * 1e9 / longest
        required = f"{expected:.6g}, {samples:.0f} samples in {longest / 1e9:.6g} s,"
        judge.require(_near(rate, expected), rules.RESULT, "result_samples_per_second", required)
    if samples is not None and setting is not None and samples < setting:
        judge.require(
            False, rules.CONTRADICTION, "generated_samples_per_query", f"at least {setting:.0f}, the setting,"
        )
    scenario, benchmark = judge.scenario, judge.context.benchmark
    is_bound = scenario is not None and benchmark is not None and judge.context.is_closed
    if is_bound and samples is not None and judge.context.test != "TEST04":
        least = scenario.min_queries
        judge.require(samples >= least, rules.MIN_QUERIES, "effective_samples_per_query", f"at least {least}")
    _within_the_log(judge, longest, "result_max_latency_ns")


def _within_the_log(judge: Judge, ns: float | None, key: str) -> None:
    if ns is not None and ns / 1e6 > judge.detail.last_ms * (1 + _CLOCKS):
        found = f"{key} {short(judge.value(key))}: {ns / 1e9:.6g} s"
        judge.find(rules.CLOCK, key, found, f"no more than the log's {judge.detail.last_ms / 1000:.6g} s is required")


def _server(judge: Judge) -> None:
    scheduled, completed = (judge.number(f"result_{name}_samples_per_sec") for name in ("scheduled", "completed"))
    num, target = judge.count("result_query_count"), judge.number("effective_target_qps")
    if scheduled is None:
        judge.find(rules.MISSING, None, "no line result_scheduled_samples_per_sec", "the result is required")
        return
    if completed is not None:
        most = scheduled * (1 + _SIX_DIGITS)
        required = f"at most {scheduled:.6g}, those scheduled,"
        judge.require(completed <= most, rules.RESULT, "result_completed_samples_per_sec", required)
        if num and completed > 0:
            _within_the_log(judge, (num - 1) / completed * 1e9, "result_completed_samples_per_sec")
    if num and target:
        # Arrivals are a Poisson process of the target's rate: six standard deviations.
        is_near = abs(scheduled / target - 1) <= 6 / num**0.5
        required = f"about {target:.6g}, the setting of a Poisson process,"
        judge.require(is_near, rules.RESULT, "result_scheduled_samples_per_sec", required)
    _late_queries(judge)


def _late_queries(judge: Judge) -> None:
    key = "result_overlatency_query_count"
    num, over = judge.count("result_query_count"), judge.count(key)
    percentile, target = (
        judge.number("effective_target_latency_percentile"),
        judge.number("effective_target_latency_ns"),
    )
    if num is None or over is None or percentile is None or target is None or not 0.5 <= percentile < 1 or num < 1:
        return
    if judge.scenario is None or judge.scenario.early_stopping:
        is_met = early_stopping.is_met(num, over, percentile)
        required = f"few enough for p{percentile * 100:g} with {num:.0f} queries, by early stopping,"
        judge.require(is_met, rules.EARLY_STOPPING, key, required, ERROR)
    at_target = judge.number(f"result_{percentile * 100:.2f}_percentile_latency_ns")
    if at_target is not None:
        later = num - int(num * percentile)  # queries at that percentile and beyond
        if (at_target > target) != (over >= later):
            found = f"{over:.0f} queries beyond {target:.0f} ns with p{percentile * 100:g} {at_target:.0f} ns"
            judge.find(rules.CONTRADICTION, key, found, f"{later} or more of them where p{percentile * 100:g} is late")
    _within_the_log(judge, judge.number("result_max_latency_ns"), "result_max_latency_ns")


def _single_stream(judge: Judge) -> None:
    mean, rate = judge.number("result_mean_latency_ns"), judge.number("result_qps_without_loadgen_overhead")
    if mean and rate is not None:
        expected = 1e9 / mean
        required = f"{expected:.6g}, of the mean latency,"
        judge.require(_near(rate, expected), rules.RESULT, "result_qps_without_loadgen_overhead", required)
    with_overhead = judge.number("result_qps_with_loadgen_overhead")
    num = judge.count("result_query_count")
    longest = judge.number("result_max_latency_ns")
    if with_overhead and mean and longest and num and num * mean > longest:
        # One query after the other: all but the last have been answered when the last is issued.
        most = (num - 1) * 1e9 / (num * mean - longest)
        required = f"at most {most:.6g}, of the latencies alone,"
        is_possible = with_overhead <= most * (1 + _CLOCKS)
        judge.require(is_possible, rules.RESULT, "result_qps_with_loadgen_overhead", required)
    if mean and num:
        _within_the_log(judge, mean * num, "result_mean_latency_ns")
    _estimate(judge, "early_stopping_latency_ss", 0.90, "percentile_latency_ns", "result_max_latency_ns")
    if num is not None and num >= early_stopping.required_queries(0.99, 1):
        _estimate(judge, "early_stopping_latency_ms", 0.99, "percentile_latency_ns", "result_max_latency_ns")


def _multi_stream(judge: Judge) -> None:
    mean, num = judge.number("result_mean_query_latency_ns"), judge.count("result_query_count")
    if mean and num:
        _within_the_log(judge, mean * num, "result_mean_query_latency_ns")
    _estimate(
        judge,
        "early_stopping_latency_ms",
        0.99,
        "percentile_per_query_latency_ns",
        "result_max_query_latency_ns",
    )


def _estimate(judge: Judge, key: str, percentile: float, name: str, max_key: str) -> None:
    """The result of a stream: an estimate between the measured percentile and the maximum, as the text states it."""
    scenario = judge.scenario
    if scenario is not None and not scenario.early_stopping:
        return
    value, num = judge.number(key), judge.count("result_query_count")
    if value is None:
        judge.find(rules.MISSING, None, f"no line {key}", "the result is required")
        return
    low, high = judge.number(f"result_{percentile * 100:.2f}_{name}"), judge.number(max_key)
    if low is not None and high is not None:
        required = f"between {low:.0f}, p{percentile * 100:g}, and {high:.0f}, the maximum,"
        judge.require(low <= value <= high, rules.RESULT, key, required)
    if num is None or num < 1:
        return
    allowed = early_stopping.allowed_over(num, percentile)
    if not allowed:
        least = early_stopping.required_queries(percentile, 1)
        found = f"{num:.0f} queries"
        judge.find(rules.EARLY_STOPPING, "result_query_count", found, f"at least {least} are required", ERROR)
        return
    _explanation(judge, key, percentile, num, value)


def _explanation(judge: Judge, key: str, percentile: float, num: int, value: float) -> None:
    """LoadGen's text: how many queries it processed and discarded, and the estimates."""
    text = judge.value("early_stopping_result")
    if not isinstance(text, str):
        return
    stated = re.search(rf"{percentile * 100:.0f}(?:\.0)?th percentile estimate: (\d{{1,18}})", text)
    if stated:
        required = f"{stated[1]}, as early_stopping_result states,"
        judge.require(value == int(stated[1]), rules.RESULT, key, required)
    elif "percentile estimate" in text or "queries" in text:
        found = f"no estimate of p{percentile * 100:g} in early_stopping_result"
        judge.find(rules.CONTRADICTION, "early_stopping_result", found, f"{value:.0f}, the {key}, is required")
    # The text begins with the scenario's own percentile: p90 of a single stream, p99 of several.
    own = 0.90 if judge.scenario_name == "SingleStream" else 0.99
    counts = {
        "processed": re.search(r"queries \((\d{1,18})\)", text),
        "discards": re.search(r"discard (\d{1,18})", text),
    }
    required = {"processed": num, "discards": early_stopping.discarded(num, own)}
    for name, match in counts.items():
        if percentile == own and match and int(match[1]) != required[name]:
            found = f"early_stopping_result {name} {match[1]} queries"
            judge.find(rules.CONTRADICTION, "early_stopping_result", found, f"{required[name]} of {num} is required")
