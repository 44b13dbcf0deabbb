"""FlagPerf's [PerfLog] lines, which its training driver prints; written and read.

    [PerfLog] {"event": "TRAIN_START", "metadata": {"file": "...", "lineno": 9, "time_ms": 1669032669446, "rank": 0}}
    [PerfLog] {"event": "EVALUATE", "value": {"global_steps": 80, "eval_mlm_accuracy": 0.7, "time": 5.1}, ...}
    [PerfLog] {"event": "FINISHED", "value": {"e2e_time": 1661.6, "converged": true, ...}, ...}

Source: FlagOpen/FlagPerf, training/benchmarks/driver/{event,log_event,perf_logger}.py, and run_pretraining.py of
its resnet50 and bert. EVALUATE comes after its evaluation and may have its seconds as `time`. resnet50 prints no
EVALUATE; FINISHED has its last accuracy. Accuracies are fractions except `acc1`, which is in per cent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator

from airank_fast.errors import UserError
from airank_fast.numeric import LARGEST, is_float, is_number
from airank_fast.record.events import Event, dictionary, name_floats
from airank_fast.record.foreign.complete import MAX_T, MIN_T
from airank_fast.record.formats.mlperf import is_in_milliseconds
from airank_fast.record.metrics import Tally
from airank_fast.tasks import fraction

MARK = "[PerfLog]"
# Names of an accuracy in EVALUATE and, with final_ for eval_, in FINISHED -> its unit.
ACCURACIES = {
    "eval_mlm_accuracy": "fraction",
    "eval_acc1": "percent",
    "eval_accuracy": "fraction",
}
# A figure of FINISHED -> our name of it. p_core is as FlagPerf measures it; its definition differs from ours.
FIGURES = {"e2e_time": "e2e_time", "train_time": "total_use_time", "raw_train_time": "total_use_time"}
_RATES = {"_raw": "p_whole", "_no_eval": "p_train", "_pure_compute": "p_core"}
_PASSED_OVER = {"LAUNCH_TRAINING", "INIT_EVALUATION", "EPOCH_BEGIN", "STEP_BEGIN", "BACKWARD"}


def parse(
    lines: Iterable[str],
    accuracy: str | None = None,
    unit: str | None = None,
    lost: Callable[[int, str], object] = lambda number, what: None,
) -> Iterator[Event]:
    """Lines of a log to events; other lines, and those of other ranks than the first in the log, are skipped.

    run_config, init_start, init_stop, run_start, reading {position, values}, epoch_stop {epoch}, eval_stop
    {accuracy, and step, epoch, samples, duration_s where they are stated}, run_stop {status}, and the values of
    FINISHED as `figure` {name, value, unit}. `accuracy` names another metric as the accuracy, `unit` (percent or
    fraction) its unit. `lost(line number, what)` is called for lines without an event. UserError, with the number,
    for a line with the mark that is not JSON with an event and a time.
    """
    reader = _Reader(accuracy, unit, lost)
    for number, line in enumerate(lines, 1):
        _, token, text = line.partition(MARK)
        if token:
            yield from reader.take(number, *_fields(text, number))
    yield from reader.end()


class _Reader:
    def __init__(self, accuracy: str | None, unit: str | None, lost: Callable[[int, str], object]):
        self._accuracies = {accuracy: unit} if accuracy else ACCURACIES
        self._lost = lost
        self._rank = None
        self._has_rank = False
        self._epochs = 0
        self._has_accuracy = False
        self._stop: Event | None = None  # TRAIN_END, until FINISHED states the status

    def take(self, number: int, t: float, name: str, value: dict, rank) -> Iterator[Event]:
        """The events of a line."""
        if not self._has_rank:
            self._rank, self._has_rank = rank, True
        if rank != self._rank:
            self._lost(number, "lines of other ranks")
        elif name in ("INIT_START", "INIT_END", "TRAIN_START"):
            kind = {"INIT_START": "init_start", "INIT_END": "init_stop", "TRAIN_START": "run_start"}[name]
            yield {"t": t, "kind": kind}
        elif name == "TRAIN_END":
            self._stop = self._stop or {"t": t, "kind": "run_stop"}
        elif name == "EPOCH_END":
            self._epochs += 1
            yield {"t": t, "kind": "epoch_stop", "epoch": self._epochs}
        elif name == "STEP_END" and value:
            steps = _count(value.get("global_steps"))
            yield {"t": t, "kind": "reading", "position": [] if steps is None else [steps], "values": value}
        elif name == "EVALUATE" and (found := self._accuracy(value, number)) is not None:
            yield {"t": t, "kind": "eval_stop", "accuracy": found, **_where(value)}
        elif name == "SUBMIT_INFO":
            yield {"t": t, "kind": "run_config", **_config(value)}
        elif name == "FINISHED":
            yield from self._finish(number, t, value)
        elif name not in _PASSED_OVER:
            self._lost(number, f"{name[:40]} lines without {'a recognised value' if value else 'a value'}")

    def end(self) -> Iterator[Event]:
        """The end of a log without FINISHED."""
        if self._stop is not None:
            yield self._stop
            self._stop = None

    def _finish(self, number: int, t: float, value: dict) -> Iterator[Event]:
        stop = self._stop or {"t": t, "kind": "run_stop"}
        final = {name.replace("final_", "eval_"): item for name, item in value.items() if name.startswith("final_")}
        found = None if self._has_accuracy else self._accuracy(final, number)
        if found is not None:
            samples = _samples(value)
            yield {"t": stop["t"], "kind": "eval_stop", "accuracy": found, **({"samples": samples} if samples else {})}
        if isinstance(value.get("converged"), bool):
            reached = value["converged"]
            stop |= {"status": "success", "reason": "target"} if reached else {"status": "aborted", "reason": "epochs"}
        yield stop
        self._stop = None
        for name, item in value.items():
            if is_float(item):
                rate = next((ours for end, ours in _RATES.items() if name.endswith(end) and "throughput" in name), None)
                yield {"t": t, "kind": "figure", "name": rate or FIGURES.get(name, name), "value": item, "unit": ""}

    def _accuracy(self, value: dict, number: int) -> float | None:
        for name, unit in self._accuracies.items():
            item = value.get(name)
            item = float(item) if item in ("nan", "inf", "-inf") else item
            if not is_float(item):
                continue
            if unit is None:
                raise UserError(
                    f"line {number}: {name} must have a unit, --accuracy-unit percent or fraction, got {item:g}"
                )
            self._has_accuracy = True
            return fraction(item) if unit == "percent" else float(item)
        return None


def _fields(text: str, number: int) -> tuple[float, str, dict, object]:
    """(unix time, event, values, rank) of a line."""
    try:
        fields = json.loads(text)
        metadata = fields["metadata"]
        name, time_ms, rank = fields["event"], metadata["time_ms"], metadata.get("rank")
        valid = is_number(time_ms) and MIN_T < time_ms / 1000 < MAX_T and isinstance(name, str)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        valid = False
    if not valid:
        raise UserError(f"line {number}: must be JSON with event and metadata.time_ms, got {text[:60]!r}")
    if is_in_milliseconds(time_ms * 1000):  # in seconds: it would give a run of a thousandth of its length
        raise UserError(f"line {number}: time_ms must be in milliseconds since 1970, got {time_ms:.15g}")
    value = {key: item for key, item in dictionary(fields.get("value")).items() if not _is_huge(item)}
    return time_ms / 1000, name, value, rank


def _is_huge(item) -> bool:
    """Too large for a float; no figure of a run is."""
    return type(item) is int and abs(item) > LARGEST


def _where(value: dict) -> dict:
    """The step, epoch, samples and duration of an evaluation, those that its line has."""
    found = {"step": "global_steps", "epoch": "epoch", "samples": "num_trained_samples"}
    where = {name: _count(value.get(theirs)) for name, theirs in found.items()}
    seconds = value.get("time")
    if is_number(seconds) and 0 <= seconds < 1e9:
        where["duration_s"] = seconds
    return {name: item for name, item in where.items() if item is not None}


def _count(item) -> int | None:
    return item if type(item) is int and 0 <= item < 1 << 53 else None


def _samples(value: dict) -> int | None:
    """Samples trained: FINISHED states them as a rate and a time."""
    rate = next((item for name, item in value.items() if "throughput" in name and name.endswith("_raw")), None)
    seconds = value.get("train_time", value.get("raw_train_time"))
    if not (is_number(rate) and is_number(seconds)):
        return None
    samples = rate * seconds
    return round(samples) if math.isfinite(samples) and 0 < samples < 1 << 53 else None


def _config(value: dict) -> dict:
    """SUBMIT_INFO: model, and its configuration as options."""
    settings = dictionary(value.get("config"))
    config: dict = {"options": settings}
    if isinstance(value.get("model"), str):
        config["benchmark"] = value["model"].partition("-")[0]
    if _count(settings.get("seed")) is not None:
        config["seed"] = settings["seed"]
    if type(settings.get("target_mlm_accuracy")) is float:
        config["target"] = settings["target_mlm_accuracy"]
    return config


class PerfLogLog:
    """Events to lines, as they happen; FINISHED, with our figures, when the run has stopped."""

    def __init__(self):
        self._tally = Tally()
        self._stopped = self._finished = False

    def feed(self, event: Event) -> list[str]:
        """The lines that this event completes, without newlines."""
        self._tally.feed(event)
        t, kind = event["t"], event["kind"]
        names = {"init_start": "INIT_START", "init_stop": "INIT_END", "run_start": "TRAIN_START"}
        if kind in names:
            return [_line(t, names[kind])]
        if kind == "run_config":
            settings = {"seed": event["seed"]} if event.get("seed") is not None else {}
            return [_line(t, "SUBMIT_INFO", {"model": event.get("benchmark"), "config": settings})]
        if kind == "epoch_stop":
            return [_line(t, "EPOCH_END", {"epoch": event["epoch"]})]
        if kind == "reading":
            return [_line(t, "STEP_END", event["values"])]
        if kind == "eval_stop":
            theirs = {"step": "global_steps", "epoch": "epoch", "samples": "num_trained_samples", "duration_s": "time"}
            where = {new: event[old] for old, new in theirs.items() if event.get(old) is not None}
            return [_line(t, "EVALUATE", {"eval_accuracy": event["accuracy"], **where})]
        if kind == "run_stop" and not self._stopped:
            self._stopped = True
            return [_line(t, "TRAIN_END")]
        return self._finish(t) if kind == "process_stop" and self._stopped else []

    def close(self) -> list[str]:
        """FINISHED of a run without process_stop. A log that was cut off stays so."""
        return self._finish(self._tally.last_t) if self._stopped else []

    def _finish(self, t: float) -> list[str]:
        if self._finished:
            return []
        self._finished = True
        summary = self._tally.summary()
        names = {"e2e_time": "e2e_time", "train_time": "total_time", "final_accuracy": "final_accuracy"}
        names |= {f"throughput(ips){end}": ours for end, ours in _RATES.items()}
        value = {theirs: summary[ours] for theirs, ours in names.items() if summary[ours] is not None}
        if summary["status"] is not None:
            value["converged"] = summary["status"] == "success"
        return [_line(t, "FINISHED", value)]


def _line(t: float, name: str, value: dict | None = None) -> str:
    fields = {"event": name, **({} if value is None else {"value": value})}
    fields["metadata"] = {"file": "airank_fast/record/formats/perflog.py", "lineno": 0, "time_ms": round(t * 1000)}
    fields["metadata"]["rank"] = 0
    return f"{MARK} {json.dumps(name_floats(fields))}"
