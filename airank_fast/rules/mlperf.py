"""The rule book of a `:::MLLOG` training log: MLPerf training 4.0.0, closed division, ResNet-50 and BERT.

All that the official compliance checker demands, and what it lets through although the training rules forbid it: the
order of time and of events, how the run ended, the evaluation cadence, sizes, and hyper-parameters that it only wants
to be there. See mlperf_rules.py for the rules, and docs/verify-mlperf.md for which of the two catches what.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from airank_fast.record.formats.mlperf import records
from airank_fast.record.lines import Lines
from airank_fast.rules import mlperf_contents, mlperf_rules as rules
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule
from airank_fast.rules.mlperf_rules import BENCHMARKS, Benchmark, is_number

MAX_ALIKE = 10  # findings of one rule that are told one by one
_MAX_NAMES = 50  # unknown keys that are remembered


@dataclass
class Log:
    """What the book read of a log, for those who judge a set of them."""

    path: str
    findings: list[Finding] = field(default_factory=list, repr=False)
    values: dict[str, tuple[object, int]] = field(default_factory=dict)  # first value of each key that counts, line
    seeds: list[tuple[object, dict, int]] = field(default_factory=list)  # value, metadata, line
    evaluations: list[mlperf_contents.Evaluation] = field(default_factory=list, repr=False)
    run_start_ms: float | None = None
    run_stop_ms: float | None = None
    status: str | None = None  # of the run_stop

    def value(self, key: str) -> object:
        """The first value of a key; None if the log has none."""
        return self.values.get(key, (None, 0))[0]

    @property
    def benchmark(self) -> Benchmark | None:
        """What rules it falls under; None for a benchmark that this book does not know."""
        name = self.value("submission_benchmark")
        return BENCHMARKS.get(name) if isinstance(name, str) else None

    @property
    def converged_at(self) -> float | None:
        """Epochs (BERT: samples) at the last evaluation of a run that ended in success, as the RCP checker reads it."""
        if self.status != "success" or not self.evaluations or not is_number(self.evaluations[-1].epoch):
            return None
        return round(self.evaluations[-1].epoch, 3)


def check(path: str | os.PathLike) -> Iterator[Finding]:
    """The findings about one log, in the order of its lines."""
    yield from read(path).findings


def read(path: str | os.PathLike) -> Log:
    """Read a log of any size and state, and judge it."""
    book = _Book(os.fspath(path))
    lines = Lines(path)
    feed, last_ms = book.feed, -math.inf
    for number, record, trouble in records(lines):
        if record is None:
            book.find(rules.RECORD, number, trouble, "the official parser refuses or loses the line")
            continue
        time_ms = record["time_ms"]
        if time_ms < last_ms:
            book.clock_runs_back(number, last_ms - time_ms)
        last_ms = time_ms
        feed(number, record)
    book.end(lines.oddities)
    return book.log


class _Book:
    """Reads records, remembers what later ones depend on, and collects findings."""

    def __init__(self, path: str):
        self.log = Log(path)
        self._alike: Counter[Rule] = Counter()
        self._more: dict[Rule, Finding] = {}
        self._counts: Counter[str] = Counter()  # of the keys that the rules are about
        self._unknown: dict[str, int] = {}  # key -> its first line
        self._namespaces: dict[str, int] = {}
        self._moments: dict[str, tuple[float, int]] = {}  # first time and line of init_start, init_stop, ...
        self._open: dict[str, tuple[dict, int]] = {}  # intervals that were started: metadata, line
        self._last_epoch: float | None = None
        self._told_once = {key for keys in rules.SIZE_KEYS for key in [keys]} | set(rules.ONCE_KEYS)
        for benchmark in BENCHMARKS.values():
            self._told_once |= {key for keys in benchmark.optimizers.values() for key in keys}
            self._told_once |= {"opt_name", "opt_epsilon"}
        self._handlers = {key: getattr(self, f"_on_{key}") for key in (
            "cache_clear", "init_start", "init_stop", "run_start", "run_stop", "seed", "eval_accuracy",
            "submission_division")}  # fmt: skip
        for name in rules.INTERVAL_KEYS:
            self._handlers |= {f"{name}_start": self._on_interval_start, f"{name}_stop": self._on_interval_stop}
        self._of_interest = self._told_once | self._handlers.keys()

    def find(self, rule: Rule, line: int | None, found: str, required: str, severity: str | None = None) -> None:
        """Note a finding; after some of a rule, only how many more there are."""
        self._alike[rule] += 1
        finding = rule.broken(self.log.path, line, found, required, severity)
        if self._alike[rule] <= MAX_ALIKE:
            self.log.findings.append(finding)
        else:
            self._more.setdefault(rule, finding)

    def clock_runs_back(self, line: int, by_ms: float) -> None:
        """A line is older than the one before it."""
        severity = ERROR if by_ms > rules.TIME_SLACK_MS else WARNING
        self.find(rules.TIME_ORDER, line, f"the clock runs backwards by {by_ms:g} ms",
                  "time_ms must not decrease from line to line", severity)  # fmt: skip

    def feed(self, number: int, record: dict) -> None:
        """Judge one record by what came before it."""
        key, time_ms, metadata = record["key"], record["time_ms"], record.get("metadata")
        if record.get("namespace") != "":
            self._note_namespace(number, record)
        if not rules.EARLIEST_TIME_MS <= time_ms < rules.LATEST_TIME_MS or type(time_ms) is not int:
            self._judge_time(number, time_ms)
        if metadata is None:
            self.find(rules.METADATA, number, f"{key} has no metadata", "an object; the official parser needs one")
            metadata = {}
        if key not in self._of_interest:
            value = record["value"]
            if value != value:
                self.find(rules.NOT_A_NUMBER, number, f"{key} is NaN", "a number")
            if key not in self._unknown and len(self._unknown) < _MAX_NAMES:
                self._unknown[key] = number
            return
        if record.get("event_type") != _event_type(key):
            self.find(rules.EVENT_TYPE, number, f"{key} has event_type {record.get('event_type')!r}", _event_type(key))
        self._counts[key] += 1
        if key in self._told_once:
            self._remember(number, key, record["value"])
        handler = self._handlers.get(key)
        if handler is not None:
            handler(number, record, metadata)

    def _note_namespace(self, number: int, record: dict) -> None:
        namespace = record.get("namespace")
        name = namespace if isinstance(namespace, str) else repr(namespace)[:60]
        if name not in self._namespaces and len(self._namespaces) < _MAX_NAMES:
            self._namespaces[name] = number
            self.find(rules.NAMESPACE, number, f"namespace {name!r}" if "namespace" in record else "no namespace",
                      "the empty namespace for the lines of a submission")  # fmt: skip

    def _judge_time(self, number: int, time_ms: float) -> None:
        if not rules.EARLIEST_TIME_MS <= time_ms < rules.LATEST_TIME_MS:
            self.find(rules.TIME_UNIT, number, f"time_ms {time_ms:g}", "milliseconds since 1970, as 1.7e12")
        else:
            self.find(rules.TIME_UNIT, number, f"time_ms {time_ms!r}", "a whole number of milliseconds", WARNING)

    def _remember(self, number: int, key: str, value: object) -> None:
        if key not in self.log.values:
            self.log.values[key] = value, number
            return
        first, line = self.log.values[key]
        same = first == value and type(first) is type(value) and key not in rules.CLOCK_KEYS
        found = f"{key} again, after line {line}" + ("" if same else f": {first!r} and {value!r}"[:200])
        if key in rules.CLOCK_KEYS:
            found = f"{key} again, after line {line}"
        self.find(rules.ONCE, number, found, "one line", WARNING if same else ERROR)

    # one method for each key whose place matters

    def _on_submission_division(self, number: int, record: dict, _: dict) -> None:
        if "init_stop" in self._moments:  # the checker takes the limit for the initialization from it
            self.find(rules.EVENT_ORDER, number, "submission_division after init_stop", "before init_stop")

    def _on_cache_clear(self, number: int, record: dict, _: dict) -> None:
        if record["value"] is not True:
            self.find(rules.CACHE, number, f"cache_clear is {record['value']!r}"[:80], "true: caches are flushed")
        if "run_start" in self._moments:
            self.find(rules.CACHE, number, "cache_clear after run_start", "before the run")

    def _on_init_start(self, number: int, record: dict, _: dict) -> None:
        self._forbid_after(number, "init_start", "init_stop", "run_start")
        first, line = self._moments.get("init_start", (math.inf, number))
        self._moments["init_start"] = min(first, record["time_ms"]), line

    def _on_init_stop(self, number: int, record: dict, _: dict) -> None:
        self._forbid_after(number, "init_stop", "run_start")
        self._demand_before(number, "init_stop", "init_start")
        self._judge_initialization(number, record["time_ms"], "init_stop")
        self._moments.setdefault("init_stop", (record["time_ms"], number))

    def _on_run_start(self, number: int, record: dict, _: dict) -> None:
        self._forbid_after(number, "run_start", "run_stop")
        self._demand_before(number, "run_start", "init_stop")
        if not self._broken_initialization:
            self._judge_initialization(number, record["time_ms"], "run_start")
        self._moments.setdefault("run_start", (record["time_ms"], number))
        self.log.run_start_ms = self._moments["run_start"][0]

    _broken_initialization = False

    def _judge_initialization(self, number: int, time_ms: float, key: str) -> None:
        division = self.log.value("submission_division")
        limit = rules.MAX_INITIALIZATION_MS["open" if division == "open" else "closed"]
        first = self._moments.get("init_start", (math.inf, 0))[0]
        if time_ms - first >= limit:
            self._broken_initialization = True
            self.find(rules.INITIALIZATION, number, f"{key} {(time_ms - first) / 60_000:.1f} min after init_start",
                      f"less than {limit // 60_000} min; from then on the clock must run")  # fmt: skip

    def _on_run_stop(self, number: int, record: dict, metadata: dict) -> None:
        self._demand_before(number, "run_stop", "run_start")
        start = self._moments.get("run_start")
        if start and record["time_ms"] <= start[0]:
            self.find(rules.CLOCK, number, f"run_stop {start[0] - record['time_ms']:g} ms before run_start",
                      f"after run_start, line {start[1]}")  # fmt: skip
        if "run_stop" in self._moments:
            return
        self._moments["run_stop"] = record["time_ms"], number
        self.log.run_stop_ms = record["time_ms"]
        status = metadata.get("status")
        self.log.status = status if isinstance(status, str) else None
        if status == "aborted":
            self.find(rules.STATUS, number, "the run was aborted", "success; a set may hold one run without it")
        elif status != "success":
            self.find(rules.STATUS, number, f"run_stop's status is {status!r}"[:80], "metadata.status success or aborted")
        elif self.log.benchmark and not any(e.reaches(self.log.benchmark.target) for e in self.log.evaluations):
            self.find(rules.STATUS, number, "success before any evaluation reached the target", "aborted")

    def _on_seed(self, number: int, record: dict, metadata: dict) -> None:
        if len(self.log.seeds) < _MAX_NAMES:
            self.log.seeds.append((record["value"], metadata, number))

    def _on_eval_accuracy(self, number: int, record: dict, metadata: dict) -> None:
        self._demand_running(number, "eval_accuracy")
        evaluation = mlperf_contents.Evaluation(number, record["value"], metadata.get("epoch_num"),
                                                   metadata.get("samples_count"))  # fmt: skip
        started = self._open.get("eval")
        if started and started[0].get("epoch_num") != evaluation.epoch:
            self.find(rules.INTERVALS, number, f"accuracy of epoch {evaluation.epoch!r}"[:80],
                      f"of epoch {started[0].get('epoch_num')!r}, whose eval_start is line {started[1]}"[:120])  # fmt: skip
        if len(self.log.evaluations) < mlperf_contents.MAX_EVALUATIONS:
            self.log.evaluations.append(evaluation)
        else:
            self.find(rules.CADENCE, number, f"more than {mlperf_contents.MAX_EVALUATIONS} evaluations", "fewer")

    def _on_interval_start(self, number: int, record: dict, metadata: dict) -> None:
        name = record["key"].removesuffix("_start")
        self._demand_running(number, record["key"])
        if name in self._open:
            self.find(rules.INTERVALS, number, f"{name}_start", f"{name}_stop first, for line {self._open[name][1]}")
        self._open[name] = metadata, number
        self._judge_interval(number, record["key"], name, metadata)

    def _on_interval_stop(self, number: int, record: dict, metadata: dict) -> None:
        name = record["key"].removesuffix("_stop")
        self._demand_running(number, record["key"])
        if name not in self._open:
            self.find(rules.INTERVALS, number, f"{name}_stop", f"{name}_start before it")
        opened = self._open.pop(name, ({}, 0))
        self._judge_interval(number, record["key"], name, metadata)
        for field_name in ("first_epoch_num", *(() if self._counts_samples else ("epoch_num",))):
            if {field_name} <= opened[0].keys() & metadata.keys() and opened[0][field_name] != metadata[field_name]:
                self.find(rules.INTERVALS, number, f"{field_name} {metadata[field_name]!r}"[:80],
                          f"{opened[0][field_name]!r} as in line {opened[1]}"[:80])  # fmt: skip

    @property
    def _counts_samples(self) -> bool:
        return bool(self.log.benchmark and self.log.benchmark.counts_samples)

    def _judge_interval(self, number: int, key: str, name: str, metadata: dict) -> None:
        """What the metadata of a block, an epoch, an evaluation must hold."""
        first, count, samples = (metadata.get(field) for field in ("first_epoch_num", "epoch_count", "samples_count"))
        if name == "block":
            starts = key == "block_start"
            told = samples is not None or (first is not None and (count is not None or not starts))
            if not told or (starts and count is not None and not (is_number(count) and count > 0)) or (
                samples is not None and not (is_number(samples) and samples >= 0)
            ):
                self.find(rules.INTERVALS, number, f"{key} with {_told(metadata)}",
                          "first_epoch_num and epoch_count above 0, or samples_count from 0", ERROR)  # fmt: skip
            epoch = first
        else:
            epoch = metadata.get("epoch_num")
            if epoch is None and (name == "epoch" or samples is None):
                self.find(rules.INTERVALS, number, f"{key} with {_told(metadata)}", "epoch_num", ERROR)
        if epoch is not None and not is_number(epoch):
            self.find(rules.EPOCHS, number, f"{key} of epoch {epoch!r}"[:80], "a number")
        elif epoch is not None and not self._counts_samples and epoch < 1:
            self.find(rules.EPOCHS, number, f"{key} of epoch {epoch!r}"[:80], "epochs are numbered from 1")
        elif epoch is not None and key == "epoch_start" and not self._counts_samples:
            last, self._last_epoch = self._last_epoch, epoch
            if epoch != (last or 0) + 1:
                self.find(rules.EPOCHS, number, f"epoch {epoch:g} after {last or 'none'}", "one after the other from 1",
                          WARNING)  # fmt: skip

    def _forbid_after(self, number: int, key: str, *earlier: str) -> None:
        for other in earlier:
            if other in self._moments:
                self.find(rules.EVENT_ORDER, number, f"{key} after {other}", f"before line {self._moments[other][1]}")

    def _demand_before(self, number: int, key: str, other: str) -> None:
        if other not in self._moments:
            self.find(rules.EVENT_ORDER, number, f"{key} without {other} before it", f"{other} first")

    def _demand_running(self, number: int, key: str) -> None:
        if "run_start" not in self._moments:
            self.find(rules.EVENT_ORDER, number, f"{key} before run_start", "while the clock runs")
        elif "run_stop" in self._moments:
            self.find(rules.EVENT_ORDER, number, f"{key} after run_stop", "while the clock runs")

    # what can only be said at the end

    def end(self, oddities: dict[str, int]) -> None:
        """Judge the log as a whole, and put the findings in order."""
        for name, line in oddities.items():
            severity, found, required = _ODDITIES[name]
            self.find(rules.ENCODING, line, found, required, severity)
        for keys in rules.NEEDED:
            if not any(self._counts[key] for key in keys):
                self.find(rules.REQUIRED, None, f"no line {' or '.join(keys)}", "at least one")
        mlperf_contents.judge_values(self.log, self.find)
        mlperf_contents.judge_evaluations(self.log, self.find)
        if self._counts["eval_accuracy"] and not self._counts["eval_start"]:
            self.find(rules.INTERVALS, None, "no eval_start", "one before each evaluation", NOTE)
        unknown = {key: line for key, line in self._unknown.items() if key not in rules.HARMLESS_KEYS}
        if unknown:
            names = ", ".join(key[:60] for key in list(unknown)[:10]) + (" ..." if len(unknown) > 10 else "")
            self.find(rules.UNKNOWN_KEYS, min(unknown.values()), f"keys that no rule is about: {names}", "no harm")
        for rule, finding in self._more.items():
            more = self._alike[rule] - MAX_ALIKE
            self.find_more(rule, finding, more)
        self.log.findings.sort(key=lambda finding: finding.line or 0)

    def find_more(self, rule: Rule, finding: Finding, more: int) -> None:
        """The first finding that was not told, for all of its kind."""
        found = finding.found if more == 1 else f"{finding.found}, and {more - 1} more like it"
        self.log.findings.append(rule.broken(finding.path, finding.line, found, finding.required, finding.severity))


_ODDITIES = {
    "bom": (NOTE, "a byte order mark", "UTF-8 without one"),
    "utf16": (ERROR, "UTF-16", "UTF-8: the official parser finds no line"),
    "crlf": (NOTE, "lines end with CRLF", "LF"),
    "not_utf8": (NOTE, "bytes that are no UTF-8", "UTF-8"),
    "nul": (WARNING, "NUL bytes", "text: a crash may have cost lines"),
    "long": (WARNING, "a line of more than 1 MiB, of which only the first MiB was read", "shorter lines"),
    "cut_off": (NOTE, "the last line has no end", "a newline"),
}


def _event_type(key: str) -> str:
    if key.endswith("_start"):
        return rules.START
    return rules.END if key.endswith("_stop") else rules.POINT


def _told(metadata: dict) -> str:
    told = {key: value for key, value in metadata.items() if key not in ("file", "lineno")}
    return repr(told)[:80] if told else "no metadata"
