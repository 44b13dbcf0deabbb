"""MLPerf's early stopping: how many queries make a latency percentile certain, by the binomial distribution.

    early_stopping.required_queries(0.90)          # 44: all of them in time
    early_stopping.required_queries(0.99, 1)       # 662: one of them late
    early_stopping.is_met(500, 0, 0.99)            # True
    early_stopping.estimate(latencies, 0.90)       # the latency that 90 % of queries are below, at 99 % confidence

A run of n queries with t late ones passes at percentile p if a system that is late with probability 1 - p would have
at most t late ones with probability 1 % or less: P(Bin(n, 1 - p) <= t) <= 0.01.

Source: mlcommons/inference_policies, inference_rules.adoc, appendix Early Stopping Criterion (confidence 0.99,
tolerance 0); LoadGen's loadgen/early_stopping.cc computes the same by an incomplete beta function. The probabilities
are computed as in C. Loader, Fast and Accurate Computation of Binomial Probabilities (2000), to 12 digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

CONFIDENCE = 0.99
_RISK = 0.01  # 1 - CONFIDENCE
_NEGLIGIBLE = 1e-17  # of the sum so far
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@lru_cache(maxsize=4096)
def required_queries(percentile: float, over_latency: int = 0) -> int:
    """The least number of queries, late ones included, that pass with `over_latency` late ones.

    `percentile` is in (0, 1): 0.99 for p99. ValueError for anything else.
    """
    _check(percentile)
    if type(over_latency) is not int or over_latency < 0:
        raise ValueError(f"over_latency must be a whole number from 0, got {over_latency!r}")
    low = over_latency  # all late: never passes
    high = max(2 * over_latency, 1)
    while not is_met(high, over_latency, percentile):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if is_met(middle, over_latency, percentile):
            high = middle
        else:
            low = middle
    return high


def is_met(num_queries: int, num_over: int, percentile: float) -> bool:
    """Whether a run of `num_queries`, of which `num_over` were late, is certain at the percentile."""
    _check(percentile)
    return 0 <= num_over < num_queries and _at_most(num_over, num_queries, 1 - percentile) <= _RISK


def allowed_over(num_queries: int, percentile: float) -> int | None:
    """The greatest number of late queries with which a run of `num_queries` passes; None if it needs more queries."""
    if not is_met(num_queries, 0, percentile):
        return None
    low, high = 0, num_queries
    while high - low > 1:
        middle = (low + high) // 2
        if is_met(num_queries, middle, percentile):
            low = middle
        else:
            high = middle
    return low


def discarded(num_queries: int, percentile: float) -> int | None:
    """The number of slowest queries that the estimate leaves out, as LoadGen logs it; None with too few queries."""
    allowed = allowed_over(num_queries, percentile)
    return allowed - 1 if allowed else None


def estimate(latencies: Sequence[float], percentile: float) -> float | None:
    """The early-stopping estimate of a latency percentile, in the unit of `latencies`, which are sorted.

    With t late queries allowed it is the t-th longest latency, t at least 1. None with too few queries: fewer than 64
    at p90, 662 at p99.
    """
    allowed = allowed_over(len(latencies), percentile)
    return latencies[len(latencies) - allowed] if allowed else None


def _check(percentile: float) -> None:
    if not 0 < percentile < 1 or 1 - percentile == 1:
        raise ValueError(f"percentile must be in (0, 1), got {percentile!r}")


def _at_most(most: int, num: int, probability: float) -> float:
    """P(Bin(num, probability) <= most), summed downwards from its largest term below the mean."""
    if most >= num:
        return 1.0
    if most > num * probability:  # beyond the mean the terms rise before they fall; far from 0.01 either way
        return 1.0 - _tail(most + 1, num, probability)
    term = _term(most, num, probability)
    total = term
    for k in range(most, 0, -1):
        term *= k * (1 - probability) / ((num - k + 1) * probability)
        total += term
        if term <= total * _NEGLIGIBLE:
            break
    return total


def _tail(least: int, num: int, probability: float) -> float:
    """P(Bin(num, probability) >= least), for `least` above the mean."""
    return _at_most(num - least, num, 1 - probability)


def _term(k: int, num: int, probability: float) -> float:
    """P(Bin(num, probability) = k)."""
    if k == 0:
        return math.exp(num * math.log1p(-probability))
    if k == num:
        return math.exp(num * math.log(probability))
    rest = num - k
    exponent = _stirling_error(num) - _stirling_error(k) - _stirling_error(rest)
    exponent -= _deviance(k, num * probability) + _deviance(rest, num * (1 - probability))
    return math.exp(exponent) * math.sqrt(num / (2 * math.pi * k * rest))


def _stirling_error(n: int) -> float:
    """log(n!) minus Stirling's approximation of it."""
    if n < 16:
        return math.lgamma(n + 1) - ((n + 0.5) * math.log(n) - n + _HALF_LOG_2PI)
    square = n * n
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680) / square) / square) / square) / n


def _deviance(x: float, mean: float) -> float:
    """x log(x / mean) + mean - x, without the cancellation where x is near the mean."""
    difference = x - mean
    if abs(difference) >= 0.1 * (x + mean):
        return x * math.log(x / mean) - difference
    ratio = difference / (x + mean)
    total = difference * ratio
    term, square, k = 2 * x * ratio, ratio * ratio, 1
    while True:
        term *= square
        new = total + term / (2 * k + 1)
        if new == total:
            return total
        total, k = new, k + 1
