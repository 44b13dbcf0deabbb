"""Events, which record a run: one JSON object a line of `events.jsonl`.

An event is ``{"t": unix seconds, "kind": name, ...fields}``. Every log format and every figure is made from
events, so that no two of them can disagree. Kinds and their fields (samples and steps are counts since the
start of the run, over all ranks; steps are numbered from 1):

    process_start  pid; t is the start of the process by the operating system
    run_config     benchmark, recipe, options, seed, precision, precision_reason, world_size, devices,
                   global_batch_size, gradient_accumulation_steps, train_samples, eval_samples,
                   samples_per_epoch, unit, target (of the headline metric), task (its facts and the whole target:
                   see airank_fast.tasks), warmup_epochs_excluded, reported {MLPerf key: value}, submission {org,
                   platform, division, status}
    system         the fields of system_information.json, versions, kernels
    cache_clear    value
    init_start, init_stop, run_start
    block_start    step, samples, and first_epoch, epoch_count of a run planned in epochs (a block: the training
                   between evaluations)
    block_stop     step, samples, core_s, wait_s, h2d_s, measure_s: one number a rank, sums since the process
                   began; and units, likewise, where throughput counts other things than samples
    epoch_stop     epoch, step, samples
    steps          first_step, num_steps, samples (in these steps), loss, lr, core_s, wait_s, h2d_s: rank 0's,
                   one number a step; likewise units, where throughput counts other things than samples, and
                   losses {name: [...]}, of which loss is the sum, where a step has several; written before the
                   block_stop or checkpoint they lead to
    eval_start     epoch, step, samples
    eval_stop      epoch, step, samples, accuracy (the headline metric), quality {metric: value}; and correct,
                   counted (images; of BERT masked tokens) where accuracy is their ratio. A name METRIC/PART is of a
                   part of the evaluation set; console and report leave it out
    checkpoint     step, path, duration_s
    data           train_samples, eval_samples, classes, source, corrupt_files, total_steps, checksum,
                   reported (what of it follows from the data set); init_checkpoint (where the first weights are from);
                   signatures {metric: how it is computed}, of a metric that is read in several ways, as BLEU
    memory         used_bytes, total_bytes, per_rank
    examples       files (pictures below the run's directory), predicted, truth: a text of each, "" where the picture
                   shows it; after run_stop
    warning        message
    resume         step, samples: a new process goes on from here; what was logged past this step is void
    run_stop       status (success | aborted), reason (target | epochs | exception | sigterm | sigint | sighup |
                   rank_lost | nan_loss | bad_data | disk_full), detail
    process_stop

An inference run (airank_fast.infer) has process_start, system, cache_clear, warning, run_stop and process_stop as well,
with reasons of its own: valid | not_valid | accuracy | exception | sigterm | sigint | worker_lost | disk_full |
bad_data. Its other events (infer_config comes once):

    infer_config   benchmark, task, unit, profile, scenarios, backend, precision (requested), device, devices, threads,
                   max_batch, duration_s (of a scenario), target_latency_s, is_quick, is_rehearsal (embedded data or a
                   short duration), data {source, checksum, eval_samples, classes}, checkpoint {file, sha256,
                   trained_here, run {benchmark, best_accuracy}}, division (closed | open), submission, seed, command;
                   peak_flops, the device's rate of this precision in FLOP/s, where it is known
    model          parameters, flops_per_sample (2 a multiply-add), file_bytes, engine {name, version, precision (that
                   ran), device, threads, ...}, load_s, export_s, first_inference_s
    reference      quality {metric: value}, correct, counted, source
    quantize       method, per_channel, num_samples, seed, samples (of the training set), checksum
    warm_up        times [[batch size, seconds], ...]
    test_start     scenario, mode (accuracy | performance | TEST01 | TEST04 | TEST05), settings
    queries        scenario, mode, first (index from 0), and one value a query: issued_s (since test_start), latency_s,
                   batch (samples of the engine's batch that it was in), queue_s (server), correct (right answers in
                   it: AI-Rank's clients); of offline, max-batch and flagperf a query is a batch of the engine. Of
                   LoadGen these are the times at this program's side of it, of server from when a query was due.
                   Before the test_stop they lead to
    test_stop      scenario, mode, valid, reasons, metric {name: value}, num_queries, num_samples, duration_s (from
                   test_start to the last answer), over_latency, early_stopping {percentile, met, estimate_s}, effective
                   (settings in LoadGen's log), loadgen {version, directory, sha256 {file: checksum}}, memory
                   {total_bytes, model_bytes, run_bytes}
    accuracy       scenario, quality, correct, counted, required (of the headline metric), factor, reference, passed,
                   agreement (share of predictions equal to the reference's), largest_error, predictions {files,
                   sha256 {file: checksum}}; sample_results [0 | 1, ...] in the order of the samples, where correct /
                   counted is a share of them, or the metric says which are exactly right
    probe          scenario, purpose (search), target_qps, queries, over_latency, p99_s, valid, duration_s
    search         scenario, valid_qps, refused_qps, probes

Scenarios are LoadGen's (singlestream, multistream, server, offline), AI-Rank's (offline, online, latency, max-batch)
and flagperf. Names in metric: samples_per_s, latency_p90_s, latency_p99_s, scheduled_qps, completed_qps; of online
concurrency, max_latency_s; of max-batch batch, latency_s; of flagperf p_infer_whole, p_infer_core, p_val_whole,
p_val_core.

`t` is wall time carried forward by the monotonic clock: it never runs backwards, not even over a resume. A
value that JSON lacks is written as the string "nan", "inf" or "-inf", and read back as a float.
"""

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from airank_fast.errors import UserError
from airank_fast.record.files import LineFile, Reserve
from airank_fast.record.lines import opened

