"""Finds the greatest rate at which the Server scenario is valid, and the share of time that a system stood still."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airank_fast.rules import early_stopping

PRECISION = 0.02  # of the rate, between what passed and what was refused
MOST_STEPS = 20  # of doubling or halving: a factor of a million
CLEAR_SHARE = 0.1  # of late queries: no disturbance, so that the rate is not tried again
DEVIATIONS = 3.0  # of a Poisson number: one in a thousand is farther out
TRIES = 3  # of a rate, once another has passed
RATE_STEP = 0.98  # from a rate to the next one, where its whole run is not valid
PROBE_S, LONG_PROBE_S = 20.0, 60.0
PROBE_QUERIES = 4000  # with fewer, early stopping refuses systems that are several percent faster than they have to be
QUERIES_FACTOR = 1.5  # of the queries that early stopping needs with one late, at any rate


@dataclass(frozen=True)
class Verdict:
    """What a probe of the Server scenario at `qps` has shown; seconds, queries in a second."""

    qps: float
    valid: bool
    queries: int
    over_latency: int
    p99_s: float | None = None
    duration_s: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether so many queries were late that no disturbance explains it."""
        return not self.valid and self.over_latency > CLEAR_SHARE * self.queries

    def is_refuted(self, percentile: float) -> bool:
        """Whether more queries were late than chance makes of a system that is just fast enough."""
        expected = (1 - percentile) * self.queries
        return self.over_latency > expected + DEVIATIONS * expected**0.5 + 1


@dataclass(frozen=True)
class Found:
    """The greatest rate that passed and the smallest that was refused, both probed; None where there is none."""

    valid: float | None
    refused: float | None
    probes: tuple[Verdict, ...]

    def rates(self, count: int) -> list[float]:
        """Rates for the whole run: the greatest that passed, then lower ones that passed, each RATE_STEP lower or more.

        They go on in such steps where there are fewer than `count`.
        """
        found: list[float] = []
        for qps in sorted({probe.qps for probe in self.probes if probe.valid}, reverse=True):
            if not found or qps <= RATE_STEP * found[-1]:
                found.append(qps)
        while found and len(found) < count:
            found.append(RATE_STEP * found[-1])
        return found[:count]


def judge_probe(
    qps: float,
    queries: int,
    over_latency: int,
    *,
    percentile: float = 0.99,
    p99_s: float | None = None,
    duration_s: float | None = None,
) -> Verdict:
    """The verdict on a probe by early stopping, from its counts: a p99 within the bound is not enough."""
    valid = early_stopping.is_met(queries, over_latency, percentile)
    return Verdict(qps, valid, queries, over_latency, p99_s, duration_s)


def probe_seconds(qps: float, percentile: float = 0.99, at_most_s: float | None = None) -> float:
    """Seconds of a probe at a rate: 20, up to 60 for 4,000 queries, or `at_most_s`; more if early stopping needs it."""
    affordable = min(max(PROBE_S, PROBE_QUERIES / qps), at_most_s or LONG_PROBE_S)
    return max(affordable, QUERIES_FACTOR * early_stopping.required_queries(percentile, 1) / qps)


def find_qps(probe: Callable[[float], Verdict], start: float, percentile: float = 0.99) -> Found:
    """The greatest valid rate from a first guess: doubled or halved until it is bracketed, then bisected to 2 %.

    Once a rate has passed, one failure refuses no other: a rate is probed up to three times, and passes when one probe
    does, so that a disturbance on a shared machine does not lower the result for good. `valid` and `refused` were both
    probed; a rate between them was not.
    """
    search = _Search(probe, percentile)
    qps = start
    for _ in range(MOST_STEPS):
        passed = search.passes(qps)
        if search.valid is not None and search.refused is not None:
            break
        qps = qps * 2 if passed else qps / 2
    while search.valid is not None and search.refused is not None and search.refused > search.valid * (1 + PRECISION):
        search.passes(0.5 * (search.valid + search.refused))
    return Found(search.valid, search.refused, tuple(search.probes))


class _Search:
    def __init__(self, probe: Callable[[float], Verdict], percentile: float) -> None:
        self._probe, self._percentile = probe, percentile
        self.valid: float | None = None
        self.refused: float | None = None
        self.probes: list[Verdict] = []

    def passes(self, qps: float) -> bool:
        """Probe a rate until there is a verdict, and move the bracket."""
        tries: list[Verdict] = []
        while not tries or not self._is_decided(tries):
            tries.append(self._probe(qps))
        self.probes += tries
        has_passed = tries[-1].valid
        if has_passed:
            self.valid = qps if self.valid is None else max(self.valid, qps)
        else:
            self.refused = qps if self.refused is None else min(self.refused, qps)
        return has_passed

    def _is_decided(self, tries: Sequence[Verdict]) -> bool:
        refuted = sum(one.is_refuted(self._percentile) for one in tries)
        is_last = len(tries) == (1 if self.valid is None else TRIES)
        return tries[-1].valid or tries[-1].is_clear or refuted == 2 or is_last
