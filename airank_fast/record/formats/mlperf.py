"""The MLPerf training log, written and read: `:::MLLOG {json}` lines, as the rules of the 4.0 round require.

Source: mlcommons/training_policies (training_rules, "Appendix: Benchmark Specific Rules") and the compliance
checker of mlperf-logging, usage training, ruleset 4.0.0. The hyper-parameters come from `reported` of the
run_config and data events, whose values also replace the run's own (a trial reports the sizes of the real
run).
"""

import json
import sys
from collections.abc import Iterable, Iterator

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.numeric import is_float, is_number
from airank_fast.record.events import Event, Repeated, dictionary

_MARK, _TOKEN = ":::MLLOG", ":::MLLOG "
_FILE = "airank_fast/record/formats/mlperf.py"
_POINT, _START, _END = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
_SUBMISSION = ("org", "platform", "division", "status")
# MLPerf's names of the metrics of benchmarks whose eval_accuracy is an object, with ours.
_METRICS = {metric.mlperf: metric.name for task in tasks.all_tasks() for metric in task.metrics if metric.mlperf}
_SIZES = ("global_batch_size", "gradient_accumulation_steps", "train_samples", "eval_samples")
_LARGEST = (1 << 53) - 1  # beyond it a float does not hold every whole number, such as a time in ms
EARLIEST_TIME_MS, LATEST_TIME_MS = 10**12, 10**13  # 2001 to 2286: seconds and microseconds lie far outside
_decode = json.JSONDecoder().raw_decode


class MLPerfLog:
    """Events to lines of the log, as they happen.

    Lines that may appear once (the configuration, init_start to run_start) are those of the first process of a
    resumed run; a block or an evaluation that a resumed process opens again is not written twice. A later
    run_config adds keys to those before it: another program's log states its configuration in pieces.
    """

    def __init__(self):
        self._seen: set[str] = set()
        self._written: set[str] = set()  # keys of the configuration
        self._is_repeated = Repeated()
        self._task: tasks.Task | None = None
        self._sizes: Event | None = None  # the run_config, until the data event comes
        self._block: dict | None = None  # metadata of the open block
        self._epoch = "epoch"  # the field of an evaluation that its epoch_num is
        self._last_t = 0.0

    def feed(self, event: Event) -> list[str]:
        """The lines that this event completes, without newlines."""
        self._last_t = event["t"]
        handle = getattr(self, "_on_" + event["kind"], None)
        if self._is_repeated(event) or handle is None or "run_stop" in self._seen:
            return []
        return handle(event)

    def close(self) -> list[str]:
        """The end of a log that was cut off: aborted, with its last event."""
        if "run_start" not in self._seen or "run_stop" in self._seen:
            return []
        return self.feed({"t": self._last_t, "kind": "run_stop", "status": "aborted"})

    def _once(self, event: Event, event_type: str, value=None, **metadata) -> list[str]:
        if event["kind"] in self._seen:
            return []
        self._seen.add(event["kind"])
        return [_line(event["t"], event_type, event["kind"], value, metadata)]

    def _on_run_config(self, event) -> list[str]:
        first = "run_config" not in self._seen
        self._seen.add("run_config")
        values = {}
        if event.get("benchmark") is not None:
            task = tasks.of(event)
            values["submission_benchmark"] = (
                task.names.get("mlperf", event["benchmark"]) if task else event["benchmark"]
            )
            self._task = tasks.find(event["benchmark"])
            self._epoch = "samples" if task and task.counted_in == "samples" else self._epoch
        submission = event.get("submission") or {}
        values |= {f"submission_{name}": submission[name] for name in _SUBMISSION if name in submission}
        values |= {"seed": event["seed"]} if event.get("seed") is not None else {}
        lines = self._points(event["t"], values)
        if first:
            self._sizes = event
        elif self._sizes is None:
            lines += self._points(event["t"], _hyper_parameters(event))
        else:
            lines += self._on_data(event)
        return lines

    def _on_data(self, event) -> list[str]:
        """Sizes and hyper-parameters, once: some follow from the data set, which is first touched late."""
        if self._sizes is None:
            return []
        sources, self._sizes = (self._sizes, event), None
        return self._points(event["t"], _hyper_parameters(*sources))

    def _points(self, t: float, values: dict) -> list[str]:
        new = {key: value for key, value in values.items() if key not in self._written}
        self._written.update(new)
        return [_line(t, _POINT, key, value, {}) for key, value in new.items()]

    def _on_cache_clear(self, event) -> list[str]:
        return self._once(event, _POINT, event.get("value", True))

    def _on_init_start(self, event) -> list[str]:
        return self._once(event, _START)

    def _on_init_stop(self, event) -> list[str]:
        return self._once(event, _END)

    def _on_run_start(self, event) -> list[str]:
        return self._once(event, _START)

    def _on_run_stop(self, event) -> list[str]:
        if "run_start" not in self._seen:
            return []
        return self._late_sizes(event) + self._once(event, _END, status=event["status"])

    def _late_sizes(self, event) -> list[str]:
        """The sizes of a run that has no data event, or ended before it."""
        return self._on_data({"t": event["t"]})

    def _on_block_start(self, event) -> list[str]:
        if self._block is not None:
            return []
        names = ("first_epoch", "epoch_count") if "first_epoch" in event else ("samples",)
        theirs = {"first_epoch": "first_epoch_num", "epoch_count": "epoch_count", "samples": "samples_count"}
        self._block = {theirs[name]: event[name] for name in names if name in event}  # another log may lack some
        return [*self._late_sizes(event), _line(event["t"], _START, "block_start", None, self._block)]

    def _on_block_stop(self, event) -> list[str]:
        if self._block is None:
            return []
        metadata, self._block = self._block, None
        if "samples_count" in metadata:
            metadata = {"samples_count": event.get("samples", metadata["samples_count"])}
        return [_line(event["t"], _END, "block_stop", None, metadata)]

    def _where(self, event) -> dict:
        """The metadata of an evaluation: its epoch, or {} where its log states none."""
        point = event.get(self._epoch, event.get("epoch"))
        return {} if point is None else {"epoch_num": point}

    def _on_eval_start(self, event) -> list[str]:
        return [_line(event["t"], _START, "eval_start", None, self._where(event))]

    def _on_eval_stop(self, event) -> list[str]:
        metadata, value = self._where(event), _as_mlperf(self._task, event)
        return [
            _line(event["t"], _POINT, "eval_accuracy", value, metadata),
            _line(event["t"], _END, "eval_stop", None, metadata),
        ]


