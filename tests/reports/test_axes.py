"""Round ticks and their labels."""

import math
import random

import pytest

from airank_fast.reports import axes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([0.0, 1234.0], ["0", "250", "500", "750", "1000", "1250"]),
        ([3.0, 3.0], ["2.6", "2.8", "3.0", "3.2", "3.4"]),
        ([0.0, 0.0003], ["0.0000", "0.0001", "0.0002", "0.0003"]),
        ([0.0, 3e-5], ["0", "1e-5", "2e-5", "3e-5"]),
    ],
)
def test_ticks_are_round(values, expected):
    assert [label for _, label in axes.linear(values).ticks] == expected


def test_percent():
    assert [label for _, label in axes.linear([0.0, 0.759], percent=True).ticks] == ["0%", "20%", "40%", "60%", "80%"]


def test_an_axis_of_time_ends_where_the_values_end():
    axis = axes.span([2.0, 61.0])
    assert (axis.low, axis.high) == (0.0, 61.0)
    assert [label for _, label in axis.ticks] == ["0", "20", "40", "60"]


def test_a_logarithmic_axis_has_every_value_on_it():
    axis = axes.span([0.5, 80.0], log=True)
    assert axis.log
    assert (axis.at(0.5), axis.at(80.0)) == (0.0, pytest.approx(1.0))
    assert axis.at(math.sqrt(0.5 * 80.0)) == pytest.approx(0.5)
    assert [label for _, label in axis.ticks] == ["1", "3", "10", "30"]


def test_no_axis_has_few_or_many_ticks_or_values_beside_it():
    dice = random.Random(0)
    for _ in range(2000):
        scale = 10.0 ** dice.uniform(-320, 29)
        values = [dice.uniform(-1, 1) * scale for _ in range(dice.randint(1, 5))]
        for axis in (axes.linear(values), axes.linear(values, zero=True), axes.span([abs(v) for v in values])):
            assert 1 <= len(axis.ticks) <= 12
            assert math.isfinite(axis.low)
            assert axis.low < axis.high
            assert all(-1e-6 <= axis.at(tick) <= 1 + 1e-6 for tick, _ in axis.ticks)
        assert all(-1e-6 <= axes.linear(values).at(value) <= 1 + 1e-6 for value in values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (9472, "9472"), (12345, "12.3k"), (1281167, "1.28M"), (1e-5, "1e-5"), (0.25, "0.25")],
)
def test_compact(value, expected):
    assert axes.compact(value) == expected


def test_time_unit():
    assert [axes.time_unit(s)[0] for s in (10, 119, 120, 7199, 7200)] == ["s", "s", "min", "min", "h"]
