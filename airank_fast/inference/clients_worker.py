"""The process of one measurement by our own clients, under the same supervision as a LoadGen test.

    python -m airank_fast.inference.clients_worker REQUEST.json

The request's `extra` has: scenario, mode (accuracy, search or performance), profile, bound_s, is_quick, most_batch. Its
lines are those of airank_fast.inference.worker; the facts of a search are `batch`, the greatest one in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from airank_fast.inference import clients
from airank_fast.inference.clients import Clock, Probe, Queries
from airank_fast.inference.context import Context
from airank_fast.inference.measuring import scored
from airank_fast.inference.supervise import QUERIES
from airank_fast.inference.sut import infer
from airank_fast.inference.worker import serve

QUICK_REQUESTS = 64  # of a quick run: MLPerf Mobile's rapid one


class EngineSystem:
    """An engine and its samples as `clients.System`; counts the samples that were inferred."""

    def __init__(self, engine: Any, samples: Any, max_batch: int) -> None:
        self.max_batch = max_batch
        self.num_done = 0
        self._engine, self._samples = engine, samples
        self._loaded: set[int] = set()

    @property
    def num_samples(self) -> int:
        """Samples of the set."""
        return len(self._samples)

    def load(self, indices: Sequence[int]) -> None:
        """Have these samples, and no others, in memory."""
        wanted = set(indices)
        self._samples.unload(sorted(self._loaded - wanted))
        self._samples.load(sorted(wanted))
        self._loaded = wanted

    def infer(self, indices: Sequence[int]) -> list[Any]:
        """The output of each sample: what LoadGen's systems time as well."""
        outputs, _ = infer(self._engine, self._samples, indices)
        self.num_done += len(indices)
        return outputs


def measurement(context: Context) -> dict[str, Any]:
    """Run what the request asks for; returns the facts of the worker's last line."""
    extra = context.request.extra
    scenario, mode, bound_s = extra["scenario"], extra["mode"], extra["bound_s"]
    system = EngineSystem(context.engine, context.samples, context.request.max_batch)
    context.warm_up(context.sizes() if mode == "accuracy" or scenario == "online" else [system.max_batch])
    context.report("phase", name="test")
    with context.watched(lambda: {"issued": system.num_done + 1, "answered": system.num_done}):
        if mode == "search":
            most = min(extra["most_batch"], max(context.prepared_sizes, default=extra["most_batch"]))
            return {"batch": clients.max_batch(system, Clock(), bound_s, _on_probe(context, scenario), most)}
        context.report("test_start", scenario=scenario, mode=mode, settings=settings(context, system.num_samples))
        number, measured = _measure(context, system, scenario, mode)
    return _facts(context, scenario, mode, number, measured)


def settings(context: Context, num_samples: int) -> dict[str, Any]:
    """The settings of a measurement, with the names of a LoadGen test's where it has them."""
    extra = context.request.extra
    has_bound = extra["scenario"] in ("online", "max-batch")
    return {
        "scenario": extra["scenario"],
        "mode": extra["mode"],
        "profile": extra["profile"],
        "min_duration_s": 0.0,
        "max_duration_s": None,
        "min_queries": 1,
        "samples_per_query": context.request.max_batch if extra["scenario"] == "max-batch" else 1,
        "target_latency_s": extra["bound_s"] if has_bound else None,
        "target_qps": None,
        "expected_latency_s": None,
        "performance_count": min(num_samples, clients.NUM_LOADED),
        "threads": context.request.threads,
    }


def _measure(context: Context, system: EngineSystem, scenario: str, mode: str) -> tuple[int, Queries]:
    """(clients or samples of a batch, the measurement)."""
    is_quick, clock = context.request.extra["is_quick"], Clock()
    size, whole = system.max_batch, system.num_samples
    if mode == "accuracy":
        return size, clients.in_batches(size, system, clock, whole)
    if scenario == "online":
        number = min(whole, QUICK_REQUESTS) if is_quick else whole
        bound_s = context.request.extra["bound_s"]
        start = max((size for size, took in context.times.items() if 2 * took <= bound_s), default=1)
        return clients.online(system, clock, bound_s, _on_probe(context, scenario), number, start)
    if scenario == "latency":
        return 1, clients.in_batches(1, system, clock, QUICK_REQUESTS if is_quick else clients.NUM_SINGLE)
    if scenario == "max-batch":
        clients.in_batches(size, system, clock, size)  # warm-up
        return size, clients.in_batches(size, system, clock, size * clients.num_whole_batches(size, whole))
    if scenario == "flagperf":
        return size, clients.flagperf_pass(system, clock)
    return size, clients.in_batches(size, system, clock, whole)


def _facts(context: Context, scenario: str, mode: str, number: int, measured: Queries) -> dict[str, Any]:
    memory = context.memory_facts("run")  # before anything is judged
    stop = test_stop(scenario, mode, number, measured, context.request.extra["bound_s"])
    context.report("test_stop", **stop)
    context.report("phase", name="score")
    facts: dict[str, Any] = {"test_stop": stop, "memory": memory, "warm_up": sorted(context.times.items())}
    outputs = {
        index: output
        for indices, found in zip(measured.indices, measured.outputs, strict=True)
        for index, output in zip(indices, found, strict=True)
    }
    if mode == "accuracy":
        return facts | scored(context, outputs)
    columns = (measured.issued_s, measured.latency_s, measured.queue_s, measured.batch)
    np.savez(context.directory / QUERIES, rows=np.array(columns, np.float64).T)
    results = context.samples.results(outputs) if measured.num_samples == len(context.samples) == len(outputs) else None
    return {**facts, "results": None if results is None else _right_answers(measured, results)}


def _right_answers(measured: Queries, results: Sequence[int]) -> list[int]:
    """Of each request, how many of its samples were right."""
    if len(measured.latency_s) == len(measured.indices):
        return [sum(results[index] for index in indices) for indices in measured.indices]
    return [results[index] for indices in measured.indices for index in indices]


def test_stop(scenario: str, mode: str, number: int, measured: Queries, bound_s: float | None) -> dict[str, Any]:
    """The fields of the `test_stop` event. A bound counts for online and max-batch: every request must be within it."""
    has_bound = scenario in ("online", "max-batch") and mode != "accuracy"
    over = sum(took > bound_s for took in measured.latency_s) if has_bound and bound_s else 0
    reasons = []
    if over:
        of = "with one client" if scenario == "online" else f"of {number} samples"
        took = f"{over} of {len(measured.latency_s)} requests {of} took longer than {1000 * (bound_s or 0):g} ms"
        reasons.append(f"{took}, the longest {1000 * measured.longest_s:.4g} ms")
    return {
        "scenario": scenario,
        "mode": mode,
        "valid": not reasons,
        "reasons": reasons,
        "metric": {} if mode == "accuracy" else clients.figures(scenario, number, measured),
        "num_queries": len(measured.latency_s),
        "num_samples": measured.num_samples,
        "duration_s": measured.duration_s,
        "over_latency": over if has_bound else None,
        "early_stopping": None,
        "effective": {},
        "loadgen": None,
    }


def _on_probe(context: Context, scenario: str) -> Callable[[Probe], None]:
    def report(probe: Probe) -> None:
        context.report(
            "probe",
            scenario=scenario,
            purpose="search",
            target_qps=None,
            **{"concurrency" if scenario == "online" else "batch": probe.number},
            queries=probe.num_requests,
            over_latency=probe.num_over,
            p99_s=probe.p99_s,
            valid=not probe.num_over,
            duration_s=probe.duration_s,
        )

    return report


if __name__ == "__main__":
    serve(measurement)
