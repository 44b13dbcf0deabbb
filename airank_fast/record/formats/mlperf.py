"""The MLPerf training log: `:::MLLOG {json}` lines, as the rules of the 4.0 round want them.

Source: mlcommons/training_policies (training_rules, "Appendix: Benchmark Specific Rules") and the compliance
checker of mlperf-logging, usage training, ruleset 4.0.0. The hyper-parameters come from `reported` of the
run_config and data events, whose values also replace the run's own (a trial reports the sizes of the real
run).
"""

import json
import sys
from collections.abc import Iterable, Iterator

from airank_fast.errors import UserError
from airank_fast.record.events import Event

_TOKEN = ":::MLLOG "
_FILE = "airank_fast/record/formats/mlperf.py"
_POINT, _START, _END = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
_BENCHMARKS = {"resnet50": "resnet", **dict.fromkeys(("bert_tiny", "bert_mini", "bert_base", "bert_large"), "bert")}
_EPOCHS_ARE_SAMPLES = {"bert"}  # benchmarks whose epoch_num is the number of samples trained
_SUBMISSION = ("org", "platform", "division", "status")
_SIZES = ("global_batch_size", "gradient_accumulation_steps", "train_samples", "eval_samples")


class MLPerfLog:
    """Events to lines of the log, as they happen.

    What may appear once (the configuration, init_start to run_start) is taken from the first process of a
    resumed run; a block or an evaluation that a resumed process opens again is not written twice.
    """

    def __init__(self):
        self._seen: set[str] = set()
        self._evaluated: set[float] = set()
        self._sizes: Event | None = None  # the run_config, until the data set is known as well
        self._block: dict | None = None  # metadata of the open block
        self._epoch = "epoch"  # the field of an evaluation that its epoch_num is
        self._skips_evaluation = False
        self._last_t = 0.0

    def feed(self, event: Event) -> list[str]:
        """The lines that this event completes, without newlines."""
        self._last_t = event["t"]
        handle = getattr(self, "_on_" + event["kind"], None)
        return [] if handle is None or "run_stop" in self._seen else handle(event)

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
        if "run_config" in self._seen:
            return []
        self._seen.add("run_config")
        benchmark = event.get("benchmark")
        values = {"submission_benchmark": _BENCHMARKS.get(benchmark, benchmark)}
        self._epoch = "samples" if values["submission_benchmark"] in _EPOCHS_ARE_SAMPLES else "epoch"
        submission = event.get("submission") or {}
        values |= {f"submission_{name}": submission[name] for name in _SUBMISSION if name in submission}
        values |= {"seed": event["seed"]} if event.get("seed") is not None else {}
        self._sizes = event
        return _points(event["t"], values)

    def _on_data(self, event) -> list[str]:
        """Sizes and hyper-parameters, once: some follow from the data set, which is first touched late."""
        if self._sizes is None:
            return []
        sources, self._sizes = (self._sizes, event), None
        values = {name: source[name] for source in sources for name in _SIZES if source.get(name) is not None}
        for source in sources:  # `reported` goes before what was
            values |= source.get("reported") or {}
        return _points(event["t"], values)

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
        """Of a run without a data event, or one that never came to its data set."""
        return self._on_data({"t": event["t"]})

    def _on_block_start(self, event) -> list[str]:
        if self._block is not None:
            return []
        if "first_epoch" in event:
            self._block = {"first_epoch_num": event["first_epoch"], "epoch_count": event["epoch_count"]}
        else:
            self._block = {"samples_count": event["samples"]}
        return [*self._late_sizes(event), _line(event["t"], _START, "block_start", None, self._block)]

    def _on_block_stop(self, event) -> list[str]:
        if self._block is None:
            return []
        metadata, self._block = self._block, None
        if "samples_count" in metadata:
            metadata = {"samples_count": event["samples"]}
        return [_line(event["t"], _END, "block_stop", None, metadata)]

    def _on_eval_start(self, event) -> list[str]:
        self._skips_evaluation = event["step"] in self._evaluated  # done again after a resume
        if self._skips_evaluation:
            return []
        return [_line(event["t"], _START, "eval_start", None, {"epoch_num": event[self._epoch]})]

    def _on_eval_stop(self, event) -> list[str]:
        if self._skips_evaluation:
            return []
        self._evaluated.add(event["step"])
        metadata = {"epoch_num": event[self._epoch]}
        return [
            _line(event["t"], _POINT, "eval_accuracy", event["accuracy"], metadata),
            _line(event["t"], _END, "eval_stop", None, metadata),
        ]


def _points(t: float, values: dict) -> list[str]:
    return [_line(t, _POINT, key, value, {}) for key, value in values.items()]


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


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Lines of a log, ours or another program's, back to events; other lines are passed over.

    Configuration lines in a row become one run_config, with the hyper-parameters in `reported`.
    An evaluation becomes eval_start and eval_stop {epoch, accuracy}, the latter where its accuracy stands.
    Keys that no event carries are left out. A line with the prefix that is not JSON with time_ms, key and
    value: UserError with its number.
    """
    config: Event | None = None
    for number, line in enumerate(lines, 1):
        _, token, text = line.partition(_TOKEN)
        if not token:
            continue
        fields = _fields(text, number)
        t, key, value, metadata = fields["time_ms"] / 1000, fields["key"], fields["value"], fields["metadata"]
        if fields["event_type"] == _POINT and key not in ("cache_clear", "eval_accuracy"):
            config = config or {"t": t, "kind": "run_config", "submission": {}, "reported": {}}
            _configure(config, key, value)
            continue
        if config is not None:
            yield config
            config = None
        event = _event(t, key, value, metadata)
        if event is not None:
            yield event
    if config is not None:
        yield config


def _fields(text: str, number: int) -> dict:
    try:
        fields = json.loads(text)
        t, key, _ = fields["time_ms"], fields["key"], fields["value"]
    except (ValueError, KeyError, TypeError):
        t = key = None
    if not isinstance(t, (int, float)) or not isinstance(key, str):
        raise UserError(f"line {number}: JSON with time_ms, key and value is required, got {text[:60]!r}")
    return {"event_type": _POINT, **fields, "metadata": fields.get("metadata") or {}}


def _configure(config: Event, key: str, value) -> None:
    if key == "submission_benchmark":
        names = {short: name for name, short in _BENCHMARKS.items()}
        config["benchmark"] = names.get(value, value)
    elif key.startswith("submission_"):
        config["submission"][key.removeprefix("submission_")] = value
    elif key == "seed" or key in _SIZES:
        config[key] = value
    else:
        config["reported"][key] = value


def _event(t: float, key: str, value, metadata: dict) -> Event | None:
    event = {"t": t, "kind": key}
    if key in ("init_start", "init_stop", "run_start"):
        return event
    if key == "cache_clear":
        return event | {"value": value}
    if key == "run_stop":
        return event | {"status": metadata.get("status")}
    if key in ("block_start", "block_stop"):
        names = {"first_epoch_num": "first_epoch", "epoch_count": "epoch_count", "samples_count": "samples"}
        return event | {new: metadata[old] for old, new in names.items() if old in metadata}
    if key == "eval_start":
        return event | {"epoch": metadata.get("epoch_num")}
    if key == "eval_accuracy":
        return event | {"kind": "eval_stop", "epoch": metadata.get("epoch_num"), "accuracy": value}
    if key == "epoch_stop":
        return event | {"epoch": metadata.get("epoch_num")}
    return None
