"""The rule book of a `:::MLLOG` training log: MLPerf training 4.0.0, closed division, ResNet-50 and BERT.

It checks what the official compliance checker requires, and what the training rules forbid and that checker accepts:
the order of times and events, the end of the run, the evaluation cadence, sizes and the values of hyper-parameters.
rules.py has the rules as data, contents.py checks values, this file their order and times, result.py the logs of a
result together. docs/verify-mlperf.md compares it with the official checker.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator

from airank_fast.record.formats.mlperf import is_in_milliseconds, records
from airank_fast.record.lines import Lines
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule
from airank_fast.rules.mlperf import contents, rules
from airank_fast.rules.mlperf.log import Evaluation, Log
from airank_fast.rules.mlperf.rules import is_number, short

_MAX_OF_A_RULE = 10  # findings of one rule that are listed
_MAX_NAMES = 50  # other keys, namespaces and seeds that are kept


def check(lines: Lines, facts: object = None) -> Iterator[Finding]:
    """The findings about one log, in the order of its lines; MLPerf's rules need no `facts`."""
    yield from read(lines).findings


def read(lines: Lines | str | os.PathLike) -> Log:
    """Reads a log of any size and checks it."""
    lines = lines if isinstance(lines, Lines) else Lines(lines)
    book = _Book(lines.path)
    feed, last_ms = book.feed, -math.inf
    for number, record, trouble in records(lines):
        if record is None:
            book.find(rules.RECORD, number, trouble, "the official parser refuses or loses the line")
            continue
        time_ms = record["time_ms"]
        if time_ms < last_ms and not rules.has_no_time(record):
            book.report_backward_time(number, record["key"], last_ms - time_ms)
        last_ms = time_ms or last_ms
        feed(number, record)
    book.check_whole(utf16=lines.oddities.get("utf16"))
    return book.log


class _Findings:
    """Collects findings, of each rule the first _MAX_OF_A_RULE."""

    def __init__(self, path: str):
        self.log = Log(path)
        self._counts: Counter[Rule] = Counter()
        self._omitted: dict[Rule, Finding] = {}  # the first omitted finding of a rule

    def find(self, rule: Rule, line: int | None, found: str, required: str, severity: str | None = None) -> None:
        """Adds a finding."""
        self._counts[rule] += 1
        if self._counts[rule] <= _MAX_OF_A_RULE:
            self.log.findings.append(rule.broken(self.log.path, line, found, required, severity))
        elif rule not in self._omitted:
            self._omitted[rule] = rule.broken(self.log.path, line, found, required, severity)

    def finish(self) -> None:
        """Adds the numbers of omitted findings and sorts all by line.

        For a benchmark without a book only the findings of common rules stay.
        """
        for rule, first in self._omitted.items():
            more = self._counts[rule] - _MAX_OF_A_RULE - 1
            found = f"{first.found}, and {more} more like it" if more else first.found
            self.log.findings.append(rule.broken(first.path, first.line, found, first.required, first.severity))
        if self.log.lacks_book:
            of_a_book = {(rule.name, rule.source) for rule in rules.OF_A_BOOK}
            self.log.findings = [each for each in self.log.findings if (each.rule, each.source) not in of_a_book]
        self.log.findings.sort(key=lambda finding: (finding.line is None, finding.line or 0))


