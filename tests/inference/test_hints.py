"""What LoadGen is told of a system's speed."""

from __future__ import annotations

import numpy as np
import pytest
from inference.loadgen_fakes import settings

from airank_fast.inference import hints


def test_of_offline_the_rate_of_a_fast_full_batch():
    batches = [(8, 0.9), (8, 0.016), (8, 0.02), (8, 0.03), (8, 0.08), (8, 0.08), (3, 0.001)]
    rows, now = [], 0.0
    for size, took in batches:
        rows.append((0.0, now + took, now, size))
        now += took
    told = hints.of_accuracy_run(settings("offline", "accuracy"), np.array(rows))
    assert told == {"target_qps": pytest.approx(400.0)}


@pytest.mark.parametrize("scenario", hints.STREAMS)
def test_of_a_stream_the_fastest_query(scenario):
    rows = np.array([(0.0, 0.001, 0.0, 1), (0.01, 0.012, 0.0, 1), (0.03, 0.010, 0.0, 1)])
    told = hints.of_accuracy_run(settings(scenario, "accuracy"), rows)
    assert told == {"expected_latency_s": pytest.approx(0.4 * 0.010)}


def test_of_server_and_of_no_queries_nothing():
    rows = np.array([(0.0, 0.001, 0.0, 1)])
    assert hints.of_accuracy_run(settings("server", "accuracy"), rows) == {}
    assert hints.of_accuracy_run(settings("offline", "accuracy"), rows[:0]) == {}


TIMES = {1: 0.01, 4: 0.02, 16: 0.4}


@pytest.mark.parametrize(
    ("scenario", "bound_s", "told"),
    [
        ("offline", None, {"target_qps": 200.0}),
        ("server", 0.5, {"target_qps": 100.0}),
        ("server", 0.03, {"target_qps": 50.0}),  # four samples take more than half of the bound
        ("server", 0.001, {"target_qps": 50.0}),
        ("singlestream", None, {"expected_latency_s": 0.4 * 0.01}),
        ("multistream", None, {"expected_latency_s": 0.4 * 2 * 0.02}),  # eight samples in two batches
    ],
)
def test_without_an_accuracy_run_the_warm_up_tells(scenario, bound_s, told):
    asked = settings(scenario, target_qps=None, target_latency_s=bound_s)
    completed = hints.completed(asked, TIMES, max_batch=4)
    assert {name: getattr(completed, name) for name in told} == pytest.approx(told)


def test_what_is_told_stays():
    for asked in (settings("server", target_qps=7.0), settings("singlestream", expected_latency_s=0.3)):
        assert hints.completed(asked, TIMES, max_batch=4) == asked


def test_the_expected_latency_leaves_room_for_a_measurement_that_was_disturbed():
    assert hints.expected_latency(0.010, 60.0) == pytest.approx(0.004)
    assert hints.expected_latency(0.001, 600.0) == pytest.approx(0.0008)  # 1.5 million queries
    assert hints.expected_latency(0.002, 600.0) == pytest.approx(0.0012)  # a million
