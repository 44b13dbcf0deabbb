"""Runs a worker process from its parent: watches its progress, ends it past the deadline, and never hangs.

A worker is a module that is given the path of a request and writes one JSON object a line to its standard output, as
airank_fast.inference.worker does. It ends with its parent: its standard input is a pipe that closes then.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from airank_fast.inference.settings import TestSettings
from airank_fast.inference.spares import PIPES, Spares

WORKER = "airank_fast.inference.worker"
REQUEST, QUERIES = "request.json", "queries.npz"
POLL_S = 0.2
IDLE_S = 300.0  # without an open sample: LoadGen waits for its schedule, or evaluates a test
END_S = 5.0  # for a worker that has said its last word
DETAILS_BYTES = 8192
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class WorkerRequest:
    """What a worker runs. It travels as JSON.

    arguments: of the training command, the task's name first. settings: of the LoadGen test, None of another worker's.
    bound_s: latency bound in seconds. times: {batch size: seconds} of the same engine, from an earlier worker.
    calibration: num_samples, seed and checksum, of int8. system: "module:function", which makes engine and samples from
    the request. extra: further values for `system` and for the worker.
    """

    arguments: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    device: str = "cpu"
    backend: str = "torch"
    precision: str = "fp32"
    threads: int = 1
    max_batch: int = 1
    calibration: dict[str, Any] | None = None
    settings: TestSettings | None = None
    bound_s: float | None = None
    times: dict[int, float] = field(default_factory=dict)
    system: str = f"{WORKER}:real_system"
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The fields, as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WorkerRequest:
        """The inverse of `as_json`."""
        settings = value.get("settings")
        made = None if settings is None else TestSettings.from_json(settings)
        times = {int(size): seconds for size, seconds in value.get("times", {}).items()}  # JSON's keys are text
        return cls(**{**value, "settings": made, "times": times})


@dataclass(frozen=True)
class Queries:
    """The queries of a test, in seconds since its first, one entry each; of Offline, one a batch. See sut.Records."""

    issued_s: list[float]
    latency_s: list[float]
    queue_s: list[float]
    batch: list[int]

    @classmethod
    def read(cls, path: Path) -> Queries:
        """From the file that a worker has written."""
        with np.load(path) as file:
            issued, latency, queue, batch = file["rows"].T
        return cls(issued.tolist(), latency.tolist(), queue.tolist(), batch.astype(int).tolist())


Reason = Literal["exception", "disk_full", "bad_data", "worker_lost", "deadline", "stopped"]


@dataclass(frozen=True)
class WorkerResult:
    """How a worker has ended.

    message: one line, "" of a worker that is done. facts: of its last line. details: the end of its standard error.
    """

    status: Literal["done", "failed", "killed"]
    message: str = ""
    reason: Reason | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    queries: Queries | None = None
    predictions: Path | None = None
    details: str = ""


def run_worker(
    request: WorkerRequest,
    directory: Path,
    *,
    deadline_s: float,
    on_line: Callable[[dict[str, Any]], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    module: str = WORKER,
    load_deadline_s: float = 900.0,
    spares: Spares | None = None,
) -> WorkerResult:
    """Run `python -m module` with a request in `directory`, where it leaves its files; returns when it has ended.

    With `spares` it is one of those processes.
    It is killed, with all processes that it started, when a sample is open and none was answered for `deadline_s`, when
    it loads for longer than `load_deadline_s`, when `should_stop` says so, and at any exception here. `on_line` is
    called with each of its lines. No failure of the worker raises; UserError for settings that LoadGen does not take.
    """
    if request.settings is not None:
        request.settings.check()
    path = directory / REQUEST
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in (REQUEST, QUERIES):
            (directory / name).unlink(missing_ok=True)
        path.write_text(json.dumps(request.as_json(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        message = f"{directory}: must be a directory that can be written, got: {error.strerror}"
        return WorkerResult("failed", message, "disk_full" if error.errno in NO_ROOM else "bad_data")
    if spares is None:
        command = [sys.executable, "-m", module, os.fspath(path)]
        process = subprocess.Popen(command, start_new_session=True, **PIPES)
    else:
        process = spares.take(module, path, should_stop)
    watch = _Watch(deadline_s, load_deadline_s)
    streams = _Streams(process)
    try:
        cause = _follow(process, streams, watch, on_line, should_stop)
    finally:
        _kill(process)
        streams.close()
    return _result(process, streams, watch, cause, directory)


def _follow(
    process: subprocess.Popen[bytes],
    streams: _Streams,
    watch: _Watch,
    on_line: Callable[[dict[str, Any]], object] | None,
    should_stop: Callable[[], bool] | None,
) -> Reason | None:
    """Pass on the worker's lines until it ends; returns why it has to be killed, if it has."""
    ended_at = None
    while True:
        for line in streams.read(POLL_S):
            watch.see(line)
            if on_line is not None:
                on_line(line)
        if streams.are_closed:
            return None
        now = time.monotonic()
        if watch.last is not None or process.poll() is not None:  # what it started may still hold the pipes
            ended_at = ended_at or now
            if now - ended_at > END_S:
                return None
        elif should_stop is not None and should_stop():
            return "stopped"
        elif watch.expired(now):
            return "deadline"


