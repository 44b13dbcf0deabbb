"""The system under test: what LoadGen's callbacks call, one class a scenario.

LoadGen ends the process at an exception in a callback, and waits for ever for a sample that is not answered. So no
callback raises: the first failure is kept in `failure`, and every open sample gets an empty response. A ledger of the
open samples finds those that are lost or answered twice.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from airank_fast.errors import UserError
from airank_fast.inference.batcher import Waiting, every_size, next_batch

Complete = Callable[[Sequence[int], Sequence[bytes]], None]
"""Gives LoadGen the responses of samples, by their ids."""


class Engine(Protocol):
    """What is asked of an engine here; see airank_fast.inference.engine."""

    def run(self, batch: Any) -> Any: ...


class Samples(Protocol):
    """What is asked of the samples here; see airank_fast.inference.samples."""

    def batch(self, indices: Sequence[int]) -> Any: ...
    def split(self, outputs: Any, indices: Sequence[int]) -> list[Any]: ...
    def response(self, output: Any) -> bytes: ...
    def lengths(self) -> Sequence[int] | None: ...


def infer(engine: Engine, samples: Samples, indices: Sequence[int]) -> tuple[list[Any], list[bytes]]:
    """Outputs and responses of samples that are loaded, one each, in their order: all that a test times.

    RuntimeError where the engine has another number of outputs than samples.
    """
    outputs = samples.split(engine.run(samples.batch(indices)), indices)
    if len(outputs) != len(indices):
        raise RuntimeError(f"outputs: must be {len(indices)}, for {_named(indices)}, got {len(outputs)}")
    return outputs, [samples.response(output) for output in outputs]


class Ledger:
    """The samples that were issued and are not answered, by their ids. Thread-safe."""

    def __init__(self) -> None:
        self.issued = 0
        self.answered = 0
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def issue(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        """Note samples as open."""
        with self._lock:
            self._open.update(zip(ids, indices, strict=True))
            self.issued += len(ids)

    def answer(self, ids: Sequence[int]) -> list[int]:
        """Note samples as answered. Returns the positions in `ids` of those that were open, each once."""
        with self._lock:
            positions = [position for position, one in enumerate(ids) if self._open.pop(one, None) is not None]
            self.answered += len(positions)
        return positions

    def answer_all(self) -> list[int]:
        """Note every open sample as answered and return their ids."""
        with self._lock:
            ids = list(self._open)
            self.answered += len(ids)
            self._open.clear()
        return ids

    def oldest(self) -> int | None:
        """The index of the sample that has been open for longest."""
        with self._lock:
            return next(iter(self._open.values()), None)

    def open_indices(self) -> list[int]:
        """The indices of the open samples, in the order in which they were issued."""
        with self._lock:
            return list(self._open.values())


class Records:
    """Times of what was served, in seconds, in arrays that are allocated ahead.

    One row a query; of Offline, whose test is one query, a row a batch. issued_s is since the first query.
    """

    def __init__(self, capacity: int = 1 << 16) -> None:
        self._rows = np.empty((capacity, 4))
        self._count = 0

    def add(self, issued_s: float, latency_s: float, queue_s: float, batch: int) -> None:
        """A row: when the query was issued, its latency, how long it waited for the engine, the size of its batch."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._count] = issued_s, latency_s, queue_s, batch
        self._count += 1

    def rows(self) -> np.ndarray:
        """float64 [queries, 4]: issued_s, latency_s, queue_s, batch."""
        return self._rows[: self._count]


def span_s(rows: np.ndarray) -> float:
    """Seconds from the first query to the last answer; rows as of `Records`."""
    return float((rows[:, 0] + rows[:, 1]).max()) if len(rows) else 0.0


