"""The size of the next batch: no deadline is missed that a smaller batch meets, no sample is lost, order is kept."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from airank_fast.inference.batcher import Waiting, best_batch, every_size, next_batch, predicted
from airank_fast.inference.simulation import poisson_schedule, serve

TIMES = st.dictionaries(st.sampled_from([1, 2, 3, 4, 8, 16]), st.floats(0.0005, 0.1), min_size=1, max_size=5)
WAITS = st.lists(st.floats(0, 0.2), min_size=0, max_size=24)
BOUND = st.floats(0.001, 0.3)
MAX_BATCH = st.integers(1, 20)
NOW = 10.0


def queue_of(waits) -> list[Waiting]:
    """Samples in the order of their issue, which was `waits` seconds before NOW."""
    return [Waiting(at, at, NOW - wait) for at, wait in enumerate(sorted(waits, reverse=True))]


def seconds_of(times, size: int) -> float:
    """As the batcher predicts them: a larger batch never ends before a smaller one."""
    return max(predicted(times, smaller) for smaller in range(1, size + 1))


@given(WAITS, TIMES, BOUND, MAX_BATCH)
def test_never_more_than_waits_or_fits_and_never_idle(waits, times, bound_s, max_batch):
    size = next_batch(queue_of(waits), NOW, times, bound_s, max_batch)
    assert 0 <= size <= min(len(waits), max_batch)
    assert (size == 0) == (not waits)


@given(WAITS, TIMES, BOUND, MAX_BATCH)
def test_no_deadline_is_missed_that_a_smaller_batch_meets(waits, times, bound_s, max_batch):
    queue = queue_of(waits)
    size = next_batch(queue, NOW, times, bound_s, max_batch)
    for at in range(size):
        deadline = queue[at].issued + bound_s
        is_met = NOW + seconds_of(times, size) <= deadline
        smaller_meets = any(NOW + seconds_of(times, smaller) <= deadline for smaller in range(at + 1, size))
        assert is_met or not smaller_meets


@given(WAITS, TIMES, BOUND, MAX_BATCH)
def test_the_next_size_up_would_miss_one_or_gain_nothing(waits, times, bound_s, max_batch):
    queue = queue_of(waits)
    size = next_batch(queue, NOW, times, bound_s, max_batch)
    if size in (0, len(queue), max_batch):
        return
    larger = size + 1
    late = [
        at
        for at in range(larger)
        if NOW + seconds_of(times, larger) > queue[at].issued + bound_s >= NOW + seconds_of(times, at + 1)
    ]
    limit = min(len(queue), max_batch)
    splits = any(
        seconds_of(times, size) + seconds_of(times, whole - size) <= seconds_of(times, whole)
        for whole in range(larger, limit + 1)
    )
    assert late or splits


@given(WAITS, TIMES, BOUND, MAX_BATCH)
def test_a_table_of_every_size_decides_the_same(waits, times, bound_s, max_batch):
    queue = queue_of(waits)
    table = every_size(times, max_batch)
    assert next_batch(queue, NOW, table, bound_s, max_batch) == next_batch(queue, NOW, times, bound_s, max_batch)


def test_by_hand():
    queue = queue_of([0.010, 0.004, 0.001, 0.0])
    gpu = {1: 0.004, 2: 0.0042, 4: 0.0045}
    assert next_batch(queue, NOW, gpu, 0.015, 8) == 4  # all four are in time
    assert next_batch(queue, NOW, gpu, 0.0143, 8) == 2  # the oldest has 4.3 ms left
    assert next_batch(queue, NOW, gpu, 0.0083, 8) == 2  # it is late whatever is done; the second has 4.3 ms
    assert next_batch(queue, NOW, gpu, 0.008, 8) == 4  # both are late whatever is done, the others are not
    assert next_batch(queue, NOW, gpu, 0.015, 3) == 3
    cpu = {1: 0.004, 2: 0.008, 4: 0.016}  # a batch gains nothing: one by one, each is answered as soon as it can be
    assert next_batch(queue, NOW, every_size(cpu, 8, is_padded=False), 1.0, 8) == 1
    assert next_batch(queue, NOW, cpu, 1.0, 8) == 2  # two and two, as three would run as four
    assert next_batch([], NOW, gpu, 0.015, 8) == 0


def test_padding_that_costs_more_than_a_second_batch_is_avoided():
    padded = {1: 0.001, 4: 0.003, 8: 0.006}
    assert next_batch(queue_of([0.0] * 5), NOW, padded, 1.0, 8) in (1, 4)  # 5 would run as 8: 6 ms, not 4
    assert next_batch(queue_of([0.0] * 8), NOW, {1: 0.001, 4: 0.003, 8: 0.004}, 1.0, 8) == 8


def test_the_time_of_a_size():
    times = {1: 0.002, 4: 0.003, 8: 0.005}
    assert [predicted(times, size) for size in (1, 2, 4, 5, 8)] == [0.002, 0.003, 0.003, 0.005, 0.005]
    assert math.isclose(predicted(times, 16), 0.010)
    table = every_size(times, 10, is_padded=False)
    assert [round(table[size], 6) for size in (1, 2, 4, 6, 8, 10)] == [0.002, 0.002333, 0.003, 0.004, 0.005, 0.00625]
    assert best_batch(times) == 8
    assert best_batch({1: 0.004, 2: 0.008, 4: 0.016}) == 1  # no faster, and more memory
    assert best_batch({1: 0.0, 2: 0.0}) == 2


@given(st.integers(0, 1000), TIMES, BOUND, MAX_BATCH)
def test_every_sample_is_served_once_in_the_order_of_its_arrival(seed, times, bound_s, max_batch):
    arrivals = poisson_schedule(100.0, 0.5, seed)
    served = serve(arrivals, times, bound_s, max_batch)
    assert len(served.latencies_s) == len(arrivals) == sum(served.batches)
    done = [arrival + latency for arrival, latency in zip(arrivals, served.latencies_s, strict=True)]
    assert all(first <= second + 1e-12 for first, second in pairwise(done))
    assert all(0 <= queue <= latency for queue, latency in zip(served.queues_s, served.latencies_s, strict=True))
    assert max(served.batches, default=0) <= max_batch
