"""Judges MLPerf's compliance tests against the accuracy and the performance run of the same scenario.

TEST01 runs for performance and logs some answers: each must be the accuracy run's. TEST04 issues one sample again and
again: a system that remembers answers is faster then. TEST05 (v4.0) has other seeds. How near the speed must be is in
airank_fast/rules/mlperf_inference/compliance.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from airank_fast.record.formats.loadgen import ACCURACY, read_accuracy
from airank_fast.record.lines import Lines
from airank_fast.rules.mlperf_inference.compliance import passes
from airank_fast.rules.mlperf_inference.rules import SCENARIOS

_RESULTS = {  # the figure of a scenario, and its factor in LoadGen's log, where latencies are in ns
    "offline": ("samples_per_s", 1.0),
    "server": ("scheduled_qps", 1.0),
    "singlestream": ("latency_p90_s", 1e9),
    "multistream": ("latency_p99_s", 1e9),
}


def speeds_differ(scenario: str, mode: str, performance: Mapping[str, float], test: Mapping[str, float]) -> list[str]:
    """Why a compliance test is not as fast as it must be, by the metrics of the performance run and of the test."""
    name, scale = _RESULTS[scenario]
    reference, score = performance.get(name), test.get(name)
    if not reference or not score:
        return [f"{mode}: must have {name} of the performance run and of the test, got {reference} and {score}"]
    if not passes(mode, SCENARIOS[scenario], reference * scale, score * scale):
        return [f"{mode}: must have {name} near the performance run's {reference:.4g}, got {score:.4g}"]
    return []


def answers_differ(accuracy: Path, test: Path) -> list[str]:
    """Why the answers that a performance run has logged are not those of the accuracy run."""
    for folder in (accuracy, test):
        if not (folder / ACCURACY).is_file():
            return [f"TEST01: must have {ACCURACY} of the accuracy run and of the test, got none in {folder}"]
    whole, logged = (read_accuracy(Lines(folder / ACCURACY)) for folder in (accuracy, test))
    if not logged.data:
        return ["TEST01: must have logged answers, got none"]
    once = {index for index, data in logged.data.items() if whole.data.get(index) != data}
    others = sorted(once | set(logged.changed))
    if not others:
        return []
    got = f"others for {len(others)} of {len(logged.data)} samples, the first of them sample {others[0]}"
    return [f"TEST01: must have the accuracy run's answers, got {got}"]
