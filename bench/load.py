"""What LoadGen and the system under test add to an engine's time, at the median: ResNet-50 on a CPU, batch 1.

    python bench/load.py [--image-size PX] [--backend NAME] [--threads N] [--seconds S] [--save]

    singlestream   a query at a time, served in LoadGen's callback
    server         a query in the queue of the batcher's thread; the rate is a tenth of what the engine manages, so that
                   few queries wait for others

A test is a process of its own. The engine's time is that of sut.infer, within the same test: batch, network, outputs
taken apart, responses. What is added is counted query by query, from when it was due to after its answer was given to
LoadGen, without the engine's time for it; the median of that is shown, beside LoadGen's own median latency. Server's
queries are counted from the earliest callback, which may itself be some hundredths of a millisecond late.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from airank_fast.inference import sut
from airank_fast.inference.engine import BACKENDS, open_engine
from airank_fast.inference.loadgen import run_test
from airank_fast.inference.samples import Samples, load_job
from airank_fast.inference.schedule import server_schedule, since_due
from airank_fast.inference.settings import TestSettings

SCENARIOS = ("singlestream", "server")
SHARE_OF_RATE = 0.1
CPU = torch.device("cpu")
SPAWN = multiprocessing.get_context("spawn")  # LoadGen runs once a process


def measure(scenario: str, options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The medians of a test in this process, seconds."""
    job, networks = load_job(["resnet50", "--image-size", str(options.image_size)], None, CPU)
    samples = Samples(job)
    engine = open_engine(options.backend, job, networks, device=CPU, threads=options.threads, max_batch=1)
    seconds: list[float] = []
    infer = sut.infer

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        found = infer(*arguments)
        seconds.append(time.perf_counter() - begin)
        return found

    samples.load([0])
    for _ in range(10):
        timed(engine, samples, [0])
    alone_s = statistics.median(seconds[2:])
    seconds.clear()
    sut.infer = timed
    fields = {"min_queries": 64, "expected_latency_s": alone_s / 2}
    system: sut.Sut = sut.StreamSut(engine, samples, max_batch=1)
    if scenario == "server":
        fields = {"min_queries": 64, "target_qps": SHARE_OF_RATE / alone_s, "target_latency_s": 100 * alone_s}
        system = sut.ServerSut(engine, samples, max_batch=1, times={1: alone_s}, bound_s=100 * alone_s)
    settings = TestSettings(scenario, "performance", "v6.1", options.seconds, performance_count=64, **fields)
    outcome = run_test(settings, system, samples, Path(folder))
    if outcome.failure is not None:
        raise RuntimeError(outcome.failure)
    latency_s = outcome.result["result_50.00_percentile_latency_ns"] / 1e9
    rows = system.records.rows()
    if scenario == "server":
        rows = since_due(rows, server_schedule(fields["target_qps"], settings.seeds[2], len(rows))[0])
    added_s = float(np.median(rows[:, 1] - np.array(seconds)))
    return {
        "latency_s": latency_s,
        "engine_s": statistics.median(seconds),
        "added_s": added_s,
        "queries": len(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="of a test")
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    options = parser.parse_args()
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, SPAWN) as pool:
            found = pool.submit(measure, scenario, options, folder).result()
        share = found["added_s"] / found["engine_s"]
        case = f"{scenario}, ResNet-50, {options.image_size} px, {options.backend}"
        times = " ".join(f"{name} {1e3 * found[f'{name}_s']:.3f} ms" for name in ("latency", "engine", "added"))
        print(f"{case}: {times} ({share:.2%}), median of {found['queries']} queries")
        if options.save:
            harness.append("load", case, **found, share=share, threads=options.threads)


if __name__ == "__main__":
    main()
