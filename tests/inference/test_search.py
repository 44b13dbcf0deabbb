"""The search for the greatest rate, and percentiles, against simulated systems whose truth is known."""

from __future__ import annotations

import math
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airank_fast.inference import simulation
from airank_fast.inference.search import PRECISION, Found, Verdict, find_qps, judge_probe, probe_seconds
from airank_fast.rules import early_stopping

SERVICE_S, BOUND_S = 0.004, 0.015


def late_share(qps: float) -> float:
    """The share of queries of an M/D/1 server that take longer than the bound (Erlang 1909)."""
    load, wait_s = qps * SERVICE_S, BOUND_S - SERVICE_S
    terms = (qps * (k * SERVICE_S - wait_s) for k in range(int(wait_s / SERVICE_S) + 1))
    in_time = sum(term**k / math.factorial(k) * math.exp(-term) for k, term in enumerate(terms))
    return 1 - (1 - load) * in_time


def truth() -> float:
    """The rate at which 1 % of the queries are late."""
    low, high = 1.0, 1 / SERVICE_S
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if late_share(middle) <= 0.01 else (low, middle)
    return low


def test_a_simulated_server_is_as_theory_has_it():
    qps = truth()
    served = simulation.serve(simulation.poisson_schedule(qps, 200.0, 1), {1: SERVICE_S}, BOUND_S, 1)
    late = sum(latency > BOUND_S for latency in served.latencies_s) / len(served.latencies_s)
    assert late == pytest.approx(0.01, rel=0.25)


@pytest.mark.parametrize("start", [20.0, 5000.0])
def test_the_greatest_rate_of_a_simulated_server_is_found_within_5_percent(start):
    seeds = count(3000)

    def probe(qps):
        return simulation.probe(qps, {1: SERVICE_S}, BOUND_S, 1, next(seeds), 8000 / qps)

    found = find_qps(probe, start)
    assert found.valid == pytest.approx(truth(), rel=0.05)
    assert found.valid < found.refused <= found.valid * (1 + PRECISION)
    assert {found.valid, found.refused} <= {verdict.qps for verdict in found.probes}


def test_batches_raise_the_rate():
    seeds = count(1)
    times = {1: SERVICE_S, 2: 0.0045, 4: 0.005, 8: 0.006}
    found = find_qps(lambda qps: simulation.probe(qps, times, BOUND_S, 8, next(seeds), 5.0), 200.0)
    assert found.valid > 3 * truth()


def always(limit: float):
    """A system that passes up to a rate, with all queries late beyond it."""
    return lambda qps: judge_probe(qps, 1000, 0 if qps <= limit else 1000)


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5))
def test_only_probed_rates_are_reported(limit, start):
    found = find_qps(always(limit), start)
    probed = {verdict.qps: verdict.valid for verdict in found.probes}
    if found.valid is not None:
        assert probed[found.valid] is True
        assert found.valid <= limit
    if found.refused is not None:
        assert probed[found.refused] is False
        assert found.refused > limit
    if 2**-19 < limit / start < 2**19:
        assert found.refused <= found.valid * (1 + PRECISION)


def test_one_disturbance_does_not_lower_a_rate_that_has_passed():
    calls = count(1)

    def probe(qps):
        disturbed = next(calls) in (4, 7)
        return judge_probe(qps, 1000, 1000 if qps > 330 else 99 if disturbed else 0)

    found = find_qps(probe, 100.0)
    assert 330 / (1 + PRECISION) <= found.valid <= 330
    failed = [verdict for verdict in found.probes if not verdict.valid and verdict.qps <= 330]
    assert len(failed) == 2


def tries_at_200(late: list[int]) -> list[Verdict]:
    """The probes at 200 of 1,000 queries each, of which so many are late, after 100 has passed."""
    given = iter(late)
    found = find_qps(lambda qps: judge_probe(qps, 1000, 0 if qps <= 100 else next(given) if qps == 200 else 900), 100.0)
    assert found.probes[0].qps == 100
    return [verdict for verdict in found.probes if verdict.qps == 200]


def test_a_rate_is_refused_after_two_clear_failures_or_three():
    assert len(tries_at_200([900])) == 1  # no disturbance makes 90 % late
    assert len(tries_at_200([50, 50])) == 2
    assert len(tries_at_200([12, 12, 12])) == 3  # 1.2 %: chance, or too fast?
    assert len(tries_at_200([50, 0])) == 2  # passes
    assert len(tries_at_200([12, 12, 0])) == 3  # passes


def test_a_system_that_never_passes():
    found = find_qps(always(0.0), 100.0)
    assert found.valid is None
    assert found.refused == min(verdict.qps for verdict in found.probes)


def test_a_probe_is_judged_by_early_stopping():
    assert not judge_probe(50.0, 458, 0).valid  # a p99 within the bound, of too few queries
    assert judge_probe(50.0, 459, 0).valid
    assert not judge_probe(50.0, 661, 1).valid
    assert probe_seconds(1000.0) == 20.0
    assert probe_seconds(100.0) == 40.0
    assert probe_seconds(10.0) * 10.0 >= early_stopping.required_queries(0.99, 1)
    assert probe_seconds(1000.0, at_most_s=6.0) == 6.0
    assert probe_seconds(10.0, at_most_s=6.0) == probe_seconds(10.0)


def test_a_system_of_known_latency_has_the_known_percentiles():
    latencies, _ = simulation.single_stream(lambda query: 0.020 if query % 20 == 19 else 0.005, 2000)
    ordered = sorted(latencies)
    assert early_stopping.estimate(ordered, 0.90) == 0.005
    assert early_stopping.estimate(ordered, 0.97) == 0.020
    assert early_stopping.estimate(ordered, 0.99) == 0.020


def test_a_stall_makes_server_invalid_and_shows_in_a_closed_loop():
    arrivals = simulation.poisson_schedule(70.0, 60.0, 3)
    sound = simulation.serve(arrivals, {1: SERVICE_S}, BOUND_S, 1)
    stalled = simulation.serve(arrivals, {1: SERVICE_S}, BOUND_S, 1, stalls=[(30.0, 2.0)])
    late = [sum(latency > BOUND_S for latency in served.latencies_s) for served in (sound, stalled)]
    assert early_stopping.is_met(len(arrivals), late[0], 0.99)
    assert not early_stopping.is_met(len(arrivals), late[1], 0.99)
    latencies, _ = simulation.single_stream(lambda query: 2.0 if query == 700 else 0.005, 1200)
    assert early_stopping.estimate(sorted(latencies), 0.99) == 0.005  # the percentile does not show it


def test_rates_of_the_whole_run_passed_and_go_on_below():
    probes = [Verdict(qps, valid, 100, 0) for qps, valid in ((100, True), (99, True), (120, False), (60, True))]
    found = Found(100.0, 120.0, tuple(probes))
    assert found.rates(2) == [100, 60]
    assert found.rates(4) == [100, 60, pytest.approx(58.8), pytest.approx(58.8 * 0.98)]
    assert Found(None, 1.0, (Verdict(1, False, 9, 9),)).rates(3) == []