def _as_mlperf(task: tasks.Task | None, event: Event) -> object:
    """The accuracy of an evaluation; an object, {"BBOX": ..., "SEGM": ...}, of a benchmark that has several."""
    found = dictionary(event.get("quality"))
    names = {metric.mlperf: metric.name for metric in task.metrics if metric.mlperf} if task else {}
    has_all = names and all(is_float(found.get(ours)) for ours in names.values())
    return {theirs: found[ours] for theirs, ours in names.items()} if has_all else event["accuracy"]


def _hyper_parameters(*sources: Event) -> dict:
    """Sizes, and the `reported` values, which replace the sizes of any source."""
    values = {name: source[name] for source in sources for name in _SIZES if source.get(name) is not None}
    for source in sources:
        values |= source.get("reported") or {}
    return values


def _line(t: float, event_type: str, key: str, value, metadata: dict) -> str:
    """One line; file and lineno name the line of this file that wrote it."""
    fields = {
        "namespace": "",
        "time_ms": round(t * 1000),
        "event_type": event_type,
        "key": key,
        "value": value,
        "metadata": {"file": _FILE, "lineno": sys._getframe(1).f_lineno, **metadata},
    }
    return _TOKEN + json.dumps(fields)


def has_benchmark(config: Event) -> bool:
    """Whether MLPerf has the benchmark of a run_config; True where it states none."""
    task = tasks.of(config)
    return "mlperf" in task.names if task else config.get("benchmark") is None


def records(lines: Iterable[str]) -> Iterator[tuple[int, dict | None, str | None]]:
    """Each :::MLLOG record of a log, whatever state it is in: (line number, its fields or None, what is wrong or None).

    A record is an object with a number time_ms, a string key, a value, and metadata that is an object or missing.
    Text before the last :::MLLOG of a line is other output, as for the official parser.
    """
    for number, line in enumerate(lines, 1):
        if _MARK not in line:
            continue
        at = line.rfind(_TOKEN)
        if at < 0:
            yield number, None, f"{_TOKEN!r} and JSON are required, got {_short(line[line.find(_MARK) :])}"
            continue
        if line.find(_TOKEN) != at:
            yield number, None, "a line for each record is required, got several, of which only the last is read"
        start = at + len(_TOKEN)
        try:
            fields, end = _decode(line, start)
            if end != len(line) and line[end] != "\r" and line[end:].strip():
                raise ValueError
        except (ValueError, RecursionError):
            try:
                fields = json.loads(line[start:].partition("\r")[0])
            except (ValueError, RecursionError):
                yield number, None, f"JSON is required, got {_short(line[start:])}"
                continue
        trouble = _shape(fields)
        yield (number, None, f"{trouble} {_short(line[start:])}") if trouble else (number, fields, None)


def _shape(fields: object) -> str | None:
    """The reason why the fields are no record; None if they are one."""
    if type(fields) is not dict:
        return "an object is required, got"
    time_ms = fields.get("time_ms")
    if not is_number(time_ms, _LARGEST):
        return "time_ms in milliseconds is required, got"
    if type(fields.get("key")) is not str or "value" not in fields:
        return "a string key and a value are required, got"
    metadata = fields.get("metadata")
    if metadata is not None and type(metadata) is not dict:
        return "metadata must be an object, got"
    return None