Event = dict

_NOT_JSON = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def dictionary(value: object) -> dict:
    """The value if it is a dictionary, else {}: in another program's log a field may hold anything."""
    return value if isinstance(value, dict) else {}


def process_start_time() -> float:
    """When this process started, in unix seconds, by the operating system's record.

    Linux: field 22 of /proc/self/stat (ticks since boot) against the boot-time clock, good to a tick (10 ms).
    Elsewhere: when this module was imported.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return _IMPORTED_AT
    return time.time() - max(age_s, 0.0)


_IMPORTED_AT = time.time()


def to_line(event: Event) -> str:
    """One event as a line of JSON, without the newline."""
    try:
        return _encode(event)
    except ValueError:  # nan or inf somewhere: rare, so only then is the event walked
        return _encode(name_floats(event))


def name_floats(value):
    """The value with nan and inf as strings, at any depth."""
    if isinstance(value, dict):
        return {key: name_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [name_floats(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def to_json(values: dict) -> str:
    """A file of JSON for people: indented, with nan and inf as strings."""
    return json.dumps(name_floats(values), indent=2, ensure_ascii=False) + "\n"


def _float_names(value):
    if isinstance(value, dict):
        return {key: _float_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_float_names(item) for item in value]
    return _NOT_JSON.get(value, value) if isinstance(value, str) else value


def from_line(line: bytes) -> Event:
    """The event of one line; ValueError if it is not one."""
    try:
        event = json.loads(line)
    except RecursionError:
        raise ValueError("an object is required, got brackets too deep to read") from None
    t, kind = (event.get("t"), event.get("kind")) if isinstance(event, dict) else (None, None)
    if type(t) not in (int, float) or not abs(t) < 1e12 or type(kind) is not str:
        raise ValueError("an object with a number 't' and a string 'kind' is required")
    return _float_names(event) if b'nan"' in line or b'inf"' in line else event


def iter_events(path: str | os.PathLike) -> Iterator[Event]:
    """The events of a file, one at a time.

    A last line that was cut off (no newline, or garbage after a power failure) is left out. Any other line
    that is not an event: UserError with its number.
    """
    broken = None
    try:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                if broken is not None:
                    raise UserError(f"{os.fspath(path)}: line {broken[0]} must be an event, {broken[1]}")
                if not line.endswith(b"\n"):
                    return
                try:
                    event = from_line(line)
                except ValueError as error:
                    broken = number, f"got {line[:60]!r} ({error})"
                    continue
                yield event
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{os.fspath(path)}: must be an event log, got no such file") from None


def read_events(path: str | os.PathLike) -> list[Event]:
    """`iter_events` as a list."""
    return list(iter_events(path))


_SUPERSEDED_BY_STEP = {"block_start", "block_stop", "epoch_stop", "eval_start", "eval_stop", "checkpoint"}
_CLOSING = {"memory", "run_stop", "process_stop"}
_SUPERSEDED = {"run_stop", "process_stop", "examples"}


class Repeated:
    """Recognises an evaluation that a resumed process repeats: that of the step it resumes from.

    Call it with every event of a run, in order. Nothing else is a repetition: several evaluations of one epoch, or
    with one epoch number, all count.
    """

    def __init__(self):
        self._steps: set[float] = set()
        self._at: float | None = None

    def __call__(self, event: Event) -> bool:
        kind, step = event["kind"], event.get("step")
        if kind == "resume":
            if step is not None:
                self._steps = {old for old in self._steps if old <= step}
            self._at = step if step in self._steps else None
        elif kind in ("eval_start", "eval_stop") and step is not None:
            if step == self._at:
                return True
            if kind == "eval_stop":
                self._steps.add(step)
        return False


def effective(events: Iterable[Event]) -> list[Event]:
    """The events without those that a later `resume` supersedes.

    Dropped: what was logged past the step of the resume, the end of the interrupted process, an evaluation that it
    never finished, and one that the resumed process did again. A `steps` event that straddles the step is shortened.
    A resume without a step (of another program's log) supersedes the end before it alone.
    """
    kept: list[Event] = []
    is_repeated = Repeated()
    for event in events:
        if event["kind"] == "resume":
            step = event.get("step", math.inf)
            kept = [short for old in kept if (short := _until(old, step)) is not None]
            evals = [index for index, old in enumerate(kept) if old["kind"] in ("eval_start", "eval_stop")]
            if evals and kept[evals[-1]]["kind"] == "eval_start":
                del kept[evals[-1]]
        if not is_repeated(event):
            kept.append(event)
    return kept


def _until(event: Event, step: float) -> Event | None:
    """The part of an event that remains when the run resumes from `step`."""
    kind = event["kind"]
    if kind in _SUPERSEDED or (kind in _SUPERSEDED_BY_STEP and (event.get("step") or 0) > step):
        return None
    if kind != "steps" or event["first_step"] + event["num_steps"] - 1 <= step:
        return event
    left = step - event["first_step"] + 1
    if left <= 0:
        return None
    short = {key: value[:left] if isinstance(value, list) else value for key, value in event.items()}
    if isinstance(event.get("losses"), dict):
        short["losses"] = {name: losses[:left] for name, losses in event["losses"].items()}
    short.update(num_steps=left, samples=event["samples"] * left // event["num_steps"])
    return short


class EventLog:
    """Writes events to a file and hands them to subscribers, in order, from any thread.

    `EventLog(path)` starts a new log: UserError if the file already holds events.
    `EventLog(path, resume=True)` appends to an old one: a torn last line is cut off, `history` holds the
    events it contained.

    A reserve file of 256 KiB lies beside the log: when the disk is full it is deleted, so that the closing
    events and the logs made from them still find room.
    """

    def __init__(self, path: str | os.PathLike, resume: bool = False):
        self.path = os.fspath(path)
        self.history: list[Event] = []
        self.closed = False
        self._subscribers: list[Callable[[Event], object]] = []
        self._lock = threading.RLock()
        self._queue: deque[Event] = deque()  # taken, but not yet in the file and with the subscribers
        self._busy = False
        self._last_t = -math.inf
        if resume:
            self.history = read_events(self.path)
            self._last_t = self.history[-1]["t"] if self.history else self._last_t
        elif os.path.exists(self.path) and os.path.getsize(self.path):
            raise UserError(f"{self.path}: must be a directory without a run, got one that holds a run")
        self._file = LineFile(self.path, truncate=not resume)
        if resume:
            self._file.truncate(_whole_lines_bytes(self.path, len(self.history)))
        self._reserve = Reserve(self.path + ".reserve")
        self._clock_offset = max(time.time(), self._last_t) - time.monotonic()

    def now(self) -> float:
        """The log's clock, unix seconds: what `emit` would stamp."""
        return time.monotonic() + self._clock_offset

    def subscribe(self, subscriber: Callable[[Event], object]) -> None:
        """Call `subscriber(event)` for every later event, once it is in the file.

        If it has a `close` method, closing the log calls it. If it raises, the other subscribers are still
        called and `emit` raises it afterwards.
        """
        with self._lock:
            self._subscribers.append(subscriber)

    def emit(self, kind: str, t: float | None = None, **fields) -> Event:
        """Write an event and call the subscribers. `fields` are plain JSON values (no tensors, no paths).

        `t` (unix seconds) is for a moment other than now; an event is never earlier than the one before it.
        OSError when the disk is full: the file then still holds whole lines only; the event is
        in it, or is tried again by the next `emit` and by `close`. The closing events (memory, run_stop,
        process_stop) never raise it, so that one of them cannot keep the next from being written.
        """
        with self._lock:
            if self.closed:
                raise ValueError(f"{self.path}: must be an open event log for {kind!r}, got a closed one")
            stamp = self.now() if t is None else t
            self._last_t = max(round(stamp, 6), self._last_t)
            event = {"t": self._last_t, "kind": kind, **fields}
            self._queue.append(event)
            if not self._busy:  # else a subscriber or a signal handler emits: the outer call goes on with it
                self._busy = True
                try:
                    self._drain()
                except OSError:
                    if kind not in _CLOSING:
                        raise
                finally:
                    self._busy = False
            return event

    def _drain(self) -> None:
        trouble: BaseException | None = None
        while self._queue:
            event = self._queue[0]
            try:
                self._write(to_line(event))
            except OSError as error:
                if self._file.waiting:  # no room even now: it stays in the queue
                    self._file.waiting.clear()
                    raise
                trouble = trouble or error
            except (TypeError, ValueError):  # not JSON: the caller's mistake, not to be met again
                self._queue.popleft()
                raise
            self._queue.popleft()
            for subscriber in self._subscribers:
                try:
                    subscriber(event)
                except Exception as error:
                    if isinstance(error, OSError):
                        self._reserve.release()
                    trouble = trouble or error
        if trouble is not None:
            raise trouble

    def _write(self, line: str) -> None:
        """Write a line; on a full disk free the reserve, write again, and still raise: the run must stop."""
        try:
            self._file.write(line)
        except OSError:
            if self._reserve.release():
                self._file.retry()
            raise

    def close(self) -> None:
        """Write what still waits if there is room, close the subscribers and the file. Twice is harmless."""
        with self._lock:
            if self.closed:
                return
            self._reserve.release()
            with suppress(OSError):
                if not self._busy:
                    self._drain()
            self.closed = True
            for subscriber in self._subscribers:
                if hasattr(subscriber, "close"):
                    with suppress(OSError):
                        subscriber.close()
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _whole_lines_bytes(path: str, num_lines: int) -> int:
    """Size of the first `num_lines` lines, bytes."""
    with open(path, "rb") as file:
        return sum(len(file.readline()) for _ in range(num_lines))
