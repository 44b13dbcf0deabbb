"""Reference convergence points (RCP): how soon a set of MLPerf runs may reach the target, and how it is scaled.

mlperf-logging ships the reference implementations' epochs to converge (BERT: samples) at several batch sizes. This
file computes as its RCP checker for ruleset 4.0.0 (training rules, Reference Convergence Points):

    mean      of a reference's runs without the fastest and the slowest
    minimum   mean - t s sqrt(1 / (runs of the reference - 2) + 1 / (runs of a submission - 2)), with s the standard
              deviation of all runs of the reference (over n, not n - 1) and t the 95 % quantile of Student's
              distribution: the bound of a one-sided t-test at 5 %
    pruning   a reference that converges more slowly than the line between its neighbours is left out
    between   two batch sizes mean and s are interpolated linearly, for twice as many runs as a submission has

A set whose own mean (again without the fastest and the slowest) is below the minimum is refused; between minimum and
mean its time is multiplied by mean / own mean.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from airank_fast.errors import UserError

RULESET = "4.0.0"
NUM_RUNS = {"resnet": 5, "bert": 10}
_UNITS = ("Epochs to converge", "samples to converge")


@dataclass(frozen=True)
class Point:
    """Convergence of the reference at a batch size: epochs of resnet, samples of bert."""

    benchmark: str
    batch_size: int
    mean: float
    stdev: float
    minimum: float
    interpolated: bool = False

    def scaling(self, submission_mean: float) -> float:
        """The factor of a submission's minutes, at least 1."""
        return max(1.0, self.mean / submission_mean) if submission_mean > 0 else math.inf


@dataclass(frozen=True)
class Verdict:
    """The comparison of a set of runs with the reference."""

    accepted: bool
    mean: float  # of the set, without the fastest and the slowest
    point: Point | None  # of the reference
    scaling: float
    reason: str


def olympic_mean(values: Iterable[float]) -> float:
    """The mean without the least and the greatest."""
    return statistics.fmean(sorted(values)[1:-1])


def reference_file(benchmark: str, ruleset: str = RULESET) -> Path | None:
    """The file of a benchmark's references in mlperf-logging; None if it is not installed or has none."""
    package = importlib.util.find_spec("mlperf_logging")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "rcp_checker" / f"training_{ruleset}" / f"rcps_{benchmark}.json"
        if path.is_file():
            return path
    return None


def read_points(path: str | os.PathLike, benchmark: str) -> list[Point]:
    """The unpruned points of a file in mlperf-logging's format, by batch size. UserError for another file."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8")).values()
        points = [_point(benchmark, entry) for entry in entries if entry["Benchmark"] == benchmark]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: must be reference convergence points, got {error!r}") from None
    return sorted(points, key=lambda point: point.batch_size)


def _point(benchmark: str, entry: dict) -> Point:
    epochs = entry[next((unit for unit in _UNITS if unit in entry), _UNITS[0])]
    mean, stdev = olympic_mean(epochs), statistics.pstdev(epochs)
    minimum = mean - _margin(benchmark, stdev, len(epochs) - 2)
    return Point(benchmark, entry["BS"], mean, stdev, minimum)


def _margin(benchmark: str, stdev: float, num_reference: int) -> float:
    num_submission = NUM_RUNS[benchmark] - 2
    t = student_quantile(num_reference + num_submission - 2)
    return t * stdev * math.sqrt(1 / num_reference + 1 / num_submission)


def interpolate(batch_size: int, low: Point, high: Point) -> Point:
    """The point between two others."""
    share = (batch_size - low.batch_size) / (high.batch_size - low.batch_size)
    mean = low.mean + share * (high.mean - low.mean)
    stdev = low.stdev + share * (high.stdev - low.stdev)
    margin = _margin(low.benchmark, stdev, 2 * NUM_RUNS[low.benchmark])
    return Point(low.benchmark, batch_size, mean, stdev, mean - margin, interpolated=True)


def prune(points: Sequence[Point]) -> list[Point]:
    """The points from the fastest on, without those above the line between their neighbours."""
    fastest = min(points, key=lambda point: point.mean)
    kept = [point for point in points if point.batch_size >= fastest.batch_size]
    at = 1
    while at < len(kept) - 1:
        if kept[at].mean > interpolate(kept[at].batch_size, kept[at - 1], kept[at + 1]).mean:
            del kept[at]  # as the official checker: the previous point is not tested again
        else:
            at += 1
    return kept


@cache
def points(benchmark: str, ruleset: str = RULESET) -> tuple[Point, ...] | None:
    """The pruned points of a benchmark (resnet, bert) from mlperf-logging; None without them."""
    path = reference_file(benchmark, ruleset)
    return tuple(prune(read_points(path, benchmark))) if path else None


def point(benchmark: str, batch_size: int, among: Sequence[Point] | None = None) -> Point | None:
    """The reference point for a batch size; None without references or above their largest batch size.

    Below the smallest batch size it is the smallest one's point.
    """
    among = points(benchmark) if among is None else among
    if not among or batch_size > among[-1].batch_size:
        return None
    high = next(point for point in among if point.batch_size >= batch_size)
    if high.batch_size == batch_size or high is among[0]:
        return high
    return interpolate(batch_size, among[among.index(high) - 1], high)


def compare(benchmark: str, batch_size: int, epochs: Sequence[float | None]) -> Verdict | None:
    """Compares a set of runs with the reference; None without references.

    `epochs` are those to converge of each run (BERT: samples), None for a run that did not converge.
    """
    if points(benchmark) is None:
        return None
    if sum(epoch is None for epoch in epochs) > 1 or len(epochs) < 3:
        return Verdict(False, math.inf, None, 1.0, "more runs that converged are required")
    mean = olympic_mean(math.inf if epoch is None else epoch for epoch in epochs)
    against = point(benchmark, batch_size)
    if against is None:
        reason = f"no reference at a batch of {batch_size} or above: one must be submitted"
        return Verdict(False, mean, None, 1.0, reason)
    accepted, scaling = mean >= against.minimum, against.scaling(mean)
    where = f"the {'interpolated ' if against.interpolated else ''}reference at a batch of {against.batch_size}"
    if not accepted:
        reason = f"faster than {where} allows"
    else:
        reason = f"faster than {where}: scaled" if scaling > 1 else f"no faster than {where}"
    return Verdict(accepted, mean, against, scaling, reason)


@cache
def student_quantile(degrees: int, probability: float = 0.95) -> float:
    """The quantile of Student's distribution for a probability above one half, by bisection."""
    low, high = 0.0, 1.0
    while student_probability(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_probability(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def student_probability(t: float, degrees: int) -> float:
    """P(T <= t) of Student's distribution with whole degrees of freedom (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan2(t, math.sqrt(degrees))
    cos2 = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    two_sided = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + two_sided / 2
