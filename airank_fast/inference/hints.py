"""What LoadGen has to be told of a system's speed before it runs a test.

LoadGen makes its queries ahead: Offline's for 1.1 times the duration at the expected rate, those of the streams for
twice the duration at the expected latency. Both are taken from the scenario's accuracy run, which is the same system
over the whole data set; where there is none, from the warm-up. Offline's rate is measured before the test where samples
are alike: an accuracy run of a small set takes half a second, in which a processor is faster than in a minute, or is
disturbed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from airank_fast.inference import batcher
from airank_fast.inference.settings import TestSettings

STREAMS = ("singlestream", "multistream")
FAST = 0.25  # share of Offline's batches that are faster: of too small a rate LoadGen's query ends too early
OFFLINE_MARGIN = 1.05  # beside LoadGen's own: a test that is too short begins again, one that is longer goes on
PROBE_SHARE, LONGEST_PROBE_S = 1 / 20, 10.0  # of Offline's duration, in which its rate is measured
SERVER_SHARE = 0.5  # of the greatest rate of the warm-up's batches, where no rate is given
MOST_QUERIES = 1_000_000


def of_accuracy_run(settings: TestSettings, rows: np.ndarray) -> dict[str, float]:
    """The fields to set for a performance run: target_qps of Offline, expected_latency_s of the streams; else {}.

    settings: of the accuracy run. rows: float64 [queries, 4] as of `sut.Records`. The first is left out of several.
    """
    rows = rows[1:] if len(rows) > 1 else rows
    if not len(rows):
        return {}
    if settings.scenario == "offline":
        full = rows[rows[:, 3] == rows[:, 3].max()]
        batch_s = float(np.quantile(full[:, 1] - full[:, 2], FAST))
        return {"target_qps": float(full[0, 3]) / batch_s} if batch_s > 0 else {}
    if settings.scenario in STREAMS and (fastest_s := float(rows[:, 1].min())) > 0:
        return {"expected_latency_s": expected_latency(fastest_s, settings.min_duration_s)}
    return {}


def probe_s(duration_s: float) -> float:
    """Seconds in which the rate of a test of this duration is measured."""
    return min(PROBE_SHARE * duration_s, LONGEST_PROBE_S)


def completed(settings: TestSettings, times: Mapping[int, float], max_batch: int) -> TestSettings:
    """The settings with what they lack, by the seconds of each batch size; `times` is not empty."""
    scenario, is_told = settings.scenario, settings.target_qps is not None
    if scenario in STREAMS:
        if settings.is_accuracy or settings.expected_latency_s is not None:
            return settings
        size = min(settings.samples_per_query, max_batch)
        latency_s = batcher.predicted(times, size) * -(-settings.samples_per_query // size)
        return dataclasses.replace(settings, expected_latency_s=expected_latency(latency_s, settings.min_duration_s))
    if is_told or (settings.is_accuracy and scenario == "offline"):
        return settings
    if scenario == "offline":
        return dataclasses.replace(settings, target_qps=greatest_rate(times))
    bound_s = settings.target_latency_s
    fitting = {size: s for size, s in times.items() if bound_s is None or s <= 0.5 * bound_s}
    rate = greatest_rate(fitting or {min(times): times[min(times)]})
    return dataclasses.replace(settings, target_qps=SERVER_SHARE * rate)


def expected_latency(fastest_s: float, duration_s: float) -> float:
    """The expected latency to tell LoadGen, which makes 2 x duration / expected latency queries ahead.

    They suffice for a system that is five times as fast in the test as measured, as after heavy disturbance; where
    that would be more than a million queries, 355 bytes each, for one that is 2.5 times as fast.
    """
    return max(0.4 * fastest_s, min(0.8 * fastest_s, 2 * duration_s / MOST_QUERIES))


def corrected(scenario: str, settings: Mapping[str, Any], stop: Mapping[str, Any]) -> dict[str, float]:
    """The fields to change where a performance run failed because LoadGen was told a wrong speed; {} otherwise.

    A run ends early where the system is faster than LoadGen was told. Half the rate is offered where queries were late.
    """
    if scenario == "server":
        qps = settings.get("target_qps")
        return {"target_qps": 0.5 * qps} if qps and stop["over_latency"] else {}
    if stop["duration_s"] >= settings.get("min_duration_s", 0.0):
        return {}
    if scenario == "offline":
        return {"target_qps": 1.1 * stop["num_samples"] / stop["duration_s"]} if stop["duration_s"] > 0 else {}
    expected_s = settings.get("expected_latency_s")
    return {"expected_latency_s": 0.5 * expected_s} if expected_s else {}


def greatest_rate(times: Mapping[int, float]) -> float:
    """Samples a second in batches of the best size; times: {size: seconds}, not empty."""
    return max(size / seconds for size, seconds in times.items())
