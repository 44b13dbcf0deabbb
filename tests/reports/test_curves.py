"""Long curves become short ones, several runs become one spread."""

import math
from array import array

import pytest

from airank_fast.reports.curves import Curve, RateOverTime, spread, thin


def test_a_short_curve_stays_as_it_is():
    curve = thin([1, 2, 3], [4.0, 5.0, 6.0])
    assert (curve.x, curve.y, curve.low, curve.high) == ([1, 2, 3], [4, 5, 6], [4, 5, 6], [4, 5, 6])


def test_a_long_curve_keeps_mean_and_extremes_of_every_stretch():
    count = 100_000
    y = array("d", (math.sin(i) for i in range(count)))
    y[777] = 50.0
    curve = thin(array("d", range(count)), y, max_points=200)
    assert len(curve) == 200
    assert curve.high[1] == 50.0
    assert curve.y[1] == pytest.approx(math.fsum(y[500:1000]) / 500)
    assert list(curve.x) == sorted(curve.x)
    assert all(low <= mean <= high for low, mean, high in zip(curve.low, curve.y, curve.high, strict=True))


def test_what_is_no_finite_number_is_left_out_and_counted():
    curve = thin([0, 1, 2, 3, 4], [1.0, math.nan, math.inf, -math.inf, 1e300])
    assert (curve.x, curve.y, curve.num_left_out) == ([0], [1.0], 4)
    assert len(thin([], [])) == 0


def test_steps_that_all_stand_at_one_x():
    assert len(thin([5.0] * 1000, list(range(1000)), max_points=10)) == 1


def test_spread_is_where_all_runs_have_values():
    found = spread([Curve([0, 10], [0, 10]), Curve([2, 8], [4, 10]), Curve([1, 12], [1, 12])], num_points=7)
    assert found.x == pytest.approx([2, 3, 4, 5, 6, 7, 8])
    assert found.low == pytest.approx(found.x)
    assert found.y == pytest.approx(found.x)
    assert found.high == pytest.approx([x + 2 for x in found.x])


def test_spread_of_runs_that_never_overlap_is_empty():
    assert len(spread([Curve([0, 1], [1, 2]), Curve([2, 3], [1, 2])])) == 0
    assert len(spread([])) == 0


def test_the_parts_of_a_line_beside_the_spread():
    curve = Curve([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    assert [list(part.x) for part in curve.outside(1.5, 3.5)] == [[0, 1, 2], [3, 4, 5]]
    assert [list(part.x) for part in curve.outside(0, 5)] == [[0, 1], [4, 5]]


def test_a_rate_is_a_total_over_a_total():
    rates = RateOverTime()
    rates.add(0, 1, 100)
    rates.add(1, 4, 100)  # slower: the mean of the rates would be 66.7
    rates.add(14, 16, 100)  # an evaluation lies between
    assert rates.curve(max_points=1).y == [50.0]
    assert rates.curve(max_points=100).y == pytest.approx([100, 100 / 3, 50])
    assert len(RateOverTime().curve()) == 0
