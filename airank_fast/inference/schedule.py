"""The times at which LoadGen issues the queries of its Server scenario, by its seed: from them its latencies count.

A callback may come late, as another thread runs or the machine is busy. LoadGen counts that as latency, and its log has
no times of single queries. Source: LoadGen's loadgen.cc (GenerateQueries, ScheduleDistribution) and libstdc++'s
exponential_distribution.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def server_schedule(qps: float, seed: int, num_queries: int) -> tuple[np.ndarray, int]:
    """(when each query is due, float64 [num_queries], seconds since the first; ns from the first to after the last).

    LoadGen logs the latter as generated_query_duration.
    """
    generator = np.random.MT19937()
    state: Any = np.random.RandomState(seed % 2**32).get_state(legacy=False)
    generator.state = state
    drawn = generator.random_raw(2 * num_queries).astype(np.float64).reshape(num_queries, 2)
    uniform = (drawn[:, 0] + drawn[:, 1] * 2.0**32) / 2.0**64
    gaps_ns = (-np.log(1.0 - uniform) / qps * 1e9).astype(np.int64)
    due_ns = np.concatenate([[0], np.cumsum(gaps_ns)])
    return due_ns[:-1] / 1e9, int(due_ns[-1])


def since_due(rows: np.ndarray, due_s: np.ndarray) -> np.ndarray:
    """The rows of sut.Records with issued_s, latency_s and queue_s counted from when each query was due.

    The test begins a moment before its first callback: by as much as the earliest callback seems to be early.
    """
    begin_s = float((rows[:, 0] - due_s).min())
    late_s = rows[:, 0] - due_s - begin_s
    counted = rows.copy()
    counted[:, 0] = due_s
    counted[:, 1] += late_s
    counted[:, 2] += late_s
    return counted
