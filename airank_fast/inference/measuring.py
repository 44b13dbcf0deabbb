"""A LoadGen test as a worker runs it: hints from a probe, the system under test, the test, figures and predictions."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from airank_fast.errors import require
from airank_fast.inference import batcher
from airank_fast.inference.context import Context
from airank_fast.inference.loadgen import run_test
from airank_fast.inference.schedule import server_schedule, since_due
from airank_fast.inference.settings import TestSettings
from airank_fast.inference.supervise import QUERIES
from airank_fast.inference.sut import OfflineSut, ServerSut, StreamSut, Sut, infer, span_s
from airank_fast.inference.verdict import Outcome

FAILED_TEST_S = 2.0  # for LoadGen to end a test that has failed; Server's would go on until its last query is due
SWITCH_S = 0.0005  # a callback waits so long for another thread of Python, 5 ms by default
MOST_QUERIES = 1_000_000
PREDICTIONS = "predictions.npz"


class TestFailed(Exception):
    """A test that a failure has ended; the message is the failure."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.failure)
        self.is_disk_full = outcome.is_disk_full


def loadgen_test(context: Context) -> dict[str, Any]:
    """Run the LoadGen test of the request.

    Returns engine, load_s, export_s, first_inference_s, warm_up, settings (with the hints), test_stop (the event's
    fields), memory; of an accuracy run quality, correct, counted and predictions, the name of their file.

    Raises:
        TestFailed: an exception in a callback, a sample that was lost or answered twice, a log that is not whole.
        UserError: bad settings.
    """
    request = context.request
    require(request.settings is not None, "settings", "those of a LoadGen test", "none")
    assert request.settings is not None
    settings = _with_hints(context, request.settings)
    settings.check()
    sut = _system(context, settings)
    context.report("phase", name="test")
    context.report("test_start", scenario=settings.scenario, mode=settings.mode, settings=settings.as_json())
    outcome = _run(context, settings, sut)
    if outcome.failure is not None:
        raise TestFailed(outcome)
    rows = _rows(settings, sut, outcome)
    stop = stop_fields(settings, rows, outcome, sut)
    stop["memory"] = context.memory_facts("run")
    context.report("test_stop", **stop)
    context.report("phase", name="score")
    if not settings.is_accuracy:
        np.savez(context.directory / QUERIES, rows=rows)
    return {
        "warm_up": sorted(context.times.items()),
        "settings": settings.as_json(),
        "test_stop": stop,
        "memory": stop["memory"],
        "loadgen": stop["loadgen"],
        "effective": outcome.effective,
        **(_score(context, sut.outputs or {}) if settings.is_accuracy else {}),
    }