class _Watch:
    """The deadline of a worker, from its lines."""

    def __init__(self, deadline_s: float, load_deadline_s: float) -> None:
        self._deadline_s, self._load_deadline_s = deadline_s, load_deadline_s
        self._since = time.monotonic()
        self._phase = "load"
        self._issued = self._answered = 0
        self._oldest: int | None = None
        self.last: dict[str, Any] | None = None  # the line "done" or "error"

    def see(self, line: dict[str, Any]) -> None:
        """Note a line."""
        kind = line["kind"]
        if kind in ("done", "error"):
            self.last = line
        if kind == "progress":
            counts = line.get("issued", 0), line.get("answered", 0)
            if counts == (self._issued, self._answered):
                return
            has_advanced = counts[1] != self._answered or self._issued == self._answered
            self._issued, self._answered = counts
            self._oldest = line.get("oldest")
            if not has_advanced:
                return
        elif kind == "phase":
            self._phase = line.get("name", "")
        self._since = time.monotonic()

    def expired(self, now: float) -> bool:
        """Whether the worker has made no progress for too long."""
        return now - self._since > self._limit_s()

    def message(self) -> str:
        """What it was that took too long."""
        if self._phase != "test":
            return f"the worker was ended: its phase {self._phase!r} took longer than {self._limit_s():g} s"
        if self._issued == self._answered:
            return f"the worker was ended: no query was issued for {self._limit_s():g} s"
        first = "" if self._oldest is None else f", the first of them sample {self._oldest}"
        return (
            f"the worker was ended: no sample was answered for {self._limit_s():g} s, "
            f"{self._issued - self._answered} are open{first}"
        )

    def _limit_s(self) -> float:
        if self._phase != "test":
            return self._load_deadline_s
        return self._deadline_s if self._issued > self._answered else max(self._deadline_s, IDLE_S)


class _Streams:
    """A worker's standard output, as objects, and the end of its standard error."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.stdout, selectors.EVENT_READ, "out")
        self._selector.register(process.stderr, selectors.EVENT_READ, "err")
        self._process = process
        self._rest = b""
        self._errors = b""

    @property
    def are_closed(self) -> bool:
        """Whether both have ended."""
        return not self._selector.get_map()

    @property
    def details(self) -> str:
        """The end of the standard error."""
        return self._errors.decode("utf-8", "replace")

    def read(self, timeout_s: float) -> list[dict[str, Any]]:
        """The lines that come within a time; lines that are none of a worker's are left out."""
        lines = []
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, 1 << 16)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.data == "err":
                self._errors = (self._errors + data)[-DETAILS_BYTES:]
            else:
                *whole, self._rest = (self._rest + data).split(b"\n")
                lines += [line for line in map(_line, whole) if line is not None]
        return lines

    def close(self) -> None:
        """Take what is left of the standard error, and close the pipes."""
        for _ in range(16):
            if self.are_closed or not self.read(0):
                break
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("kind"), str) else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _result(
    process: subprocess.Popen[bytes], streams: _Streams, watch: _Watch, cause: Reason | None, directory: Path
) -> WorkerResult:
    details = streams.details
    if cause is not None:
        message = "the worker was stopped" if cause == "stopped" else watch.message()
        return WorkerResult("killed", message, cause, details=details)
    last = watch.last
    if last is None:
        return WorkerResult("failed", _crash(process.returncode, details), "worker_lost", details=details)
    if last["kind"] == "error":
        message, reason = str(last.get("message")), last.get("reason", "exception")
        return WorkerResult("failed", message, reason, last.get("facts") or {}, details=details)
    facts = last.get("facts") or {}
    queries = directory / QUERIES
    name = facts.get("predictions")
    return WorkerResult(
        "done",
        facts=facts,
        queries=Queries.read(queries) if queries.is_file() else None,
        predictions=None if name is None else directory / name,
        details=details,
    )


def _crash(status: int, details: str) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"the worker was ended by {signal.Signals(-status).name}"
    last = " ".join((details.strip().splitlines() or ["no word"])[-1].split())
    return f"the worker ended with exit status {status}: {last}"
