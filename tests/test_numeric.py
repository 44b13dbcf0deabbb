"""What counts as a number in a file that anybody may have written."""

import math

import pytest

from airank_fast.numeric import is_float, is_number


@pytest.mark.parametrize("value", [0, -3, 2.5, 2**1000, -1e300])
def test_numbers(value):
    assert is_number(value)
    assert is_float(value)


@pytest.mark.parametrize("value", [True, None, "1", [1], 10**400, -(10**400)])
def test_neither_words_nor_bool_nor_what_no_float_holds(value):
    assert not is_number(value)
    assert not is_float(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_floats_only(value):
    assert not is_number(value)
    assert is_float(value)


def test_a_limit_holds_both_ways_and_inf_may_be_within_it():
    assert [is_number(value, 10) for value in (-11, -10, 10.0, 10.5)] == [False, True, True, False]
    assert is_number(-math.inf, math.inf)
    assert not is_number(math.nan, math.inf)