def is_in_milliseconds(time_ms: float) -> bool:
    """Whether a time is in milliseconds since 1970, as every command requires."""
    return EARLIEST_TIME_MS <= time_ms < LATEST_TIME_MS


def _short(text: str) -> str:
    return repr(text.strip()[:60])


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Lines of a log, ours or another program's, back to events; other lines are skipped.

    Configuration lines in a row become one run_config, with the hyper-parameters in `reported`. An evaluation
    becomes eval_start and, at its accuracy, eval_stop {epoch, samples, step, accuracy} with the fields that its
    metadata has; epoch_num of BERT counts samples. Keys that no event carries are left out. UserError, with the
    number, for a line that is no record (see `records`), has a time not in milliseconds, or a value of the wrong
    type. A fact may have no time (0): then it takes that of the line after it.
    """
    config: Event | None = None
    counts_samples = False
    for number, fields, trouble in records(lines):
        if trouble:
            raise UserError(f"line {number}: {trouble}")
        t, key, value, metadata = fields["time_ms"] / 1000, fields["key"], fields["value"], fields.get("metadata") or {}
        is_fact = fields.get("event_type", _POINT) == _POINT and key not in _EVENTS
        if not is_in_milliseconds(fields["time_ms"]) and not (is_fact and t == 0):
            raise UserError(f"line {number}: time_ms must be in milliseconds since 1970, got {fields['time_ms']:.15g}")
        if is_fact:
            config = config or {"t": t, "kind": "run_config", "submission": {}, "reported": {}}
            config["t"] = config["t"] or t
            _configure(config, key, value, number)
            task = _task(value) if key == "submission_benchmark" else None
            counts_samples = counts_samples or (task is not None and task.counted_in == "samples")
            continue
        if config is not None:
            yield config | {"t": config["t"] or t}
            config = None
        event = _event(t, key, value, metadata, number)
        if event is not None:
            if counts_samples and event.get("epoch") is not None:
                event.setdefault("samples", event["epoch"])
            yield event
    if config is not None:
        yield config


def _task(name: str) -> tasks.Task | None:
    """The task that MLPerf calls by that name; None of another rule book's name."""
    task = tasks.find(name)
    return task if task and task.names.get("mlperf") == name else None


def _configure(config: Event, key: str, value, number: int) -> None:
    if key.startswith("submission_"):
        _require(isinstance(value, str), number, key, "a string", value)
    if key == "submission_benchmark":
        task = _task(value)
        config["benchmark"] = task.benchmark if task else value
    elif key.startswith("submission_"):
        config["submission"][key.removeprefix("submission_")] = value
    elif key in _SIZES:
        _require(is_number(value, _LARGEST), number, key, "a number", value)
        config[key] = value
    elif key == "seed":
        config[key] = value
    else:
        config["reported"][key] = value


_INTERVALS = {"block_start", "block_stop", "epoch_stop", "eval_start"}
_MOMENTS = {"init_start", "init_stop", "run_start"}
_EVENTS = {"cache_clear", "eval_accuracy", "run_stop", *_INTERVALS, *_MOMENTS, "epoch_start", "eval_stop"}
_METADATA = {"first_epoch_num": "first_epoch", "epoch_count": "epoch_count", "samples_count": "samples"}
_METADATA |= {"epoch_num": "epoch", "step_num": "step"}


def _event(t: float, key: str, value, metadata: dict, number: int) -> Event | None:
    event = {"t": t, "kind": key}
    if key in _MOMENTS:
        return event
    if key == "cache_clear":
        return event | {"value": value}
    if key == "run_stop":
        status = metadata.get("status")
        _require(status is None or isinstance(status, str), number, "run_stop's status", "a string", status)
        return event | {"status": status}
    where = {}
    for theirs, ours in _METADATA.items():
        if theirs in metadata:
            _require(is_number(metadata[theirs], _LARGEST), number, f"{key}'s {theirs}", "a number", metadata[theirs])
            where[ours] = metadata[theirs]
    if key == "eval_accuracy":
        if isinstance(value, dict):
            quality = {ours: value[theirs] for theirs, ours in _METRICS.items() if theirs in value}
            are_numbers = quality and all(is_number(each, _LARGEST) for each in quality.values())
            _require(are_numbers, number, key, f"a number, or numbers by {' or '.join(_METRICS)}", value)
            where["quality"] = quality
            value = next(iter(quality.values()))
        _require(is_float(value), number, key, "a number", value)
        return event | {"kind": "eval_stop", **where, "accuracy": value}
    return event | where if key in _INTERVALS else None


def _require(condition: bool, number: int, name: str, what: str, got) -> None:
    if not condition:
        raise UserError(f"line {number}: {name} must be {what}, got {repr(got)[:60]}")
