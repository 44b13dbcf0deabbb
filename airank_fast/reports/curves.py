"""Reduces many numbers to what a picture can show: bins of a long curve, and the spread of several runs."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from airank_fast.record.metrics import percentile

MAX_POINTS = 240
LARGEST = 1e30  # beyond it a number is no figure of a run, and no picture can show it


@dataclass
class Curve:
    """Points of a line by ascending x; `low` and `high` bound the values that each point is made of."""

    x: Sequence[float] = field(default_factory=list)
    y: Sequence[float] = field(default_factory=list)
    low: Sequence[float] = field(default_factory=list)
    high: Sequence[float] = field(default_factory=list)
    num_left_out: int = 0  # values that are not finite, or beyond LARGEST

    def __len__(self) -> int:
        return len(self.x)

    def outside(self, first: float, last: float) -> list[Curve]:
        """The parts of the line before `first` and after `last`, each with the point next to it."""
        before, after = bisect_right(self.x, first), bisect_left(self.x, last)
        places = [slice(0, before + 1) if before else slice(0), slice(max(after - 1, 0), None)]
        parts = [Curve(self.x[p], self.y[p], self.y[p], self.y[p]) for p in places]
        return [part for part in parts if len(part) > 1]


def thin(x: Sequence[float], y: Sequence[float], max_points: int = MAX_POINTS) -> Curve:
    """At most `max_points` points: the mean, smallest and largest value of each of as many equal stretches of x.

    Values that are not finite are left out and counted. A curve with no more points than that stays as it is.
    """
    finite = [index for index in range(min(len(x), len(y))) if abs(x[index]) <= LARGEST and abs(y[index]) <= LARGEST]
    left_out = len(x) - len(finite)
    if len(finite) <= max_points:
        points, values = [x[index] for index in finite], [y[index] for index in finite]
        return Curve(points, values, values, values, left_out)
    first, width = x[finite[0]], x[finite[-1]] - x[finite[0]]
    bins: list[list[int]] = [[] for _ in range(max_points)]
    for index in finite:
        place = int((x[index] - first) / width * max_points) if width > 0 else 0
        bins[min(max(place, 0), max_points - 1)].append(index)
    curve = Curve(num_left_out=left_out)
    for members in filter(None, bins):
        values = [y[index] for index in members]
        low, high = min(values), max(values)
        curve.x.append(x[members[len(members) // 2]])
        curve.y.append(min(max(math.fsum(value / len(values) for value in values), low), high))
        curve.low.append(low)
        curve.high.append(high)
    return curve


def spread(curves: Sequence[Curve], num_points: int = 120) -> Curve:
    """Median, smallest and largest of several curves where all of them have values, linear between their points."""
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return Curve()
    if len(curves) == 1:
        return curves[0]
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    if last <= first:
        return Curve()
    found = Curve()
    for number in range(num_points):
        x = first + (last - first) * number / (num_points - 1)
        values = sorted(_between(curve, x) for curve in curves)
        found.x.append(x)
        found.y.append(percentile(values, 50))
        found.low.append(values[0])
        found.high.append(values[-1])
    return found


def _between(curve: Curve, x: float) -> float:
    right = min(max(bisect_right(curve.x, x), 1), len(curve.x) - 1)
    if right < 1:
        return curve.y[0]
    x0, x1, y0, y1 = curve.x[right - 1], curve.x[right], curve.y[right - 1], curve.y[right]
    return y0 + (y1 - y0) * min(max((x - x0) / (x1 - x0), 0.0), 1.0) if x1 > x0 else y1


class RateOverTime:
    """Samples trained per second of training, over equal stretches of a run; a total over a total in each.

    `add` takes stretches of training alone, so that the rate does not drop in evaluations.
    """

    def __init__(self):
        self._begin, self._end, self._samples = array("d"), array("d"), array("d")

    def add(self, begin: float, end: float, samples: float) -> None:
        """Add a stretch of training from `begin` to `end` with so many samples; one without duration is left out."""
        if end > begin and max(abs(begin), abs(end), abs(samples)) <= LARGEST:
            for column, value in ((self._begin, begin), (self._end, end), (self._samples, samples)):
                column.append(value)

    def curve(self, max_points: int = 100) -> Curve:
        """The rate at the middle of each stretch."""
        found = Curve()
        if not len(self._begin):
            return found
        stretch_s = (self._end[-1] - self._begin[0]) / max_points
        begin, spent, samples = None, 0.0, 0.0
        for index in range(len(self._begin)):
            begin = self._begin[index] if begin is None else begin
            spent += self._end[index] - self._begin[index]
            samples += self._samples[index]
            if spent >= stretch_s or index == len(self._begin) - 1:
                if spent >= stretch_s / 2 or not len(found):  # a short rest would be mostly noise
                    found.x.append((begin + self._end[index]) / 2)
                    found.y.append(samples / spent)
                begin, spent, samples = None, 0.0, 0.0
        found.low = found.high = found.y
        return found
