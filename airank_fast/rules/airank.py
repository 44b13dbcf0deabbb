"""Rule book of the AI-Rank training log, profiles 2020-12 and 2021-05.

Each figure in the log is computed again from the log's own timestamps and counts. Errors are what no reading of the
document allows. Contradictions that the published sample has too are warnings: timestamps out of order at its end, and
target_quality_time by the line's own timestamp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from airank_fast.record.entries import BROKEN, Entry
from airank_fast.record.events import Event
from airank_fast.record.formats import airank
from airank_fast.record.lines import Lines
from airank_fast.rules.airank_figures import Figures, rule
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

_SOURCE_2021 = "AI-Rank docs/software/train.md (2021-05-28), 日志格式要求"

LINE = rule("line", ERROR)
PREFIX = rule("prefix", NOTE)
TIMESTAMP = rule("timestamp", WARNING)
TIME_ORDER = rule("time_order", WARNING)
ORDER = rule("order", ERROR)
MISSING = rule("missing", ERROR)
ACCURACY = rule("accuracy", ERROR)
EPOCHS = rule("epochs", ERROR)
CADENCE = rule("cadence", WARNING)
TARGET = rule("target", WARNING)
LOAD_DATA = rule("load_data", ERROR, _SOURCE_2021)
_ODD = {
    BROKEN: LINE,
    "ranks": rule("ranks", WARNING),
    "interleaved": rule("interleaved", WARNING),
    "full_width": rule("full_width", WARNING),
    "milliseconds": TIMESTAMP,
    "whole_seconds": TIMESTAMP,
    "per_cent": ACCURACY,
}


def check(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about one log; lines without the prefix are ignored."""
    book = _Book(lines.path, facts)
    for entry in airank.read(lines):
        yield from book.feed(entry)
    yield from book.finish()