class Sut:
    """A system under test; a subclass serves the queries of a scenario in `_serve_query`.

    num_queries: issued. failure: the first failure as one line, else None; has_failed is set with it. outputs: {index:
    output} of every sample that was served, where keeps_outputs.
    """

    serves_in_callback = True
    """Whether every sample of a query is answered when its callback returns."""

    def __init__(
        self,
        engine: Engine,
        samples: Samples,
        *,
        max_batch: int,
        keeps_outputs: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine, self.samples, self.max_batch = engine, samples, max_batch
        self.ledger, self.records = Ledger(), Records()
        self.outputs: dict[int, Any] | None = {} if keeps_outputs else None
        self.num_queries = 0
        self.failure: str | None = None
        self.has_failed = threading.Event()
        self._clock = clock
        self._complete: Complete | None = None
        self._start: float | None = None

    def connect(self, complete: Complete) -> None:
        """Say where responses go; before the first query."""
        self._complete = complete

    def issue(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        """LoadGen's callback for a query: the samples' ids and indices. Never raises."""
        now = self._clock()
        if self._start is None:
            self._start = now
        self.ledger.issue(ids, indices)
        self.num_queries += 1
        with self.guarded():
            if self.failure is None:
                self._serve_query(ids, indices, now)
                if self.serves_in_callback:  # LoadGen would wait for what is lost before it goes on
                    self._check_lost()
        if self.failure is not None:
            self._release()

    def run(self, test: Callable[[], None]) -> None:
        """Run a test, which issues queries to this system; raises what it raises."""
        test()

    def flush(self) -> None:
        """LoadGen's callback after the last query. Never raises."""
        with self.guarded():
            self._check_lost()

    def close(self) -> None:
        """After the test: find samples that were never answered."""
        with self.guarded():
            self._check_lost()

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        """A context whose exception, whatever it is, becomes this system's failure."""
        return _Guard(self.fail)

    def fail(self, failure: BaseException | str) -> None:
        """Keep the first failure and answer every open sample, so that LoadGen waits for none."""
        if isinstance(failure, BaseException):
            if self.failure is None and not isinstance(failure, UserError):
                traceback.print_exception(failure, file=sys.stderr)
            failure = one_line(failure)
        if self.failure is None:
            self.failure = failure
            self.has_failed.set()
        self._release()

    def _serve_query(self, ids: Sequence[int], indices: Sequence[int], issued: float) -> None:
        raise NotImplementedError

    def _serve(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        outputs, responses = infer(self.engine, self.samples, indices)
        self._answer(ids, indices, responses)
        if self.outputs is not None:
            self.outputs.update(zip(indices, outputs, strict=True))

    def _answer(self, ids: Sequence[int], indices: Sequence[int], responses: Sequence[bytes]) -> None:
        positions = self.ledger.answer(ids)
        if len(positions) == len(ids):
            self._respond(ids, responses)
            return
        self._respond([ids[at] for at in positions], [responses[at] for at in positions])
        if self.failure is None:  # else `fail` has answered the others
            twice = [index for at, index in enumerate(indices) if at not in positions]
            raise RuntimeError(f"{_named(twice)} {'was' if len(twice) == 1 else 'were'} answered twice")

    def _respond(self, ids: Sequence[int], responses: Sequence[bytes]) -> None:
        assert self._complete is not None, "connect comes first"
        if ids:
            self._complete(ids, responses)

    def _release(self) -> None:
        ids = self.ledger.answer_all()
        try:
            self._respond(ids, [b""] * len(ids))
        except BaseException as error:  # within `fail`: nothing else can be done
            traceback.print_exception(error, file=sys.stderr)

    def _check_lost(self) -> None:
        lost = self.ledger.open_indices()
        if lost:
            raise RuntimeError(f"{_named(lost)} {'was' if len(lost) == 1 else 'were'} issued and never answered")


class StreamSut(Sut):
    """SingleStream and MultiStream: a query is served in the callback, without a thread or a queue."""

    def _serve_query(self, ids: Sequence[int], indices: Sequence[int], issued: float) -> None:
        for first in range(0, len(ids), self.max_batch):
            part = slice(first, first + self.max_batch)
            self._serve(ids[part], indices[part])
        assert self._start is not None
        self.records.add(issued - self._start, self._clock() - issued, 0.0, min(len(ids), self.max_batch))


class OfflineSut(Sut):
    """Offline: the samples of a query, the longest first where they have lengths, in batches of max_batch."""

    def _serve_query(self, ids: Sequence[int], indices: Sequence[int], issued: float) -> None:
        order: Sequence[int] = range(len(ids))
        lengths = self.samples.lengths()
        if lengths is not None:
            order = sorted(order, key=lambda at: -lengths[indices[at]])
        assert self._start is not None
        for first in range(0, len(ids), self.max_batch):
            part = order[first : first + self.max_batch]
            began = self._clock()
            self._serve([ids[at] for at in part], [indices[at] for at in part])
            self.records.add(issued - self._start, self._clock() - issued, began - issued, len(part))


class ServerSut(Sut):
    """Server: the callback queues the sample, and one thread serves batches of the size that `next_batch` gives.

    It is the thread of `run`, and the test has another. An engine that was warmed up in one thread would begin with
    further threads of OpenMP in another; then all of them sleep between two operators, as there are more than cores.

    times: {batch size: measured seconds}. bound_s: from issue to answer.
    """

    serves_in_callback = False

    def __init__(
        self,
        engine: Engine,
        samples: Samples,
        *,
        max_batch: int,
        times: Mapping[int, float],
        bound_s: float,
        **options: Any,
    ) -> None:
        super().__init__(engine, samples, max_batch=max_batch, **options)
        self._times, self._bound_s = every_size(times, max_batch), bound_s
        self._queue: SimpleQueue[Waiting | str] = SimpleQueue()

    def run(self, test: Callable[[], None]) -> None:
        """See `Sut.run`."""
        errors: list[BaseException] = []

        def tested() -> None:
            try:
                test()
            except BaseException as error:
                errors.append(error)
            finally:
                self._queue.put("close")

        thread = threading.Thread(target=tested, name="LoadGen", daemon=True)
        thread.start()
        self._serve_all()
        thread.join()
        if errors:
            raise errors[0]

    def flush(self) -> None:
        """LoadGen's callback after the last query: the thread checks, once it has served them all."""
        self._queue.put("flush")

    def _serve_query(self, ids: Sequence[int], indices: Sequence[int], issued: float) -> None:
        for sample_id, index in zip(ids, indices, strict=True):
            self._queue.put(Waiting(sample_id, index, issued))

    def _serve_all(self) -> None:
        waiting: deque[Waiting] = deque()
        note = ""
        while note != "close" or waiting:
            while not note and (not waiting or self._queue.qsize()):
                item = self._queue.get()
                if isinstance(item, str):
                    note = item
                else:
                    waiting.append(item)
            with self.guarded():
                if waiting:
                    self._serve_next(waiting)
                elif note == "flush":
                    note = ""
                    self._check_lost()

    def _serve_next(self, waiting: deque[Waiting]) -> None:
        began = self._clock()
        size = next_batch(waiting, began, self._times, self._bound_s, self.max_batch)
        batch = [waiting.popleft() for _ in range(size)]
        if self.failure is not None:  # they are answered
            return
        self._serve([sample.sample_id for sample in batch], [sample.sample_index for sample in batch])
        done, start = self._clock(), self._start
        assert start is not None
        for sample in batch:
            self.records.add(sample.issued - start, done - sample.issued, began - sample.issued, size)


def one_line(error: BaseException) -> str:
    """An exception as one line: a UserError's message, else with the exception's name."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _named(indices: Sequence[int]) -> str:
    """Samples by their indices, at most four of them: "sample 3", "samples 1, 2, 3, 4 and 7 more"."""
    shown = ", ".join(str(index) for index in indices[:4])
    more = f" and {len(indices) - 4} more" if len(indices) > 4 else ""
    return f"sample{'s' if len(indices) > 1 else ''} {shown}{more}"


class _Guard:
    """A context that passes its exception to a function and ends there."""

    def __init__(self, caught: Callable[[BaseException], None]) -> None:
        self._caught = caught

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self._caught(error)
        return True
