"""AI-Rank's and FlagPerf's own ways to measure, without LoadGen: clients in a closed loop, single samples, batches.

All of it runs in one thread over a `System`, so that no other thread of Python disturbs what is measured:

    online     C clients with one sample a request; each sends the next one as soon as its answer is there. What waits
               is one batch, up to the system's greatest. C is doubled, then bisected; every request must be within the
               bound.
    latency    1,000 samples, one after the other.
    max-batch  batches of the greatest size of which every inference is within the bound.
    offline    the whole set at once, in the system's greatest batches.
    flagperf   the whole set, read from the data set under the clock (p_infer_whole); the engine alone (p_infer_core).

Samples are read into memory while the clock is paused, but for FlagPerf's: AI-Rank's texts leave resizing and padding
untimed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from airank_fast.record.inference_metrics import loadgen_percentile
from airank_fast.record.metrics import percentile

NUM_SINGLE = 1000  # AI-Rank docs/software/inference_mobile.md, 时延: the 90th percentile of 1,000 inferences
NUM_LOADED = 1024  # samples in memory at a time
MOST_CLIENTS = MOST_BATCH = 1024
PROBE_REQUESTS = 200  # of a number of clients that is only tried, at least; what counts is measured over the whole set
PROBE_BATCHES = 3
TRIES = 2  # of a number that is only tried
CLEARLY_LATE = 0.25  # share of requests: more than one interruption by another program
FINAL_SHARES = (1.0, 0.9, 0.75, 0.5)  # of the number that was found, until one holds in the measurement that counts


class System(Protocol):
    """An engine with its samples."""

    @property
    def num_samples(self) -> int: ...
    @property
    def max_batch(self) -> int: ...
    def load(self, indices: Sequence[int]) -> None:
        """Have these samples, and no others, in memory."""

    def infer(self, indices: Sequence[int]) -> Any:
        """The outputs for a batch of samples in memory, finished when it returns."""


class Clock:
    """A clock that can be paused; `read` gives seconds (default: the monotonic clock)."""

    def __init__(self, read: Callable[[], float] = time.perf_counter) -> None:
        self._read = read
        self._paused_s = 0.0

    def now(self) -> float:
        """Seconds, without those of pauses."""
        return self._read() - self._paused_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The seconds within do not count."""
        begin = self._read()
        try:
            yield
        finally:
            self._paused_s += self._read() - begin


