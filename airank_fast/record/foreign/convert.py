"""Writes the events of a log in another format; reports what that format requires beside them and what is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.numeric import is_float
from airank_fast.record.events import Event, dictionary, effective, name_floats, to_line
from airank_fast.record.formats import airank, dllogger, flagperf, mlperf, perflog
from airank_fast.record.lines import Lines
from airank_fast.record.metrics import Tally, reaches
from airank_fast.record.settings import LARS, OF_ONE_OPTIMIZER, SGD, SUBMISSION

FORMATS = ("airank", "mlperf", "flagperf", "events", "dllogger", "perflog")
_MARKS = {"airank": "AI-Rank-log", "mlperf": ":::MLLOG", "perflog": perflog.MARK, "dllogger": "DLL"}
_RECOMPUTED = {"figure"}  # computed again from the events, whatever a log states
_IMPLIED = {"airank": {"block_start", "block_stop", "epoch_stop"}}  # by the evaluations beside them
_BRACKETS = {"init_start", "init_stop", "run_start", "run_stop", "eval_stop", "epoch_stop", "reading"}
FIGURES = {  # that a format writes
    "airank": ("avg_ips",),
    "flagperf": ("e2e_time", "p_whole", "p_train", "p_core"),
    "perflog": ("e2e_time", "p_whole", "p_train", "p_core"),
}
CARRIED = {  # the kinds of event that a format has lines for
    "airank": {"run_start", "eval_stop", "run_stop"},
    "mlperf": {
        "run_config",
        "cache_clear",
        "init_start",
        "init_stop",
        "run_start",
        "block_start",
        "block_stop",
        "eval_start",
        "eval_stop",
        "run_stop",
        "data",
    },
    "dllogger": {"run_config", "run_start", "reading", "epoch_stop", "eval_stop", "run_stop"},
    "perflog": {"run_config", "process_stop", *_BRACKETS},
}
_ODDITIES = {"not_utf8": "bytes that are no text", "nul": "NUL characters", "long": "a line of more than 1 MiB, cut"}
_MAX_KINDS = 200


class Omissions:
    """The losses of a conversion by kind, with a count and the first line; and notes."""

    def __init__(self):
        self.notes: list[str] = []
        self._counts: Counter[str] = Counter()
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def count(self, what: str) -> None:
        """Count a loss that belongs to no line."""
        if what in self._counts or len(self._counts) < _MAX_KINDS:
            self._counts[what] += 1

    def count_line(self, number: int, what: str) -> None:
        """Count a loss in a line. A log is read more than once: a line counts the first time."""
        if number > self._last.get(what, 0) and (what in self._counts or len(self._counts) < _MAX_KINDS):
            self._counts[what] += 1
            self._first.setdefault(what, number)
            self._last[what] = number

    def lines(self) -> list[str]:
        """The notes and omissions, a line each."""
        lost = [
            f"lost: {count} {what}" + (f", first in line {self._first[what]}" if what in self._first else "")
            for what, count in self._counts.items()
        ]
        return [f"note: {note}" for note in self.notes] + lost


class Requirements:
    """The facts that a format requires and the events lack, found in one reading of them."""

    def __init__(self, to: str, events: Iterable[Event], given: dict | None = None):
        self.config: dict = {}
        self.kinds: Counter[str] = Counter()
        self._warnings: list[str] = []
        self._placed = True  # every evaluation has its epoch and samples
        self.stated: dict[str, float] = {}  # figures that the log states
        self.absent: dict[str, str] = {}  # those that its events do not give, and why
        self._to = to
        tally, self._pauses_s = Tally(), []
        self._running = _RunningAccuracy()
        for event in events:
            self._running.feed(event)
            if event["kind"] == "resume" and tally.last_t is not None:
                self._pauses_s.append(event["t"] - tally.last_t)
            tally.feed(event)
            self.kinds[event["kind"]] += 1
            if event["kind"] in ("run_config", "data"):
                reported = {**(event.get("reported") or {}), **self.config.get("reported", {})}
                self.config = {**event, **self.config, "reported": reported}
            elif event["kind"] == "eval_stop":
                self._placed = self._placed and event.get("epoch") is not None and event.get("samples") is not None
            elif event["kind"] == "warning":
                self._warnings.append(event["message"])
            elif event["kind"] == "figure":
                self.stated.setdefault(event["name"], event["value"])
        if "run_start" not in self.kinds:
            raise UserError("must have the begin of the run, got none")
        self._given = given or {}
        self.absent = tally.absent()
        find = {"airank": self._airank, "mlperf": self._mlperf, "flagperf": self._flagperf}.get(to)
        self.missing = list(dict.fromkeys(find())) if find else []

    def _lacks(self, *names: str) -> Iterator[str]:
        return (name for name in names if self.config.get(name) is None and name not in self._given)

    def _airank(self) -> Iterator[str]:
        yield from self._lacks("target", "unit")
        has_samples = self._placed and self.kinds.keys() & {"block_stop", "epoch_stop", "steps"}
        if not has_samples and "avg_ips" not in self.stated:
            yield from self._lacks("samples_per_epoch")

    def _mlperf(self) -> Iterator[str]:
        yield from self._lacks(
            "benchmark",
            "target",
            "seed",
            "global_batch_size",
            "gradient_accumulation_steps",
            "train_samples",
            "eval_samples",
        )
        submission = self.config.get("submission") or {}
        yield from (name for name in SUBMISSION if submission.get(name.removeprefix("submission_")) is None)
        for kind, name in (("cache_clear", "cache_clear"), ("init_start", "init_s"), ("eval_start", "eval_s")):
            if kind not in self.kinds:
                yield name
        reported = self.config.get("reported") or {}
        task = tasks.of(self.config)
        required = OF_ONE_OPTIMIZER.get(task.name) if task else None
        required = required or ("opt_name", *(LARS if reported.get("opt_name") == "lars" else SGD))
        yield from (name for name in required if reported.get(name) is None)

    def _flagperf(self) -> Iterator[str]:
        yield from self._lacks("benchmark", "precision", "world_size", "global_batch_size")
        if "figure" in self.kinds:
            return  # the log states them
        if not self._placed:
            yield from self._lacks("samples_per_epoch")
        if "system" not in self.kinds and self.config.get("world_size") != 1:
            yield "number_of_nodes"
        if "process_start" not in self.kinds:
            yield "init_s"
        if "eval_stop" in self.kinds and "eval_start" not in self.kinds:
            yield "eval_s"

    def notes(self, source: str, has_zone: bool) -> list[str]:
        """How the result came about, for its reader."""
        found = [] if source == "events" else list(self._warnings)
        if source == "dllogger":
            found.append("run_start is the first record: what came before it is not in the log")
            if not has_zone:
                found.append("times without a zone are taken as UTC (--time-zone)")
            found += [self._running.note] if self._running.note else []
        elif source in ("airank", "perflog") and "eval_start" not in self.kinds and "eval_stop" in self.kinds:
            found.append("the log does not state when its evaluations begin: blocks of training end with them")
        if self._pauses_s:
            pauses = " and ".join(f"{seconds:.0f} s" for seconds in self._pauses_s[:5])
            found.append(f"the run was resumed after {pauses} in which its clock went on: it is not comparable")
        if "eval_stop" not in self.kinds and self._to != "events":
            found.append("accuracy: left out, the log has no evaluation")
        return found + list(self._of_figures())

    def _of_figures(self) -> Iterator[str]:
        """Figures of the format that the log alone states, or that are absent; those with one reason together."""
        reasons: dict[str, list[str]] = {}
        for name in FIGURES.get(self._to, ()):
            if name in self.absent:
                is_stated = name in self.stated
                reason = "as the log states it" if is_stated else f"left out, {self.absent[name]}"
                reasons.setdefault(reason, []).append(name)
        yield from (f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


class _RunningAccuracy:
    """Finds where the running accuracy of an unfinished evaluation reaches the target before a whole one does."""

    def __init__(self):
        self._config: Event = {}
        self._target = self._start_t = self._first_s = None
        self.note: str | None = None
        self._done = False

    def feed(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "run_config":
            self._config, self._target = event, event.get("target")
        elif kind == "run_start":
            self._start_t = event["t"]
        if self._target is None or self._start_t is None or self._done:
            return
        if kind == "eval_stop" and reaches(self._config, event):
            self._done = True
            if self._first_s is not None:
                whole_s = event["t"] - self._start_t
                self.note = (
                    f"the running accuracy of an unfinished evaluation reaches the target at {self._first_s:.3f} s; "
                    f"that does not count, the first whole evaluation to reach it is at {whole_s:.3f} s"
                )
        elif kind == "reading" and len(event["position"]) == 3 and self._first_s is None:
            value = event["values"].get(dllogger.ACCURACY)
            if is_float(value) and value > 1 and value / 100 >= self._target:
                self._first_s = event["t"] - self._start_t


def scan(source: str, lines: Lines, omissions: Omissions) -> None:
    """Count the lines that give no event."""
    mark = _MARKS.get(source)
    parse = {"airank": airank.parse, "mlperf": mlperf.parse}.get(source)
    for number, line in enumerate(lines, 1):
        if mark is None or not line.strip():
            continue
        if mark not in line:
            omissions.count_line(number, "lines of other output")
        elif parse is not None and not any(True for _ in parse([line])):
            omissions.count_line(number, f"lines of {mark} that give no event{_key(line)}")
    omissions.notes += [
        f"line {number}: {_ODDITIES[odd]}" for odd, number in lines.oddities.items() if odd in _ODDITIES
    ]


def _key(line: str) -> str:
    _, found, rest = line.partition('"key":')
    key = rest.strip(' "').partition('"')[0]
    return f" ({key[:60]})" if found else ""


def convert(
    events: Iterable[Event],
    to: str,
    omissions: Omissions,
    profile: str = airank.PROFILES[0],
    markdown: bool = False,
    stated: Mapping[str, float] | None = None,
) -> Iterator[str]:
    """The lines of the format `to`, one at a time. `markdown`: FlagPerf's table in place of its JSON. `stated` has
    the log's own figures, used where its events give none."""
    if to == "events":
        yield from map(to_line, events)
        return
    if to == "flagperf":
        yield from _flagperf(events, markdown, stated or {})
        return
    writer = {
        "airank": lambda: airank.AIRankLog(profile, (stated or {}).get("avg_ips")),
        "mlperf": mlperf.MLPerfLog,
        "dllogger": dllogger.DLLoggerLog,
        "perflog": perflog.PerfLogLog,
    }[to]()
    for number, event in enumerate(events, 1):
        kind = event["kind"]
        if kind == "warning" and event["message"] in omissions.notes:
            continue
        if kind not in CARRIED[to] | _RECOMPUTED | _IMPLIED.get(to, set()) | {"run_config"}:
            omissions.count(f"events {kind}: {to} has no line for them")
        if kind == "eval_stop" and len(dictionary(event.get("quality"))) > 1 and to != "mlperf":
            omissions.count(f"evaluations with several metrics: {to} has room for one")
        writable = _writable(event, to, number)
        if writable is None:
            omissions.count(f"events {kind}: without the fields that {to} writes")
            continue
        yield from writer.feed(writable)
    yield from writer.close()


