"""A LoadGen test as a worker runs it: warm-up, the system under test, the test, its figures and predictions."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from airank_fast.errors import require
from airank_fast.inference import batcher, hints
from airank_fast.inference.context import Context
from airank_fast.inference.loadgen import run_test
from airank_fast.inference.schedule import server_schedule, since_due
from airank_fast.inference.settings import TestSettings
from airank_fast.inference.supervise import QUERIES
from airank_fast.inference.sut import OfflineSut, ServerSut, StreamSut, Sut, span_s
from airank_fast.inference.verdict import Outcome

FAILED_TEST_S = 2.0  # for LoadGen to end a test that has failed; Server's would go on until its last query is due
SWITCH_S = 0.0005  # a callback waits so long for another thread of Python, 5 ms by default
PREDICTIONS = "predictions.npz"


class TestFailed(Exception):
    """A test that a failure has ended; the message is the failure."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.failure)
        self.is_disk_full = outcome.is_disk_full


def loadgen_test(context: Context) -> dict[str, Any]:
    """Run the LoadGen test of the request.

    Returns engine, load_s, export_s, first_inference_s, warm_up, settings (completed), test_stop (the event's
    fields), memory; of an accuracy run quality, correct, counted, hints (settings of a performance run) and
    predictions, the name of their file.

    Raises:
        TestFailed: an exception in a callback, a sample that was lost or answered twice, a log that is not whole.
        UserError: bad settings.
    """
    request = context.request
    require(request.settings is not None, "settings", "those of a LoadGen test", "none")
    assert request.settings is not None
    settings = _told(context, request.settings)
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
        **(scored(context, sut.outputs or {}) if settings.is_accuracy else {}),
        "hints": _hints(context, settings, rows) if settings.is_accuracy else {},
    }


def _hints(context: Context, settings: TestSettings, rows: np.ndarray) -> dict[str, float]:
    """What the performance run is told; {} of Offline's samples that are alike, as that run can measure their rate."""
    is_measured_there = settings.scenario == "offline" and context.samples.lengths() is None
    return {} if is_measured_there else hints.of_accuracy_run(settings, rows)


def _told(context: Context, settings: TestSettings) -> TestSettings:
    """Warm up what the test needs, and fill in what LoadGen has to be told of the system's speed."""
    scenario, max_batch = settings.scenario, context.request.max_batch
    if scenario in hints.STREAMS:
        context.warm_up([min(settings.samples_per_query, max_batch)])
    else:
        bound_s = settings.target_latency_s or context.request.bound_s
        is_known = scenario == "offline" and set(context.sizes()) <= context.times.keys()
        sizes = [batcher.best_batch(context.times)] if is_known else context.sizes()
        context.warm_up(sizes, bound_s if scenario == "server" else None)
    if scenario == "offline" and not settings.is_accuracy and settings.target_qps is None:
        rate = context.rate(batcher.best_batch(context.times), hints.probe_s(settings.min_duration_s))
        return dataclasses.replace(settings, target_qps=hints.OFFLINE_MARGIN * rate)
    return hints.completed(settings, context.times, max_batch)


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


def scored(context: Context, outputs: Mapping[int, Any]) -> dict[str, Any]:
    """Save the predictions of an accuracy run; their quality, correct and counted, and the name of the file."""
    quality, counts = context.samples.score(outputs)
    save_predictions(context.directory / PREDICTIONS, context.samples, outputs)
    return {"quality": quality, **counts, "predictions": PREDICTIONS}


def save_predictions(path: Path, samples: Any, outputs: Mapping[int, Any]) -> None:
    """Write outputs, by sample, as arrays in an .npz file.

    index int64 [n], ascending; response float32, all of them, of sample i from offset[i] to offset[i + 1]; output
    float32 [n, ...] where all outputs are numbers of the same shape; result int8 [n], 1 for each sample that is right,
    where the metric says that.
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
    results = samples.results(outputs)
    if results is not None:
        arrays["result"] = np.array(results, np.int8)
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
