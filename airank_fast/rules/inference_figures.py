"""Checks the figures of a test's test_stop event: each is computed again from the queries before it.

Without LoadGen a figure must be what its queries give. LoadGen has a clock of its own, around this program's: its
latencies begin earlier (of Server at the scheduled arrival) and its rates are a little lower. So a stated latency may
be above that of the queries by 5 ms and 5 %, below it by 0.5 ms and 1 %; a cheat would go the other way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from airank_fast.record.events import dictionary
from airank_fast.record.inference_metrics import WHOLE_SET, LoadTest, loadgen_percentile
from airank_fast.record.metrics import percentile
from airank_fast.rules import early_stopping

PERCENTILES = {"singlestream": 0.90, "multistream": 0.99, "server": 0.99}
BOUNDED = ("server", "online", "max-batch")
"""Scenarios with a latency bound."""
_RATES = ("samples_per_s", "p_infer_whole", "completed_qps", "p_infer_core", "scheduled_qps")
_SHARES = {"latency_p50_s": 0.5, "latency_p90_s": 0.9, "latency_p95_s": 0.95, "latency_p99_s": 0.99}
_LATE_S, _LATE = 0.005, 0.05  # by which LoadGen's latencies may be above ours
_EARLY_S, _EARLY = 0.0005, 0.01  # and below
_SAME_MOMENT_S = 1e-6  # an answer and the request that follows it


class Disagreement(NamedTuple):
    """A figure that differs from what the queries give: its place in test_stop, what it is, and what is required."""

    place: str
    found: str
    required: str


def bound_s(test: LoadTest) -> float | None:
    """The latency bound of a test, s; None of scenarios without one."""
    return dictionary(test.start.get("settings")).get("target_latency_s") if test.scenario in BOUNDED else None


def disagreements(test: LoadTest) -> Iterator[Disagreement]:
    """The figures of a test that ended which its queries do not give."""
    yield from _counts(test)
    if not test.latency_s:
        return
    yield from _duration(test)
    yield from _metric(test)
    yield from _over_latency(test)
    yield from _early_stopping(test)


def _has_loadgen(test: LoadTest) -> bool:
    return bool(test.stop.get("loadgen"))


def _counts(test: LoadTest) -> Iterator[Disagreement]:
    stop, count = test.stop, len(test.latency_s)
    if not count:
        if test.mode == "performance":
            yield Disagreement("num_queries", "a test without queries", "the queries of the test are required")
        return
    of_loadgen = (1, stop["num_samples"]) if test.scenario in WHOLE_SET else ()  # one query, of all samples
    if stop["num_queries"] not in (count, *of_loadgen):
        yield Disagreement("num_queries", f"{stop['num_queries']} queries", f"{count} are required by its queries")
    if test.samples() is None:
        given = sum(test.batch) if test.scenario in (*WHOLE_SET, "max-batch") else count
        yield Disagreement("num_samples", f"{stop['num_samples']} samples", f"{given} are required by its queries")
    if test.correct and any(right > size for right, size in zip(test.correct, test.samples() or (), strict=False)):
        yield Disagreement("correct", "more right answers than samples in a query", "at most as many are required")
    if test.queue_s and any(wait > took + 1e-6 for wait, took in zip(test.queue_s, test.latency_s, strict=False)):
        yield Disagreement("queue_s", "a query that waited longer than it took", "a part of its latency is required")


def _duration(test: LoadTest) -> Iterator[Disagreement]:
    stated, last = test.stop["duration_s"], max(test.done_s())
    slack = max(1.0, 0.05 * last) if _has_loadgen(test) else 0.001 + 1e-6 * last
    if not last - 0.001 - 1e-6 * last <= stated <= last + slack:
        required = f"{last:.6f} s, the time of the last answer, is required"
        yield Disagreement("duration_s", f"duration_s {stated:.6f}", required)


def _metric(test: LoadTest) -> Iterator[Disagreement]:
    for name, stated in test.stop["metric"].items():
        candidates = [own for own in _own(test, name) if own is not None]
        if not candidates:
            continue
        is_time = name not in _RATES
        if not any(_agrees(test, stated, own, is_time) for own in candidates):
            required = f"{' or '.join(f'{own:.6g}' for own in candidates)} is required by its queries"
            yield Disagreement(f"metric {name}", f"{test.scenario} with {name} {stated:.6g}", required)


def _own(test: LoadTest, name: str) -> list[float | None]:
    """What the queries give for a figure of this name; [] of a name that they say nothing about.

    LoadGen's estimate by early stopping is a latency percentile as well.
    """
    ascending = sorted(test.latency_s)
    if name in _RATES:
        return [_rate(test, name)]
    if name == "latency_p90_s" and test.scenario == "latency":
        return [percentile(ascending, 90)]
    if name in _SHARES and test.scenario not in WHOLE_SET:
        estimate_s = early_stopping.estimate(ascending, _SHARES[name]) if test.stop.get("early_stopping") else None
        return [loadgen_percentile(ascending, _SHARES[name]), estimate_s]
    if name == "max_latency_s" or (name == "latency_s" and test.scenario == "max-batch"):
        return [ascending[-1]]
    if name == "mean_latency_s":
        return [math.fsum(ascending) / len(ascending)]
    if name == "batch" and test.scenario == "max-batch":
        return [float(max(test.batch, default=0))]
    if name == "concurrency" and test.scenario == "online":
        return [float(_most_open(test))]
    return []


def _most_open(test: LoadTest) -> int:
    """The most requests that were open at a time; a client sends its next one when it has its answer."""
    times = [(at, 1) for at in test.issued_s] + [(at - _SAME_MOMENT_S, -1) for at in test.done_s()]
    return max(accumulate(change for _, change in sorted(times)))


def _rate(test: LoadTest, name: str) -> float | None:
    samples, seconds = sum(test.samples() or ()), max(test.done_s())
    if name == "scheduled_qps":
        samples, seconds = len(test.issued_s), max(test.issued_s)
    elif name == "p_infer_core":
        seconds = math.fsum(test.latency_s) - math.fsum(test.queue_s)
    return samples / seconds if samples and seconds > 0 else None


def _agrees(test: LoadTest, stated: float, own: float, is_time: bool) -> bool:
    if not math.isfinite(stated):
        return False
    if not _has_loadgen(test):
        return math.isclose(stated, own, rel_tol=1e-6, abs_tol=1e-9)
    if is_time:
        return own * (1 - _EARLY) - _EARLY_S <= stated <= own * (1 + _LATE) + _LATE_S
    return own * (1 - _LATE) <= stated <= own * (1 + _EARLY)


def _over_latency(test: LoadTest) -> Iterator[Disagreement]:
    stated, bound = test.stop.get("over_latency"), bound_s(test)
    if bound is None:
        return
    if stated is None:
        yield Disagreement("over_latency", f"{test.scenario} without over_latency", "a count is required with a bound")
        return
    least = most = sum(took > bound for took in test.latency_s)
    if _has_loadgen(test):
        least = sum(took * (1 - _EARLY) - _EARLY_S > bound for took in test.latency_s)
        most = sum(took * (1 + _LATE) + _LATE_S > bound for took in test.latency_s)
    if not least <= stated <= most:
        required = f"{least}" if least == most else f"{least} to {most}"
        found = f"over_latency {stated} of a bound of {bound * 1e3:g} ms"
        yield Disagreement("over_latency", found, f"{required} is required by its queries")


def _early_stopping(test: LoadTest) -> Iterator[Disagreement]:
    stated = test.stop.get("early_stopping")
    if stated is None or stated.get("met") is None:
        return
    share, usual = stated["percentile"], PERCENTILES.get(test.scenario)
    if share != usual:
        found = f"early stopping of {test.scenario} at {share:g}"
        required = "none is required" if usual is None else f"{usual:g} is required"
        yield Disagreement("early_stopping percentile", found, required)
        return
    if test.scenario == "server":
        over = test.stop.get("over_latency") or 0
        if test.stop["num_queries"] != len(test.latency_s):
            return  # `_counts` names it
        met = early_stopping.is_met(test.stop["num_queries"], over, share)
        why = f"of {test.stop['num_queries']} queries with {over} late"
    else:
        own = early_stopping.estimate(sorted(test.latency_s), share)
        met, why = own is not None, f"of {len(test.latency_s)} queries"
        estimate = stated.get("estimate_s")
        if own is not None and (estimate is None or not _agrees(test, estimate, own, is_time=True)):
            shown = "none" if estimate is None else f"{estimate:.6g} s"
            required = f"{own:.6g} s is required by its queries"
            yield Disagreement("early_stopping estimate_s", f"an early-stopping estimate of {shown}", required)
    if stated["met"] != met:
        found = f"early stopping {'met' if stated['met'] else 'not met'} {why}"
        yield Disagreement("early_stopping met", found, f"{'met' if met else 'not met'} is required")