def _writable(event: Event, to: str, number: int) -> Event | None:
    """The event with every field that the writer reads; None if the log lacks one."""
    kind = event["kind"]
    if kind in ("eval_start", "eval_stop", "epoch_stop") and to != "mlperf":
        epoch = event.get("epoch")
        if kind == "eval_stop" and to == "perflog":
            return event
        return None if epoch is None or epoch != int(epoch) else {**event, "epoch": int(epoch)}
    if to == "mlperf":
        if kind in ("eval_start", "eval_stop"):
            return {"step": number, "epoch": None, "samples": None, **event}
        if kind in ("block_start", "block_stop") and "first_epoch" not in event and event.get("samples") is None:
            return None
        if kind == "run_stop":
            return event if event.get("status") is not None else None
    return event


def _flagperf(events: Iterable[Event], markdown: bool, stated: Mapping[str, float]) -> Iterator[str]:
    """Figures from the events, else as the log states them."""
    tally = Tally()
    for event in events:
        tally.feed(event)
    run = flagperf.columns(tally)
    run |= {
        name: stated[name]
        for name in ("e2e_time", "p_whole", "p_train", "p_core")
        if run[name] is None and name in stated
    }
    if markdown:
        yield from flagperf.HEADER.split("\n")
        yield flagperf.row(run)
    else:
        yield json.dumps(name_floats(run), indent=2, ensure_ascii=False)


def without_superseded(events: Iterable[Event], kinds: Counter[str]) -> Iterable[Event]:
    """The events without those that a resume supersedes; only a resumed run is held in memory for it."""
    return effective(events) if "resume" in kinds else events
