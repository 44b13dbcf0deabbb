"""Axes of the pictures: round ticks, their labels, and where a value lies between the ends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_TIME_UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, both finite and apart; `ticks` lie on it, each with its label."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """0 at the low end, 1 at the high end; below 0 and above 1 beyond them."""
        if self.log:
            return (math.log(max(value, self.low / 10)) - math.log(self.low)) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(values: Iterable[float], *, zero: bool = False, percent: bool = False, count: int = 5) -> Axis:
    """An axis of about `count` round ticks around finite values; `zero`: it begins at 0 (no value lies below)."""
    values = list(values)
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0) if zero else low
    if not _apart(low, high):  # one value only
        room = abs(high) * 0.1 or 1.0
        low, high = low if zero and low < high else low - room, high + room
    step = _round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple((n * step, _label(n * step, step, percent)) for n in range(first, last + 1))
    return Axis(first * step, last * step, ticks)


def span(values: Iterable[float], *, log: bool = False, count: int = 6) -> Axis:
    """An axis that ends where the values end, with round ticks between."""
    values = list(values)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if log and low > 0 and high > low * 1.01:
        return Axis(low, high, tuple(_log_ticks(low, high)), log=True)
    low = min(low, 0.0)
    high = high if _apart(low, high) else low + (abs(low) or 1.0)
    step = _round_step((high - low) / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple((n * step, _label(n * step, step)) for n in range(first, last + 1)))


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which a time of this length reads well, and its seconds."""
    return next(((name, size) for name, size in _TIME_UNITS if seconds >= 2 * size), _TIME_UNITS[-1])


def compact(value: float) -> str:
    """A number in about three digits, with k, M, G for thousands."""
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+", "e")
    for name, unit in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= unit:
            return f"{value / (1e3 if name == 'k' else unit):.3g}{name}"
    return f"{value:.4g}"


def _apart(low: float, high: float) -> bool:
    """Whether there is room for ticks between two values."""
    return high - low > max(1e-12 * max(abs(low), abs(high)), 1e-30)


def _round_step(least: float) -> float:
    """The smallest 1, 2, 2.5 or 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((n * power for n in (1, 2, 2.5, 5) if n * power >= least * 0.999), 10 * power)


def _log_ticks(low: float, high: float) -> Iterable[tuple[float, str]]:
    decades = math.log10(high / low)
    parts = (1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for part in parts:
            value = part * 10.0**exponent
            if low * 0.999 <= value <= high * 1.001:
                yield value, compact(value)


def _label(value: float, step: float, percent: bool = False) -> str:
    if percent:
        return f"{value * 100:.{_decimals(step * 100)}f}%"
    if step >= 1000 or step < 1e-4:
        return compact(value or 0.0)  # not -0
    return f"{value:.{_decimals(step)}f}"


def _decimals(step: float) -> int:
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return min(places + (abs(step * 10**places - round(step * 10**places)) > 1e-6), 9)