class _Book(Figures):
    """Checks a log entry by entry, in memory that does not grow with the log."""

    def __init__(self, path: str, facts: Facts):
        super().__init__(path, facts)
        self.last_t = -math.inf
        self.dash: bool | None = None
        self.mixed = False
        self.num_evaluations = 0
        self.spacing: float | None = None
        self.off_cadence: tuple[int, float] | None = None  # a step off the cadence, until another follows

    def feed(self, entry: Entry) -> Iterator[Finding]:
        number, event, troubles, text = entry
        for trouble in troubles:
            severity = NOTE if trouble.kind == "whole_seconds" else None
            yield self._broken(_ODD[trouble.kind], number, trouble.found, f"{trouble.required} is required", severity)
        if event is None:
            return
        yield from self._form(number, text)
        yield from self._time(number, event)
        name = event.get("name", event["kind"])
        yield from self._place(number, name)
        if name == "eval_stop":
            yield from self._evaluation(number, event)
            return
        if name in self.first:
            return  # _place reports a repetition; the first one counts
        self.first[name] = number, event
        if name == "data" and self.facts.profile is None:
            self.profile = "2021-05"
        if event["kind"] == "figure":
            yield from self.figure(number, event, text)

    def _form(self, number: int, text: str) -> Iterator[Finding]:
        """The prefix must be `- AI-Rank-log` or `AI-Rank-log`, the same in every line."""
        dash = text[: text.find(airank.PREFIX)].rstrip().endswith("-")
        if self.dash is None:
            self.dash = dash
            if dash and self.facts.avg_ips is None:  # without events: another program's log
                yield self._broken(
                    PREFIX,
                    number,
                    "lines begin with '- AI-Rank-log', as in the document's sample",
                    "its text has 'AI-Rank-log'; both are accepted",
                )
        elif dash != self.dash and not self.mixed:
            self.mixed = True
            forms = {True: "'- AI-Rank-log'", False: "'AI-Rank-log'"}
            yield self._broken(
                PREFIX, number, f"{forms[dash]} after {forms[self.dash]}", "one form is required", WARNING
            )

    def _time(self, number: int, event: Event) -> Iterator[Finding]:
        if event["t"] < self.last_t:
            yield self._broken(
                TIME_ORDER,
                number,
                f"timestamp {event['t']:.3f} after {self.last_t:.3f}",
                "timestamps that do not run backwards are required",
            )
        elif not self.first and not self.num_evaluations and event["t"] < 1e9:
            yield self._broken(TIMESTAMP, number, f"timestamp {event['t']:.3f}", "seconds since 1970 are required")
        self.last_t = max(self.last_t, event["t"])

    def _place(self, number: int, name: str) -> Iterator[Finding]:
        """The order of the lines."""
        shown = _SHOWN.get(name, name)
        if name in self.first:
            yield self._broken(ORDER, number, f"{shown} again, first in line {self.first[name][0]}", "one is required")
        elif {"total_use_time", "avg_ips"} <= self.first.keys():
            yield self._broken(ORDER, number, f"{shown} after the last line", "nothing after avg_ips is required")
        elif name == "data" and (self.first or self.num_evaluations):
            yield self._broken(
                ORDER, number, "load_data after the test began", "load_data before test_begin is required"
            )
        elif name not in ("data", "run_start") and "run_start" not in self.first and self.num_evaluations == 0:
            yield self._broken(ORDER, number, f"{shown} before test_begin", "test_begin first is required")
        elif name == "run_start" and self.num_evaluations:
            yield self._broken(ORDER, number, "test_begin after an evaluation", "test_begin first is required")
        elif name in ("eval_stop", "target_quality_time") and self.first.keys() & _CLOSING:
            yield self._broken(ORDER, number, f"{shown} after test_finish", f"{shown} before test_finish is required")
        elif name in ("total_use_time", "avg_ips") and "run_stop" not in self.first:
            yield self._broken(ORDER, number, f"{shown} before test_finish", f"{shown} after test_finish is required")
        elif name == "total_use_time" and "avg_ips" in self.first:
            yield self._broken(ORDER, number, "total_use_time after avg_ips", "avg_ips last is required", WARNING)

    # evaluations

    def _evaluation(self, number: int, event: Event) -> Iterator[Finding]:
        yield from self._accuracy(number, event["accuracy"])
        yield from self._epoch(number, event)
        self.num_evaluations += 1
        if self.last is not None:
            self.best = max(self.best, self.last[1]["accuracy"] * self.scale)
        self.last = number, event
        goal = self.facts.goal(self.profile)
        if goal and self.reached is None and event["accuracy"] * self.scale >= goal.accuracy:
            self.reached = number, event

    def _accuracy(self, number: int, accuracy: float) -> Iterator[Finding]:
        maximum = self.facts.task.headline.maximum if self.facts.task else 1.0
        if 0 <= accuracy <= maximum:
            return
        required = "a fraction from 0 to 1 is required" if maximum == 1 else f"from 0 to {maximum:g} is required"
        if maximum == 1 and 1 < accuracy <= 100:
            self.scale = 0.01
            required += f", {accuracy / 100:g} if this is per cent (per cent is for the summary table)"
        yield self._broken(ACCURACY, number, f"eval_accuracy {accuracy:g}", required)

    def _epoch(self, number: int, event: Event) -> Iterator[Finding]:
        """Epoch counts must grow by a constant. A task counted in samples (BERT) may evaluate twice an epoch."""
        epoch, last = event["epoch"], self.last[1]["epoch"] if self.last else 0
        task = self.facts.task
        severity = WARNING if task is None else ERROR if task.counted_in == "epochs" else NOTE
        if epoch < 0 or epoch < last:
            yield self._broken(
                EPOCHS, number, f"total_epoch_cnt {epoch:g} after {last:g}", "a count that grows is required"
            )
        elif epoch == 0 and not self.num_evaluations and severity != NOTE:
            yield self._broken(
                EPOCHS,
                number,
                "total_epoch_cnt 0 at the first evaluation",
                "the number of epochs completed, from 1 on, is required",
                severity,
            )
        elif epoch == last and self.num_evaluations and severity != NOTE:
            yield self._broken(
                EPOCHS, number, f"total_epoch_cnt {epoch:g} twice", "a count that grows is required", severity
            )
        elif self.num_evaluations and severity != NOTE:
            yield from self._cadence(number, epoch - last)
        warmup = self.facts.warmup_epochs
        if warmup and epoch >= warmup and self.warm is None and "run_start" in self.first:
            before = self.last[1]["t"] if self.last else self.first["run_start"][1]["t"]
            self.warm = before, event["t"]

    def _cadence(self, number: int, step: float) -> Iterator[Finding]:
        if self.off_cadence is not None:  # the last evaluation may come early, so a step off waits for the next
            line, spacing = self.off_cadence
            self.off_cadence = None
            yield self._broken(
                CADENCE,
                line,
                f"an evaluation after {spacing:g} epochs, before that every {self.spacing:g}",
                "an evaluation every N epochs is required",
            )
        if self.spacing is None:
            self.spacing = step
            if self.profile == "2021-05" and step != 1:
                yield self._broken(
                    CADENCE,
                    number,
                    f"an evaluation every {step:g} epochs",
                    "one every epoch is required unless the task states another cadence (2021-05)",
                )
        elif step != self.spacing:
            self.off_cadence = number, step

    # the log as a whole

    def finish(self) -> Iterator[Finding]:
        for name, shown in _REQUIRED.items():
            if name not in self.first:
                yield self._broken(MISSING, None, f"no {shown}", f"{shown} is required")
        if not self.num_evaluations:
            yield self._broken(MISSING, None, "no eval_accuracy", "evaluations are required")
        if "data" not in self.first:
            if self.profile == "2021-05":
                yield self._broken(
                    LOAD_DATA, None, "no load_data", "load_data with a checksum before test_begin is required"
                )
            elif self.facts.profile is None:
                yield self._broken(
                    LOAD_DATA, None, "no load_data: checked as a log of 2020-12", "--profile 2021-05 requires it", NOTE
                )
        yield from self._target_reached()
        goal = self.facts.required(self.profile)
        if goal is not None and self.facts.target not in (None, goal.accuracy):
            yield self._broken(
                Rule(name=TARGET.name, severity=WARNING, source=goal.source),
                None,
                f"a target of {self.facts.target:g} ({self.facts.target_source})",
                f"{goal.accuracy:g} is required of {self.facts.task.name}",
            )

    def _target_reached(self) -> Iterator[Finding]:
        goal = self.facts.goal(self.profile)
        if goal is None:
            options = "--model or --target"
            if self.facts.task is not None:
                options = f"--target ({self.profile} names none for {self.facts.task.name})"
            yield self._broken(
                TARGET, None, "the log does not state its target accuracy", f"not checked: {options}", NOTE
            )
        elif self.reached is not None and "target_quality_time" not in self.first:
            number, event = self.reached
            yield self._broken(
                Rule(name=MISSING.name, severity=ERROR, source=goal.source),
                number,
                f"eval_accuracy {event['accuracy']:g} without target_quality_time",
                f"target_quality_time after the evaluation that reached {goal.accuracy:g} is required",
            )
        elif self.reached is None and self.num_evaluations:
            best = max(self.best, self.last[1]["accuracy"] * self.scale)
            yield self._broken(
                Rule(name=TARGET.name, severity=WARNING, source=goal.source),
                None,
                f"no evaluation reached {goal.accuracy:g}, the best is {best:g}",
                "Time2train of this run is '-'",
            )


_SHOWN = {"run_start": "test_begin", "run_stop": "test_finish", "eval_stop": "eval_accuracy", "data": "load_data"}
_REQUIRED = {
    "run_start": "test_begin",
    "run_stop": "test_finish",
    "total_use_time": "total_use_time",
    "avg_ips": "avg_ips",
}
_CLOSING = {"run_stop", "total_use_time", "avg_ips"}
