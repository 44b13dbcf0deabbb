"""Systems in virtual time: a server with known batch times under a Poisson schedule, and a stream of single queries.

What a search or a percentile should find is known here, and takes no time to wait for.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from airank_fast.inference.batcher import Waiting, every_size, next_batch
from airank_fast.inference.search import Verdict, judge_probe, probe_seconds


@dataclass
class Served:
    """What a simulated server did, in seconds: one entry a query in the order of arrival; of `batches`, one a batch."""

    latencies_s: list[float] = field(default_factory=list)
    queues_s: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


def poisson_schedule(qps: float, duration_s: float, seed: int) -> list[float]:
    """Arrival times within a duration, of a Poisson process."""
    numbers = random.Random(seed)
    arrivals, now = [], numbers.expovariate(qps)
    while now < duration_s:
        arrivals.append(now)
        now += numbers.expovariate(qps)
    return arrivals


def serve(
    arrivals: Sequence[float],
    times: Mapping[int, float],
    bound_s: float,
    max_batch: int,
    stalls: Sequence[tuple[float, float]] = (),
) -> Served:
    """Serve ascending arrivals, in batches of `next_batch`, by an engine that takes exactly `times` for each size.

    stalls: (begin, seconds), ascending; a batch that begins before the end of one ends so much later.
    """
    table = every_size(times, max_batch)
    waiting: deque[Waiting] = deque()
    pauses = deque(stalls)
    served = Served()
    now, coming = 0.0, 0
    while coming < len(arrivals) or waiting:
        if not waiting:
            now = max(now, arrivals[coming])
        while coming < len(arrivals) and arrivals[coming] <= now:
            waiting.append(Waiting(coming, coming, arrivals[coming]))
            coming += 1
        size = next_batch(waiting, now, table, bound_s, max_batch)
        done = now + table[size]
        while pauses and pauses[0][0] < done:
            done += pauses.popleft()[1]
        for _ in range(size):
            sample = waiting.popleft()
            served.latencies_s.append(done - sample.issued)
            served.queues_s.append(now - sample.issued)
        served.batches.append(size)
        now = done
    return served


def probe(
    qps: float, times: Mapping[int, float], bound_s: float, max_batch: int, seed: int, duration_s: float | None = None
) -> Verdict:
    """The verdict on a simulated server at a rate, over as long as a probe lasts."""
    seconds = duration_s or probe_seconds(qps)
    served = serve(poisson_schedule(qps, seconds, seed), times, bound_s, max_batch)
    over = sum(latency > bound_s for latency in served.latencies_s)
    return judge_probe(qps, len(served.latencies_s), over, duration_s=seconds)


def single_stream(latency_s: Callable[[int], float], num_queries: int) -> tuple[list[float], float]:
    """(the latency of each query, the duration) of a closed loop of queries, of which number i takes `latency_s(i)`."""
    latencies = [latency_s(query) for query in range(num_queries)]
    return latencies, sum(latencies)