@dataclass
class Queries:
    """The requests of a measurement, in the order of their answers. Times in seconds from its start.

    queue_s is the part of latency_s before the engine began; `batch` the size of the engine's batch that the request
    was in, or was. `indices` and `outputs` have an entry for each batch of the engine.
    """

    issued_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    queue_s: list[float] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    indices: list[list[int]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def add(self, issued_s: float, begin_s: float, done_s: float, batch: int) -> None:
        """A request with the moments of its issue, of its inference and of its answer."""
        self.issued_s.append(issued_s)
        self.queue_s.append(begin_s - issued_s)
        self.latency_s.append(done_s - issued_s)
        self.batch.append(batch)

    @property
    def longest_s(self) -> float:
        """The latency of the slowest request."""
        return max(self.latency_s)

    @property
    def duration_s(self) -> float:
        """From the start to the last answer."""
        return max(issued + took for issued, took in zip(self.issued_s, self.latency_s, strict=True))

    @property
    def num_samples(self) -> int:
        """Samples that were inferred."""
        return sum(map(len, self.indices))


class Turns:
    """The samples of the set one after the other, over and over; the next `NUM_LOADED` of them are in memory."""

    def __init__(self, system: System, clock: Clock) -> None:
        self._system, self._clock = system, clock
        self._next = 0
        self._loaded: frozenset[int] = frozenset()
        self._load([0])

    def take(self, number: int) -> list[int]:
        """The next indices."""
        taken = [(self._next + step) % self._system.num_samples for step in range(number)]
        self._next = (self._next + number) % self._system.num_samples
        return taken

    def infer(self, indices: list[int]) -> Any:
        """The outputs for these samples; those that are not in memory are read while the clock is paused."""
        if not self._loaded.issuperset(indices):
            self._load(indices)
        return self._system.infer(indices)

    def _load(self, indices: list[int]) -> None:
        count = self._system.num_samples
        following = [(indices[-1] + step) % count for step in range(min(NUM_LOADED, count))]
        wanted = list(dict.fromkeys([*indices, *following]))
        with self._clock.paused():
            self._system.load(wanted)
        self._loaded = frozenset(wanted)


def online_at(concurrency: int, system: System, clock: Clock, num_requests: int) -> Queries:
    """`num_requests` requests of `concurrency` clients in a closed loop."""
    turns, queries = Turns(system, clock), Queries()
    start_s = clock.now()
    waiting = deque((index, 0.0) for index in turns.take(min(concurrency, num_requests)))
    num_left = num_requests - len(waiting)
    while waiting:
        taken = [waiting.popleft() for _ in range(min(len(waiting), system.max_batch))]
        indices = [index for index, _ in taken]
        begin_s = clock.now() - start_s
        queries.outputs.append(turns.infer(indices))
        done_s = clock.now() - start_s
        queries.indices.append(indices)
        for _, issued_s in taken:
            queries.add(issued_s, begin_s, done_s, len(taken))
        num_next = min(len(taken), num_left)
        num_left -= num_next
        waiting.extend((index, done_s) for index in turns.take(num_next))
    return queries


def in_batches(size: int, system: System, clock: Clock, num_samples: int) -> Queries:
    """`num_samples` samples in batches of `size`, one after the other. A request is a batch; the last may be small."""
    turns, queries = Turns(system, clock), Queries()
    start_s = clock.now()
    for first in range(0, num_samples, size):
        indices = turns.take(min(size, num_samples - first))
        begin_s = clock.now() - start_s
        queries.outputs.append(turns.infer(indices))
        queries.add(begin_s, begin_s, clock.now() - start_s, len(indices))
        queries.indices.append(indices)
    return queries


def flagperf_pass(system: System, clock: Clock) -> Queries:
    """The whole set in the system's greatest batches; a request is a batch, and its latency the engine's time.

    The duration has the reading of the data set in it.
    """
    queries = Queries()
    start_s = clock.now()
    for first in range(0, system.num_samples, system.max_batch):
        indices = list(range(first, min(first + system.max_batch, system.num_samples)))
        system.load(indices)
        begin_s = clock.now() - start_s
        queries.outputs.append(system.infer(indices))
        queries.add(begin_s, begin_s, clock.now() - start_s, len(indices))
        queries.indices.append(indices)
    return queries


def greatest(holds: Callable[[int], bool], most: int, start: int = 1) -> int:
    """The greatest number up to `most` for which `holds`, by doubling from `start`, then bisection; 0 where none."""
    low, high = 0, min(start, most)
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Probe:
    """A number of clients, or a size of batches, that was tried: its requests, and how many were too late."""

    number: int
    num_requests: int
    num_over: int
    p99_s: float
    duration_s: float


def in_time(number: int, measured: Queries, bound_s: float, on_probe: Callable[[Probe], None]) -> bool:
    """Whether every request was within the bound; reports the attempt."""
    num_over = sum(took > bound_s for took in measured.latency_s)
    p99_s = loadgen_percentile(sorted(measured.latency_s), 0.99) or 0.0
    on_probe(Probe(number, len(measured.latency_s), num_over, p99_s, measured.duration_s))
    return not num_over


def holds_at(number: int, measure: Callable[[], Queries], bound_s: float, on_probe: Callable[[Probe], None]) -> bool:
    """Whether every request of a measurement is within the bound; one that fails is tried once more.

    One interruption by another program is no verdict. Where a quarter of the requests are late, it was none.
    """
    for _ in range(TRIES):
        measured = measure()
        if in_time(number, measured, bound_s, on_probe):
            return True
        if sum(took > bound_s for took in measured.latency_s) > CLEARLY_LATE * len(measured.latency_s):
            return False
    return False


def online(
    system: System,
    clock: Clock,
    bound_s: float,
    on_probe: Callable[[Probe], None],
    num_requests: int | None = None,
    start: int = 1,
) -> tuple[int, Queries]:
    """The greatest number of clients whose every request is within the bound, and its measurement; tries `start` first.

    The measurement is over `num_requests` (default: the whole set). Where not even one client's requests are in time,
    it is that of one client.
    """
    whole = num_requests or system.num_samples

    def holds(concurrency: int) -> bool:
        number = min(whole, max(PROBE_REQUESTS, 8 * concurrency))
        return holds_at(concurrency, lambda: online_at(concurrency, system, clock, number), bound_s, on_probe)

    found = greatest(holds, min(MOST_CLIENTS, whole), start)
    for concurrency in final_numbers(found):
        measured = online_at(concurrency, system, clock, whole)
        if in_time(concurrency, measured, bound_s, on_probe):
            break
    return concurrency, measured


def final_numbers(found: int) -> list[int]:
    """The numbers that a last measurement tries, in their order."""
    return list(dict.fromkeys(max(1, int(share * found)) for share in FINAL_SHARES))


def max_batch(
    system: System, clock: Clock, bound_s: float, on_probe: Callable[[Probe], None], most: int = MOST_BATCH
) -> int:
    """The greatest batch whose every inference is within the bound; 0 where not even one sample's is.

    It is found with a few batches of each size, and holds, or one that is smaller by a share, with as many as the
    measurement that counts. Its memory is that of a process that has seen no larger one: another one measures it.
    """

    def holds(size: int) -> bool:
        in_batches(size, system, clock, size)  # warm-up
        measure = lambda: in_batches(size, system, clock, PROBE_BATCHES * size)  # noqa: E731
        return holds_at(size, measure, bound_s, on_probe)

    found = greatest(holds, most)
    for size in final_numbers(found) if found else ():
        whole = size * num_whole_batches(size, system.num_samples)
        if in_time(size, in_batches(size, system, clock, whole), bound_s, on_probe):
            return size
    return min(found, 1)


def num_whole_batches(size: int, num_samples: int) -> int:
    """Batches of the measurement of a greatest batch: those of 1,000 samples or of the whole set, at least three."""
    return max(PROBE_BATCHES, min(NUM_SINGLE, num_samples) // size)


def figures(scenario: str, number: int, measured: Queries) -> dict[str, float]:
    """The `metric` of a test_stop. `number`: clients, or samples of a batch."""
    per_s = measured.num_samples / measured.duration_s
    if scenario == "latency":
        p90_s = percentile(sorted(measured.latency_s), 90)
        assert p90_s is not None
        return {"latency_p90_s": p90_s}
    if scenario == "online":
        return {"concurrency": number, "samples_per_s": per_s, "max_latency_s": measured.longest_s}
    if scenario == "max-batch":
        return {"batch": number, "latency_s": measured.longest_s, "samples_per_s": per_s}
    if scenario == "flagperf":
        return {"p_infer_whole": per_s, "p_infer_core": measured.num_samples / sum(measured.latency_s)}
    return {"samples_per_s": per_s}