def _with_hints(context: Context, settings: TestSettings) -> TestSettings:
    """Warm up, and fill in what LoadGen has to be told of the system's speed where the settings lack it.

    LoadGen makes its queries ahead: for twice the duration at the expected latency, for 1.1 times the duration at the
    expected rate of Offline. The expected latency is from the fastest of the probe's batches, so that it does not run
    out of queries where other programs disturbed the probe and not the test. Of Offline, which lasts as long as its
    queries, it is told the median rate; a run that ends too early begins again (`scenarios.corrected`).
    """
    scenario, bound_s = settings.scenario, settings.target_latency_s or context.request.bound_s
    if scenario in ("singlestream", "multistream"):
        size = min(settings.samples_per_query, context.request.max_batch)
        context.warm_up([size])
        if settings.is_accuracy or settings.expected_latency_s is not None:
            return settings
        latency_s = _probed(context, scenario, size, 0.0) * -(-settings.samples_per_query // size)
        return dataclasses.replace(settings, expected_latency_s=expected_latency(latency_s, settings.min_duration_s))
    context.warm_up(context.sizes(), bound_s if scenario == "server" else None)
    if settings.target_qps is not None or (settings.is_accuracy and scenario == "offline"):
        return settings
    fitting = {size: s for size, s in context.times.items() if bound_s is None or s <= 0.5 * bound_s}
    size = batcher.best_batch(fitting) if fitting else min(context.times)
    if scenario == "offline":
        return dataclasses.replace(settings, target_qps=size / _probed(context, scenario, size, 0.5))
    return dataclasses.replace(settings, target_qps=0.5 * size / _probed(context, scenario, size, 0.1))


def expected_latency(fastest_s: float, duration_s: float) -> float:
    """The expected latency to tell LoadGen, which makes 2 x duration / expected latency queries ahead.

    They suffice for a system that is five times as fast in the test as in the probe, as after heavy disturbance; where
    that would be more than a million queries, 355 bytes each, for one that is 2.5 times as fast.
    """
    return max(0.4 * fastest_s, min(0.8 * fastest_s, 2 * duration_s / MOST_QUERIES))


def _probed(context: Context, scenario: str, size: int, quantile: float) -> float:
    """Seconds of a batch, a quantile of those within `hint_s`; without a probe, as in the warm-up."""
    duration_s = context.request.hint_s
    if duration_s <= 0:
        return context.times[size]
    context.report("phase", name="hint")
    seconds: list[float] = []
    with context.loaded(size) as indices:
        begin = time.perf_counter()
        while not seconds or time.perf_counter() - begin < duration_s:
            started = time.perf_counter()
            infer(context.engine, context.samples, indices)
            seconds.append(time.perf_counter() - started)
    found_s = float(np.quantile(seconds, quantile))
    context.report(
        "probe",
        scenario=scenario,
        purpose="hint",
        target_qps=size / found_s,
        queries=len(seconds),
        over_latency=0,
        p99_s=sorted(seconds)[int(0.99 * len(seconds))],
        valid=True,
        duration_s=time.perf_counter() - begin,
    )
    return found_s


def _system(context: Context, settings: TestSettings) -> Sut:
    engine, samples, max_batch = context.engine, context.samples, context.request.max_batch
    keeps = settings.is_accuracy
    if settings.scenario == "server":
        sys.setswitchinterval(SWITCH_S)
        assert settings.target_latency_s is not None
        bound_s = settings.target_latency_s
        largest = min(max_batch, max(context.times))
        times = batcher.every_size(context.times, largest, is_padded=bool(context.prepared_sizes))
        return ServerSut(engine, samples, max_batch=largest, times=times, bound_s=bound_s, keeps_outputs=keeps)
    if settings.scenario == "offline":
        return OfflineSut(engine, samples, max_batch=batcher.best_batch(context.times), keeps_outputs=keeps)
    return StreamSut(engine, samples, max_batch=max_batch, keeps_outputs=keeps)


def _run(context: Context, settings: TestSettings, sut: Sut) -> Outcome:
    ledger = sut.ledger

    def counts() -> dict[str, Any]:
        return {"issued": ledger.issued, "answered": ledger.answered, "oldest": ledger.oldest()}

    def end_failed_test() -> None:
        sut.has_failed.wait()
        if not is_over.wait(FAILED_TEST_S):
            context.report("error", reason="exception", message=sut.failure)
            os._exit(1)

    is_over = threading.Event()
    threading.Thread(target=end_failed_test, name="failed test", daemon=True).start()
    gc.collect()
    gc.freeze()  # no collection goes through what is loaded
    with context.watched(counts):
        try:
            return run_test(settings, sut, context.samples, context.directory)
        finally:
            is_over.set()


def _rows(settings: TestSettings, sut: Sut, outcome: Outcome) -> np.ndarray:
    """The test's queries; Server's latencies count from when a query was due, as LoadGen's do.

    They count from its callback where LoadGen's schedule is not the one that is known here.
    """
    rows, (count, duration_ns) = sut.records.rows(), outcome.generated
    if settings.scenario != "server" or settings.is_accuracy or not 0 < len(rows) <= count:
        return rows
    assert settings.target_qps is not None
    due_s, due_ns = server_schedule(settings.target_qps, settings.seeds[2], count)
    return since_due(rows, due_s[: len(rows)]) if abs(due_ns - duration_ns) <= count else rows


def stop_fields(settings: TestSettings, rows: np.ndarray, outcome: Outcome, sut: Sut) -> dict[str, Any]:
    """The fields of a LoadGen test's `test_stop` event, without its memory; `rows` as of sut.Records."""
    result, percentile = outcome.result, settings.percentile
    key = {"singlestream": "early_stopping_latency_ss", "multistream": "early_stopping_latency_ms"}
    estimate_ns = result.get(key.get(settings.scenario, ""), 0)
    early = {"percentile": percentile, "met": result.get("early_stopping_met"), "estimate_s": estimate_ns / 1e9 or None}
    has_early = percentile is not None and not settings.is_accuracy
    return {
        "scenario": settings.scenario,
        "mode": settings.mode,
        "valid": outcome.is_valid,
        "reasons": list(outcome.reasons),
        "metric": {} if settings.is_accuracy else outcome.metric(settings.scenario),
        "num_queries": sut.num_queries,
        "num_samples": sut.ledger.answered,
        "duration_s": span_s(rows),
        "over_latency": result.get("result_overlatency_query_count", 0),
        "early_stopping": early if has_early else None,
        "effective": outcome.effective,
        "loadgen": {"version": outcome.version, "directory": None},
    }


def _score(context: Context, outputs: Mapping[int, Any]) -> dict[str, Any]:
    quality, counts = context.samples.score(outputs)
    save_predictions(context.directory / PREDICTIONS, context.samples, outputs)
    return {"quality": quality, **counts, "predictions": PREDICTIONS}


def save_predictions(path: Path, samples: Any, outputs: Mapping[int, Any]) -> None:
    """Write outputs, by sample, as arrays in an .npz file.

    index int64 [n], ascending; response float32, all of them, of sample i from offset[i] to offset[i + 1]; output
    float32 [n, ...] where all outputs are numbers of the same shape.
    """
    indices = sorted(outputs)
    responses = [np.frombuffer(samples.response(outputs[index]), "<f4") for index in indices]
    offset = np.cumsum([0, *map(len, responses)], dtype=np.int64)
    arrays: dict[str, Any] = {
        "index": np.array(indices, np.int64),
        "response": np.concatenate([np.empty(0, np.float32), *responses]),
        "offset": offset,
    }
    stacked = _stacked([outputs[index] for index in indices])
    if stacked is not None:
        arrays["output"] = stacked
    np.savez(path, **arrays)


def _stacked(outputs: Sequence[Any]) -> np.ndarray | None:
    """The outputs as one float32 array; None for objects, and for arrays of different shapes."""
    arrays = []
    for output in outputs:
        if not hasattr(output, "shape"):
            return None
        arrays.append(np.asarray(output.float() if hasattr(output, "float") else output, np.float32))
    same = arrays and all(array.shape == arrays[0].shape for array in arrays)
    return np.stack(arrays) if same else None
