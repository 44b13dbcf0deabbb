"""Early stopping's numbers: those of MLPerf's table and of LoadGen's logs, and exact fractions."""

from fractions import Fraction
from math import comb

import pytest

from airank_fast.rules import early_stopping


@pytest.mark.parametrize(
    ("percentile", "without", "with_one"),
    [(0.90, 44, 64), (0.95, 90, 130), (0.97, 152, 219), (0.99, 459, 662), (0.999, 4_603, 6_636)],
)
def test_required_queries(percentile, without, with_one):
    assert early_stopping.required_queries(percentile) == without
    assert early_stopping.required_queries(percentile, 1) == with_one


@pytest.mark.parametrize(("num", "discarded"), [(1_246, 99), (4_001, 355), (7_914, 728), (63, None), (64, 0)])
def test_discarded_as_loadgen_logs_it(num, discarded):
    assert early_stopping.discarded(num, 0.90) == discarded


def exactly_met(num, over, percentile):
    late = 1 - Fraction(str(percentile))
    risk = sum(comb(num, k) * late**k * (1 - late) ** (num - k) for k in range(over + 1))
    return risk <= Fraction(1, 100)


@pytest.mark.parametrize("percentile", [0.5, 0.90, 0.99])
def test_against_exact_fractions(percentile):
    for over in (0, 1, 2, 3, 7, 20):
        num = early_stopping.required_queries(percentile, over)
        assert exactly_met(num, over, percentile)
        assert not exactly_met(num - 1, over, percentile)
        assert early_stopping.is_met(num, over, percentile)
        assert not early_stopping.is_met(num - 1, over, percentile)


def test_large_runs_agree_with_themselves():
    for over in (100, 2_561, 30_000):
        num = early_stopping.required_queries(0.99, over)
        assert early_stopping.allowed_over(num, 0.99) == over
        assert early_stopping.allowed_over(num - 1, 0.99) == over - 1
    assert early_stopping.allowed_over(270_336, 0.99) == 2_583


def test_estimate():
    latencies = [float(k) for k in range(1_246)]
    assert early_stopping.estimate(latencies, 0.90) == 1_246 - 100  # the 100th longest
    assert early_stopping.estimate(latencies[:64], 0.90) == 63.0
    assert early_stopping.estimate(latencies[:63], 0.90) is None
    assert early_stopping.estimate([], 0.90) is None


def test_odd_runs():
    assert not early_stopping.is_met(0, 0, 0.9)
    assert not early_stopping.is_met(100, 100, 0.9)
    assert not early_stopping.is_met(100, 60, 0.9)
    assert not early_stopping.is_met(100, -1, 0.9)
    assert early_stopping.allowed_over(43, 0.9) is None
    for percentile in (0.0, 1.0, 90):
        with pytest.raises(ValueError, match="percentile"):
            early_stopping.required_queries(percentile)
    with pytest.raises(ValueError, match="whole number"):
        early_stopping.required_queries(0.9, -1)
