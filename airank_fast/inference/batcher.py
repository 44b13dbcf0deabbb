"""Sizes the next batch of the Server scenario from the queue, the clock and the measured time of each batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np


class Waiting(NamedTuple):
    """A sample that was issued and is not served yet.

    sample_id: LoadGen's. sample_index: in the data set. issued: when, in seconds of `next_batch`'s clock.
    """

    sample_id: int
    sample_index: int
    issued: float


def predicted(times: Mapping[int, float], size: int) -> float:
    """Seconds of a batch of `size` samples: those of the smallest measured size that holds it.

    Beyond the largest measured size, in proportion. `times` is {batch size: seconds} and not empty.
    """
    if size in times:
        return times[size]
    holding = [known for known in times if known > size]
    if holding:
        return times[min(holding)]
    largest = max(times)
    return times[largest] * size / largest


def every_size(times: Mapping[int, float], max_batch: int, *, is_padded: bool = True) -> dict[int, float]:
    """The predicted seconds of each size up to `max_batch`: a table in which `next_batch` looks up and no more.

    An engine that pads a batch to a size that it was prepared for takes that size's time; for another, a size between
    two measured ones is interpolated.
    """
    known = sorted(times)
    table = {}
    for size in range(1, max_batch + 1):
        table[size] = predicted(times, size)
        if not is_padded and known[0] < size < known[-1]:
            table[size] = float(np.interp(size, known, [times[one] for one in known]))
    return table


def next_batch(queue: Sequence[Waiting], now: float, times: Mapping[int, float], bound_s: float, max_batch: int) -> int:
    """How many samples, from the front of the queue, the idle engine serves now; 0 of an empty queue alone.

    A sample's deadline is `bound_s` after it was issued. The size is the largest that makes no sample late that a
    smaller batch would serve in time; samples that are late whatever is done do not count. Where two batches, one after
    the other, would serve as many samples no later than one, it is the first of the two. The engine never waits for
    further samples: those that come meanwhile are in the next batch.
    """
    if len(queue) == 1 or max_batch == 1:
        return min(len(queue), 1)
    seconds = [0.0]  # of each size; a larger batch never ends before a smaller one
    earliest = inf  # deadline, of the samples that can be in time
    for size in range(1, min(len(queue), max_batch) + 1):
        longest = max(seconds[-1], predicted(times, size))
        deadline = queue[size - 1].issued + bound_s
        if now + longest <= deadline:
            earliest = min(earliest, deadline)
        if now + longest > earliest:
            break
        seconds.append(longest)
    largest = len(seconds) - 1
    first = min(range(1, largest), key=lambda size: seconds[size] + seconds[largest - size], default=largest)
    is_split = first < largest and seconds[first] + seconds[largest - first] <= seconds[largest]
    return first if is_split else largest


def best_batch(times: Mapping[int, float]) -> int:
    """The batch size of the highest measured rate; of sizes within 1 % of it the smallest."""
    rates = {size: size / max(seconds, 1e-12) for size, seconds in times.items()}
    return min(size for size, rate in rates.items() if rate >= 0.99 * max(rates.values()))