class _Book(_Findings):
    """Checks a log record by record."""

    def __init__(self, path: str):
        super().__init__(path)
        self._seen: Counter[str] = Counter()  # lines of each key with a rule
        self._other_keys: dict[str, int] = {}  # keys without a rule -> first line
        self._namespaces: set[str] = set()
        self._mistyped: set[str] = set()  # keys whose wrong event_type is reported
        self._moments: dict[str, tuple[float, int]] = {}  # init_start, init_stop, run_start, run_stop -> time, line
        self._open: dict[str, tuple[dict, int]] = {}  # started intervals -> metadata, line
        self._last_epoch = 0.0
        self._initialized_in_time = True
        self._handlers = {
            **{key: getattr(self, f"_on_{key}") for key in rules.KEYS_IN_ORDER},
            **{f"{name}_start": self._on_interval_start for name in rules.INTERVALS_OF},
            **{f"{name}_stop": self._on_interval_stop for name in rules.INTERVALS_OF},
        }
        self._of_interest = rules.KEYS_ONCE | self._handlers.keys()

    @property
    def _counts_samples(self) -> bool:
        return self.log.benchmark is not None and self.log.benchmark.counts_samples

    def report_backward_time(self, line: int, key: str, by_ms: float) -> None:
        """Reports a line whose time is before that of the previous line."""
        severity, required = ERROR, "times that do not run backwards"
        if by_ms <= rules.TIME_SLACK_MS:
            severity = WARNING
        elif key not in rules.KEYS_OF_THE_CLOCK:
            severity, required = (
                WARNING,
                "times that do not run backwards, except for facts that another process wrote late",
            )
        elif self.log.lacks_book:
            severity, required = (
                WARNING,
                "times that do not run backwards, except where the benchmark's own book allows it",
            )
        elif self._counts_samples and key in rules.KEYS_OF_CHECKPOINTS:
            severity, required = (
                WARNING,
                "times that do not run backwards, except for checkpoints that were evaluated later",
            )
        self.find(rules.TIME_ORDER, line, f"the clock runs back by {by_ms:.0f} ms at {key[:60]}", required, severity)

    def feed(self, number: int, record: dict) -> None:
        """Checks one record against those before it."""
        key, time_ms, metadata = record["key"], record["time_ms"], record.get("metadata")
        if record.get("namespace") != "":
            self._judge_namespace(number, record)
        if type(time_ms) is not int or not is_in_milliseconds(time_ms):
            self._judge_time(number, record)
        if metadata is None:
            self.find(rules.METADATA, number, f"{key[:60]} without metadata", "an object: the official parser needs it")
            metadata = {}
        if key not in self._of_interest:
            value = record["value"]
            if value != value:
                self.find(rules.NOT_A_NUMBER, number, f"{key[:60]} is NaN", "a number")
            if key not in self._other_keys and len(self._other_keys) < _MAX_NAMES:
                self._other_keys[key] = number
            return
        self._seen[key] += 1
        self._judge_event_type(number, key, record.get("event_type"))
        if key in rules.KEYS_ONCE:
            self._remember(number, key, record["value"])
        handler = self._handlers.get(key)
        if handler is not None:
            handler(number, record, metadata)

    def _judge_namespace(self, number: int, record: dict) -> None:
        name = short(record.get("namespace"))
        if name not in self._namespaces and len(self._namespaces) < _MAX_NAMES:
            self._namespaces.add(name)
            found = f"namespace {name}" if "namespace" in record else "no namespace"
            self.find(rules.NAMESPACE, number, found, "an empty one in a submission")

    def _judge_time(self, number: int, record: dict) -> None:
        time_ms = record["time_ms"]
        if rules.has_no_time(record):
            found = f"{record['key'][:60]} with time_ms 0"
            self.find(rules.TIME_UNIT, number, found, "the time at which it was logged", WARNING)
        elif is_in_milliseconds(time_ms):
            self.find(rules.TIME_UNIT, number, f"time_ms {time_ms!r}", "a whole number of milliseconds", WARNING)
        else:
            self.find(rules.TIME_UNIT, number, f"time_ms {time_ms:g}", "milliseconds since 1970, about 1.7e12")

    def _judge_event_type(self, number: int, key: str, event_type: object) -> None:
        required = {"start": rules.START, "stop": rules.END}.get(key.rpartition("_")[2], rules.POINT)
        if event_type != required and key not in self._mistyped:
            self._mistyped.add(key)
            self.find(rules.EVENT_TYPE, number, f"{key} has event_type {short(event_type)}", required)

    def _remember(self, number: int, key: str, value: object) -> None:
        if key not in self.log.values:
            self.log.values[key] = value, number
            return
        first, line = self.log.values[key]
        if key in rules.CLOCK_KEYS:
            self.find(rules.ONCE, number, f"{key} again, after line {line}", "one: the clock may not be paused")
        elif short(first) == short(value) and not isinstance(first, (dict, list)):
            self.find(rules.ONCE, number, f"{key} again, as in line {line}", "one line", WARNING)
        else:
            self.find(rules.ONCE, number, f"{key} {short(value)}, in line {line} {short(first)}", "one line")

    # one method for each key whose order or time has a rule

    def _on_submission_division(self, number: int, record: dict, metadata: dict) -> None:
        if "init_stop" in self._moments:
            required = "before init_stop: it sets the checker's limit of the initialization"
            self.find(rules.EVENT_ORDER, number, "submission_division after init_stop", required)

    def _on_cache_clear(self, number: int, record: dict, metadata: dict) -> None:
        if record["value"] not in rules.CLEARED:
            self.find(rules.CACHE, number, f"cache_clear is {short(record['value'])}", "true: caches are flushed")
        start_ms, _ = self._moments.get("run_start", (math.inf, 0))
        if "run_start" in self._moments and (record["time_ms"] >= start_ms or rules.has_no_time(record)):
            self.find(rules.CACHE, number, "cache_clear after run_start", "before the run")

    def _on_init_start(self, number: int, record: dict, metadata: dict) -> None:
        self._forbid_after(number, "init_start", "init_stop", "run_start")
        first, line = self._moments.get("init_start", (math.inf, number))
        self._moments["init_start"] = min(first, record["time_ms"]), line

    def _on_init_stop(self, number: int, record: dict, metadata: dict) -> None:
        self._forbid_after(number, "init_stop", "run_start")
        self._require_before(number, "init_stop", "init_start")
        self._judge_initialization(number, "init_stop", record["time_ms"])
        self._moments.setdefault("init_stop", (record["time_ms"], number))

    def _on_run_start(self, number: int, record: dict, metadata: dict) -> None:
        self._forbid_after(number, "run_start", "run_stop")
        self._require_before(number, "run_start", "init_stop")
        self._judge_initialization(number, "run_start", record["time_ms"])
        self._moments.setdefault("run_start", (record["time_ms"], number))
        self.log.run_start_ms = self._moments["run_start"][0]

    def _judge_initialization(self, number: int, key: str, time_ms: float) -> None:
        division = self.log.value("submission_division")
        limit_ms = rules.MAX_INITIALIZATION_MS["open" if division == "open" else "closed"]
        passed_ms = time_ms - self._moments.get("init_start", (math.inf, 0))[0]
        if passed_ms >= limit_ms and self._initialized_in_time:
            self._initialized_in_time = False
            required = f"less than {limit_ms // 60_000} min; after that the clock must run"
            self.find(rules.INITIALIZATION, number, f"{key} {passed_ms / 60_000:.1f} min after init_start", required)

    def _on_run_stop(self, number: int, record: dict, metadata: dict) -> None:
        self._require_before(number, "run_stop", "run_start")
        start_ms, line = self._moments.get("run_start", (-math.inf, 0))
        if record["time_ms"] <= start_ms:
            found = f"run_stop {start_ms - record['time_ms']:.0f} ms before run_start"
            self.find(rules.CLOCK, number, found, f"a time after that of line {line}")
        if "run_stop" in self._moments:
            return
        self._moments["run_stop"] = record["time_ms"], number
        self.log.run_stop_ms = record["time_ms"]
        status = metadata.get("status")
        self.log.status = status if isinstance(status, str) else None
        if status == "aborted":
            self.find(rules.STATUS, number, "the run was aborted", "success; a set may hold one run without it")
        elif status != "success":
            self.find(rules.STATUS, number, f"status {short(status)}", "run_stop's metadata.status success or aborted")
        elif (benchmark := self.log.closed) and not any(e.reaches(benchmark.target) for e in self.log.evaluations):
            self.find(rules.STATUS, number, "success before an evaluation reached the target", "aborted")

    def _on_seed(self, number: int, record: dict, metadata: dict) -> None:
        if len(self.log.seeds) < _MAX_NAMES:
            self.log.seeds.append((record["value"], metadata, number))

    def _on_eval_accuracy(self, number: int, record: dict, metadata: dict) -> None:
        self._require_running(number, "eval_accuracy")
        epoch = metadata.get("epoch_num")
        counted = metadata.get("samples_count", metadata.get("step_num"))
        evaluation = Evaluation(number, record["value"], epoch, counted)
        if "eval" in self._open:
            self._require_same(number, "epoch_num", metadata, self._open["eval"])
        if len(self.log.evaluations) < contents.MAX_EVALUATIONS:
            self.log.evaluations.append(evaluation)
        else:
            self.find(rules.CADENCE, number, f"more than {contents.MAX_EVALUATIONS} evaluations", "fewer")

    def _on_interval_start(self, number: int, record: dict, metadata: dict) -> None:
        key = record["key"]
        name = key.removesuffix("_start")
        self._require_running(number, key)
        if name in self._open:
            self.find(rules.INTERVALS, number, key, f"{name}_stop before it, for line {self._open[name][1]}")
        self._open[name] = metadata, number
        self._judge_interval(number, key, metadata)

    def _on_interval_stop(self, number: int, record: dict, metadata: dict) -> None:
        key = record["key"]
        name = key.removesuffix("_stop")
        self._require_running(number, key)
        started = self._open.pop(name, None)
        if started is None:
            self.find(rules.INTERVALS, number, key, f"{name}_start before it")
        else:
            self._require_same(number, "first_epoch_num", metadata, started)
            if not self._counts_samples:  # else where it started and where it stopped
                self._require_same(number, "epoch_num", metadata, started)
        self._judge_interval(number, key, metadata)

    def _judge_interval(self, number: int, key: str, metadata: dict) -> None:
        """Checks the metadata of a block, an epoch or an evaluation."""
        missing = rules.missing_metadata(key, metadata)
        if missing and not (self.log.benchmark is None and "step_num" in metadata):  # some logs of 3.1
            stated = ", ".join(name for name in metadata if name not in ("file", "lineno"))
            self.find(rules.INTERVALS, number, f"{key} with {stated[:80] or 'nothing'}", missing, ERROR)
        epoch = metadata.get("first_epoch_num" if key.startswith("block") else "epoch_num")
        if epoch is None:
            return
        if not is_number(epoch):
            self.find(rules.EPOCHS, number, f"{key} of epoch {short(epoch)}", "a number")
        elif not self._counts_samples:
            if epoch < 1:
                self.find(rules.EPOCHS, number, f"{key} of epoch {epoch:.10g}", "epochs are numbered from 1")
            elif key == "epoch_start":
                if epoch != self._last_epoch + 1:
                    required = f"epoch {self._last_epoch + 1:.10g}"
                    self.find(rules.EPOCHS, number, f"epoch_start of epoch {epoch:.10g}", required, WARNING)
                self._last_epoch = epoch

    def _forbid_after(self, number: int, key: str, *earlier: str) -> None:
        for other in earlier:
            if other in self._moments:
                self.find(rules.EVENT_ORDER, number, f"{key} after {other}", f"before line {self._moments[other][1]}")

    def _require_before(self, number: int, key: str, other: str) -> None:
        if other not in self._moments:
            self.find(rules.EVENT_ORDER, number, f"{key} without {other} before it", f"{other} first")

    def _require_running(self, number: int, key: str) -> None:
        if "run_start" not in self._moments or "run_stop" in self._moments:
            when = "after run_stop" if "run_stop" in self._moments else "before run_start"
            is_checked = key == "block_start" and "run_start" not in self._moments
            rule = rules.EVENT_ORDER if is_checked else rules.RUNNING
            self.find(rule, number, f"{key} {when}", "while the clock runs")

    def _require_same(self, number: int, name: str, metadata: dict, started: tuple[dict, int]) -> None:
        got, required = metadata.get(name), started[0].get(name)
        if is_number(got) and is_number(required) and got != required:
            self.find(rules.INTERVALS, number, f"{name} {got:.10g}", f"{required:.10g} as in line {started[1]}")

    def check_whole(self, utf16: int | None) -> None:
        """Checks the log as a whole."""
        if utf16:
            self.find(rules.ENCODING, utf16, "UTF-16", "UTF-8: the official parser finds no line")
        required = rules.REQUIRED_IN_EVERY_ROUND if self.log.other_round else rules.REQUIRED_KEYS
        if self.log.value("submission_benchmark") == "minigo":  # it generates its samples
            required = [keys for keys in required if not {"train_samples", "eval_samples"} & set(keys)]
        missing = [" or ".join(keys) for keys in required if not any(self._seen[key] for key in keys)]
        if missing:
            self.find(rules.REQUIRED, None, f"no line {', '.join(missing)}", "each of them")
        contents.judge_values(self.log, self.find)
        contents.judge_evaluations(self.log, self.find)
        if self._seen["eval_accuracy"] and not self._seen["eval_start"]:
            self.find(rules.INTERVALS, None, "no eval_start", "one before each evaluation", NOTE)
        others = {key: line for key, line in self._other_keys.items() if key not in rules.HARMLESS_KEYS}
        if others:
            names = ", ".join(key[:60] for key in list(others)[:10]) + (", ..." if len(others) > 10 else "")
            self.find(
                rules.UNKNOWN_KEYS, min(others.values()), f"keys without a rule: {names}", "no change is required"
            )
        self.finish()
