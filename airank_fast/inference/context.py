"""What a worker process runs with: its request, engine and samples, warm-up, and the lines that it writes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from airank_fast.inference.supervise import WorkerRequest
from airank_fast.inference.sut import infer
from airank_fast.record.events import name_floats

PROGRESS_S = 0.5
WARM_UP_SAMPLES = 64
TIMED_RUNS, TIMED_S = 5, 0.5  # of each batch size, at most


class Report:
    """Writes lines to what was standard output when it was made, while prints go to standard error."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def __call__(self, kind: str, **fields: Any) -> None:
        """Write a line. Ends the process when nobody reads it."""
        line = json.dumps(name_floats({"kind": kind, **fields}))
        try:
            with self._lock:
                self._file.write(line + "\n")
                self._file.flush()
        except OSError:
            os._exit(1)


class Stages(Protocol):
    """The memory of the stages of a process; see airank_fast.inference.memory."""

    def done(self, stage: str) -> None: ...
    def facts(self) -> dict[str, Any]: ...


@dataclass
class Context:
    """What a worker runs with: the request, its directory, engine and samples, and where its lines go.

    times: {batch size: seconds} of `infer`, by `warm_up` or an earlier worker. memory: None where the system does not
    measure it.
    """

    request: WorkerRequest
    directory: Path
    engine: Any
    samples: Any
    report: Report
    memory: Stages | None
    times: dict[int, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.times.update(self.request.times)

    def warm_up(self, sizes: Sequence[int], bound_s: float | None = None) -> None:
        """Run batches of these sizes; after the first that takes longer than `bound_s`, stop.

        Those whose times are not known are timed, and reported.
        """
        timed = {}
        for size in sizes:
            if size in self.times:
                self._run_once(size)
            else:
                timed[size] = self.times[size] = self._time_of(size)
            if bound_s is not None and self.times[size] > bound_s:
                break
        if timed:
            self.report("warm_up", times=sorted(timed.items()))

    def rate(self, size: int, seconds: float) -> float:
        """Samples a second in batches of this size, over at least so many seconds."""
        with self.loaded(size) as indices:
            count, begin = 0, time.perf_counter()
            while not count or time.perf_counter() - begin < seconds:
                infer(self.engine, self.samples, indices)
                count += 1
            return count * size / (time.perf_counter() - begin)

    @property
    def prepared_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the engine was prepared for; () where any is as good."""
        return getattr(self.engine, "batch_sizes", ())

    def sizes(self) -> list[int]:
        """The batch sizes to measure: those that the engine was prepared for, else 1, 2, 4, ... and `max_batch`."""
        return batch_sizes(self.prepared_sizes, self.request.max_batch)

    def memory_facts(self, stage: str) -> dict[str, Any]:
        """End a stage (model or run) and return the memory of all so far; {} where it is not measured."""
        if self.memory is None:
            return {}
        self.memory.done(stage)
        return self.memory.facts()

    def _run_once(self, size: int) -> None:
        with self.loaded(size) as indices:
            infer(self.engine, self.samples, indices)

    def _time_of(self, size: int) -> float:
        with self.loaded(size) as indices:
            infer(self.engine, self.samples, indices)  # allocations, graphs, choices of kernels
            seconds: list[float] = []
            while not seconds or (len(seconds) < TIMED_RUNS and sum(seconds) < TIMED_S):
                begin = time.perf_counter()
                infer(self.engine, self.samples, indices)
                seconds.append(time.perf_counter() - begin)
        return float(np.median(seconds))

    @contextlib.contextmanager
    def loaded(self, size: int) -> Iterator[list[int]]:
        """`size` indices, evenly over the data set, of samples that are in memory meanwhile; of many, some repeat."""
        count = min(size, WARM_UP_SAMPLES, len(self.samples))
        chosen = [at * len(self.samples) // count for at in range(count)]
        self.samples.load(chosen)
        try:
            yield [chosen[at % count] for at in range(size)]
        finally:
            self.samples.unload(chosen)

    @contextlib.contextmanager
    def watched(self, counts: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Report progress, the dictionary that `counts` gives, twice a second meanwhile."""
        is_over = threading.Event()

        def tell() -> None:
            while not is_over.wait(PROGRESS_S):
                self.report("progress", **counts())

        thread = threading.Thread(target=tell, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def batch_sizes(prepared: Sequence[int], max_batch: int) -> list[int]:
    """The sizes to measure: those that the engine was prepared for, else 1, 2, 4, ... and `max_batch` itself."""
    sizes = [size for size in prepared if size <= max_batch]
    powers = [1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch]
    return sorted(sizes) or [*powers, max_batch]
