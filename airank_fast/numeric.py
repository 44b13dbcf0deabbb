"""What counts as a number in a file that anybody may have written; a leaf that every room may import."""

from __future__ import annotations

LARGEST = 2.0**1000  # no figure of a run comes near it, and sums below it stay floats


def is_number(value: object, largest: float = LARGEST) -> bool:
    """Whether a value is an int or a float of at most `largest` either way; bool and NaN are neither."""
    return type(value) in (int, float) and abs(value) <= largest


def is_float(value: object, largest: float = LARGEST) -> bool:
    """Whether a value is a number or any float: a loss or an accuracy may be NaN or inf."""
    return type(value) is float or is_number(value, largest)
