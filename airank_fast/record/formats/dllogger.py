"""NVIDIA DLLogger, as text and as JSON lines: the log of DeepLearningExamples' training scripts.

    DLL 2021-03-23 09:24:42.127408 - PARAMETER arch : resnet50  batch_size : 256  amp : True
    DLL 2021-03-23 09:25:16.839221 - Epoch: 0 Iteration: 100  train.loss : 7.65124  train.total_ips : 848.12 img/s
    DLL 2021-03-23 09:50:02.080403 - Epoch: 0  train.loss : 6.55774  val.top1 : 4.79 % val.loss : 5.81863
    DLLL {"timestamp": "1570716921.84", "type": "LOG", "step": [0, 5], "data": {"train.loss": 8.56}}

Source: github.com/NVIDIA/dllogger, README and logger.py. A step is [epoch, iteration, validation iteration]; a
record that sums up the later ones omits them, and [] sums up the training. Epochs count from 0. A script may format
the step of the text form as it likes; its usual words and plain lists are read.

Text has local time without a zone. The first record is the begin of the run, as nothing earlier is in the log. An
accuracy beside a validation iteration is that of an unfinished evaluation: a reading, not an evaluation. A process
that resumes from a checkpoint appends to the log and states its parameters again, but not which epochs it repeats.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone, tzinfo

from airank_fast.errors import UserError
from airank_fast.numeric import LARGEST, is_float
from airank_fast.record.events import Event, name_floats
from airank_fast.record.foreign.complete import MAX_T, MIN_T
from airank_fast.tasks import fraction

ACCURACY = "val.top1"
# Names of the accuracy in PyTorch's, MXNet's and TensorFlow's scripts, with its unit where they have one unit only.
ACCURACIES = {ACCURACY: None, "val.accuracy": "fraction", "top1_accuracy": "fraction"}
# Names of the throughput in the record that sums up the run: TensorFlow's ResNet-50, PyTorch's BERT and ResNet-50.
_RATES = ("train_throughput", "training_sequences_per_second", "train.total_ips")
_SLACK_S = 60.0  # by which records of several processes may be out of order

_TEXT = re.compile(r"DLL (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[+-]\d\d:\d\d)?) -")
_EPOCH = re.compile(r"\bEpoch: (\d{1,15})\b")
_ITERATION = re.compile(r"(?<!Validation )\bIteration: (\d{1,15})\b")
_VALIDATION = re.compile(r"\bValidation Iteration: (\d{1,15})\b")
_NUMBERS = re.compile(r"[\[(]?(\d{1,15}(?:, ?\d{1,15})*|),?[\])]?")
_WORDS = {"True": True, "False": False, "None": None}
_MAX_UNITS = 1000


def parse(
    lines: Iterable[str],
    zone: tzinfo = timezone.utc,
    accuracy: str | None = None,
    unit: str | None = None,
    lost: Callable[[int, str], object] = lambda number, what: None,
) -> Iterator[Event]:
    """Records of a log to events; other lines are skipped.

    run_config {options, and the fields that follow from them}, run_start, reading {position, values}, epoch_stop
    {epoch}, eval_stop {epoch, accuracy}, figure {avg_ips, as the summary states it}, resume, run_stop {status, if
    given}. `zone` is that of timestamps without one, `accuracy` the metric that is the accuracy of an evaluation
    (default: the first of ACCURACIES that a record has), `unit` its unit (percent or fraction) where the log has none;
    without either the event has the number of the log and unit "unstated". `lost(line number, what)` is called for
    records that cannot be read and accuracies that are not used. UserError where local time runs back.
    """
    reader, clock = _Reader(accuracy, unit, lost), _Clock(zone)
    for number, line in enumerate(lines, 1):
        record = _record(line, clock)
        if clock.back_s > _SLACK_S:
            raise UserError(
                f"line {number}: times must not run back, got {clock.back_s:.0f} s: local time over the end of "
                "daylight saving is read by airank_fast.convert with the name of its zone, --time-zone Europe/Berlin"
            )
        if record is not None:
            yield from reader.take(number, *record)
        elif "DLLL " in line or ("DLL " in line and _TEXT.search(line)):
            lost(number, "DLLogger records that cannot be read")
    yield from reader.end()


class _Reader:
    """Makes the events of a record, given the records before it."""

    def __init__(self, accuracy: str | None, unit: str | None, lost: Callable[[int, str], object]):
        self._accuracies, self._unit, self._lost = (accuracy,) if accuracy else tuple(ACCURACIES), unit, lost
        self._units: dict[str, str] = {}
        self._options: dict = {}  # of this process, stated before its first step
        self._started = self._trained = self._evaluated = self._rated = self._stopped = False
        self._stop: Event | None = None  # the end, held until all records that sum up the run are read
        self._epochs = 0  # completed

    def take(self, number: int, t: float, step, data: dict, units: dict) -> Iterator[Event]:
        """The events of a record."""
        if len(self._units) < _MAX_UNITS:
            self._units.update(units)
        if step == "METADATA":
            return
        if step == "PARAMETER":
            yield from self._parameters(t, data)
        if not self._started:
            self._started = True
            yield {"t": t, "kind": "run_start"}
        if not isinstance(step, list):
            if step != "PARAMETER":
                self._lost(number, "DLLogger records of a step that cannot be read")
            return
        if data:
            yield {"t": t, "kind": "reading", "position": step, "values": data}
        self._trained = self._trained or bool(step)
        if len(step) == 1:
            yield from self._epoch(number, t, step[0] + 1, data)
        elif not step:
            yield from self._summary(number, t, data)

    def end(self) -> Iterator[Event]:
        """The end of a run without evaluations of its epochs: its last record that sums it up."""
        if self._stop is not None and not self._stopped:
            self._stopped = True
            yield self._stop

    def _parameters(self, t: float, data: dict) -> Iterator[Event]:
        """The configuration; stated again after training, it is that of a process that resumes the run."""
        if self._trained and self._options.keys() & data.keys():
            self._trained = self._stopped = False
            self._stop, self._options = None, {}
            yield {"t": t, "kind": "resume"}
        if not self._trained:
            self._options.update(data)
        yield {"t": t, "kind": "run_config", **_config(data)}

    def _epoch(self, number: int, t: float, epoch: int, data: dict) -> Iterator[Event]:
        if epoch > self._epochs:
            self._epochs = epoch
            yield {"t": t, "kind": "epoch_stop", "epoch": epoch}
        yield from self._evaluation(number, t, data, {"epoch": epoch})

    def _summary(self, number: int, t: float, data: dict) -> Iterator[Event]:
        """A record that sums up the run. Its accuracy repeats that of an epoch, or is that of the only evaluation."""
        status = {"status": data["status"]} if data.get("status") in ("success", "aborted") else {}
        self._stop = {"t": t, "kind": "run_stop", **status}
        if not self._evaluated:
            epochs = self._options.get("num_iter") if self._options.get("iter_unit") == "epoch" else None
            found = list(self._evaluation(number, t, data, {"epoch": epochs} if type(epochs) is int else {}))
            self._evaluated = False  # still no epoch has an accuracy
            yield from found
        rate = next((data[name] for name in _RATES if is_float(data.get(name))), None)
        if rate is not None and not self._rated:
            self._rated = True
            yield {"t": t, "kind": "figure", "name": "avg_ips", "value": rate, "unit": "samples/sec"}
        if self._evaluated and not self._stopped:
            yield from self.end()

    def _evaluation(self, number: int, t: float, data: dict, where: dict) -> Iterator[Event]:
        for name in self._accuracies:
            value = data.get(name)
            if value in ("nan", "inf", "-inf"):
                value = float(value)
            if is_float(value):
                self._evaluated = True
                yield {"t": t, "kind": "eval_stop", **where, **self._in_its_unit(name, value)}
                return
        for name in data:
            if _names_an_accuracy(name):
                self._lost(number, f"values of {name[:60]}, which --accuracy-metric makes the accuracy")

    def _in_its_unit(self, name: str, value: float) -> dict:
        stated = {"%": "percent", "fraction": "fraction"}.get(self._units.get(name))
        unit = stated or self._unit or ACCURACIES.get(name)
        if unit is None:
            return {"accuracy": float(value), "unit": "unstated"}
        return {"accuracy": fraction(value) if unit == "percent" else float(value)}


def _names_an_accuracy(name: str) -> bool:
    words = re.split(r"[._]", name)
    return bool({"top1", "acc", "acc1", "accuracy"} & set(words)) and not {"top5", "k"} & set(words)


def _config(parameters: dict) -> dict:
    """All parameters as options, and the fields of run_config that follow from those of ConvNets."""
    config: dict = {"options": parameters}
    if isinstance(parameters.get("arch"), str):
        config["benchmark"] = parameters["arch"]
    names = ("world_size", "batch_size", "optimizer_batch_size", "seed", "SEED", "num_examples")
    counts = {name: parameters.get(name) for name in names}
    counts = {name: value for name, value in counts.items() if type(value) is int and abs(value) < 1 << 53}
    ours = {"world_size": "world_size", "seed": "seed", "SEED": "seed", "num_examples": "samples_per_epoch"}
    config |= {ours[name]: counts[name] for name in ours if name in counts}
    device_batch, ranks = counts.get("batch_size", 0), counts.get("world_size", 0)
    if device_batch > 0 and ranks > 0:
        optimizer_batch = counts.get("optimizer_batch_size", -1)
        steps = max(1, optimizer_batch // (device_batch * ranks))
        config |= {"global_batch_size": device_batch * ranks * steps, "gradient_accumulation_steps": steps}
    if parameters.get("amp") is True or parameters.get("fp16") is True:
        config["precision"] = "fp16"
    return config


def _record(line: str, clock: _Clock) -> tuple[float, object, dict, dict] | None:
    """(unix time, "PARAMETER" | "METADATA" | [epoch, ...] | another word, values, units) of a line."""
    _, token, text = line.partition("DLLL ")
    if token or line.startswith("{"):
        return _json_record(text if token else line, clock)
    match = _TEXT.search(line) if "DLL " in line else None
    if match is None:
        return None
    t = clock(match[1])
    return None if t is None else (t, *_text_record(line[match.end() :]))


def _json_record(text: str, clock: _Clock) -> tuple[float, object, dict, dict] | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    t = _number(fields.get("timestamp"))
    t = clock(fields.get("datetime")) if t is None else t
    step, data = fields.get("step"), fields.get("data")
    if t is None or not MIN_T < t < MAX_T:
        return None
    if fields.get("type") == "METADATA":
        metadata = fields.get("metadata")
        unit = metadata.get("unit") if isinstance(metadata, dict) else None
        named = isinstance(unit, str) and isinstance(fields.get("metric"), str)
        return t, "METADATA", {}, {fields["metric"]: unit} if named else {}
    if not isinstance(data, dict):
        return None
    if isinstance(step, list):
        step = step if all(type(part) is int and 0 <= part < 1 << 53 for part in step) else "?"
    elif type(step) is int and 0 <= step < 1 << 53:
        step = [step]
    elif not isinstance(step, str):
        step = "?"
    return t, step, {name: _plain(value) for name, value in data.items()}, {}


def _text_record(text: str) -> tuple[object, dict, dict]:
    """The words of the step, then `name : value unit` for each value."""
    head, *parts = text.split(" : ")
    step_text, _, name = head.rstrip().rpartition(" ")
    values, units = {}, {}
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        value_text, _, next_name = (part, "", "") if last else part.rstrip().rpartition(" ")
        value, unit = _value(value_text.strip())
        values[name] = value
        if unit:
            units[name] = unit
        name = next_name
    step_text = (step_text if parts else text).strip()
    return _step(step_text), values, units


def _step(text: str) -> object:
    if text == "PARAMETER":
        return text
    if text in ("", "Summary:", "Summary"):
        return []
    epoch, iteration, validation = (pattern.search(text) for pattern in (_EPOCH, _ITERATION, _VALIDATION))
    if epoch:
        found = [epoch, iteration, validation] if iteration else [epoch]
        return [int(match[1]) for match in found if match]
    numbers = _NUMBERS.fullmatch(text)
    if numbers is None:
        return text
    return [int(part) for part in numbers[1].replace(",", " ").split()]


def _value(text: str) -> tuple[object, str]:
    """A value and its unit: `848.12 img/s`, `True`, `/imagenet`."""
    number_text, _, unit = text.partition(" ")
    number = _number(number_text)
    unit = unit.strip()
    if number is None or " " in unit:
        return _WORDS.get(text, text), ""
    return (int(number_text) if number_text.lstrip("-").isdecimal() and number.is_integer() else number), unit


def _number(text) -> float | None:
    if isinstance(text, str) and len(text) < 400 and "_" not in text:
        try:
            return float(text)
        except ValueError:
            return None
    return None


def _plain(value):
    """A JSON value as it is, a number too large for a float as text."""
    if type(value) is int and abs(value) > LARGEST:
        return str(value)[:400]
    return value


class _Clock:
    """Text to unix seconds. In the hour that comes twice, at the end of daylight saving, time does not run back."""

    def __init__(self, zone: tzinfo):
        self._zone = zone
        self._last_t = -math.inf
        self.back_s = 0.0  # by how much the last local time ran back

    def __call__(self, text: object) -> float | None:
        self.back_s = 0.0
        moment = _moment(text)
        try:
            if moment is None or moment.tzinfo is not None:
                return None if moment is None else moment.timestamp()
            t = moment.replace(tzinfo=self._zone).timestamp()
            if t < self._last_t - _SLACK_S:
                t = moment.replace(tzinfo=self._zone, fold=1).timestamp()
        except (ValueError, OverflowError):
            return None
        self.back_s = max(self._last_t - t, 0.0)
        self._last_t = max(self._last_t, t)
        return t


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    head, dot, fraction = text.strip().partition(".")
    if dot:  # Python 3.10 reads fractions of 3 and 6 digits only
        digits = re.match(r"\d{0,6}", fraction)[0]
        head = f"{head}.{digits:0<6}{fraction[len(digits) :]}"
    try:
        return datetime.fromisoformat(head)
    except ValueError:
        return None


class DLLoggerLog:
    """Events to JSON lines, as they happen. Accuracies are fractions, as the metadata states."""

    def __init__(self):
        self._config: Event | None = None
        self._started = self._stopped = False
        self._start_t = 0.0
        self._summary: dict = {}

    def feed(self, event: Event) -> list[str]:
        """The lines that this event completes, without newlines."""
        kind = event["kind"]
        if kind == "run_config":
            self._config = self._config or event
        if kind == "run_start" and not self._started:
            return self._begin(event["t"])
        if not self._started or self._stopped:
            return []
        if kind == "reading":
            return self._reading(event)
        if kind == "epoch_stop":
            return [self._log(event["t"], [event["epoch"] - 1], {})]
        if kind == "eval_stop":
            return [self._log(event["t"], [event["epoch"] - 1], {ACCURACY: event["accuracy"]})]
        if kind == "run_stop":
            self._stopped = True
            status = {"status": event["status"]} if event.get("status") else {}
            return [self._log(event["t"], [], {**self._summary, **status})]
        return []

    def _reading(self, event: Event) -> list[str]:
        """A record for a reading; without the accuracy of an epoch, and in the last record if it sums up the run."""
        position, values = event["position"], dict(event["values"])
        if len(position) < 2:
            values.pop(ACCURACY, None)
        if position:
            return [self._log(event["t"], position, values)] if values else []
        self._summary |= values
        return []

    def close(self) -> list[str]:
        """A log that was cut off stays so."""
        return []

    def _begin(self, t: float) -> list[str]:
        self._started, self._start_t = True, t
        config = self._config or {}
        options = dict(config.get("options") or {})
        options |= {"arch": config["benchmark"]} if config.get("benchmark") else {}
        options |= {name: config[name] for name in ("world_size", "seed") if config.get(name) is not None}
        metadata = {"type": "METADATA", "metric": ACCURACY, "metadata": {"unit": "fraction"}}
        return [self._log(t, "PARAMETER", options), self._line(t, metadata)]

    def _log(self, t: float, step, data: dict) -> str:
        return self._line(t, {"type": "LOG", "step": step, "data": data})

    def _line(self, t: float, fields: dict) -> str:
        moment = datetime.fromtimestamp(t, timezone.utc)
        stamps = {"timestamp": repr(t), "datetime": str(moment), "elapsedtime": repr(round(t - self._start_t, 6))}
        return "DLLL " + json.dumps(name_floats(stamps | fields))
