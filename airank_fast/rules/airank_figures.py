"""Checks the figures of an AI-Rank log: each is computed again from the lines before it.

target_quality_time and total_use_time follow from the timestamps. avg_ips follows from the epochs and two facts that
the log does not carry: the samples of an epoch and the number of warm-up epochs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from airank_fast.record.events import Event
from airank_fast.record.formats.airank import MAX_STATEMENT
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

_SOURCE = "AI-Rank docs/software/train.md, 日志格式要求"


def rule(name: str, severity: str, source: str = _SOURCE) -> Rule:
    """A rule of this book."""
    return Rule(name=f"airank.{name}", severity=severity, source=source)


UNIT = rule("unit", WARNING)
TARGET_TIME = rule("target_quality_time", ERROR)
TOTAL_TIME = rule("total_use_time", ERROR)
AVG_IPS = rule("avg_ips", ERROR)

_CLOCK_S = 0.0015  # error of a difference of two timestamps that are rounded to the ms
_IPS_TOLERANCE = 0.01  # a batch may straddle two epochs, and only evaluations have timestamps
_COUNTED = ("images", "samples", "videos")


class Figures:
    """The figures of a log, checked against the lines before them."""

    def __init__(self, path: str, facts: Facts):
        self.path, self.facts = path, facts
        self.profile = facts.profile or "2020-12"
        self.first: dict[str, tuple[int, Event]] = {}  # kind of entry -> its line and event
        self.scale = 1.0  # 0.01 for a log that writes accuracies in per cent
        self.last: tuple[int, Event] | None = None  # the last evaluation
        self.best = -math.inf  # accuracy before the last evaluation
        self.reached: tuple[int, Event] | None = None  # the first evaluation at the target
        self.warm: tuple[float, float] | None = None  # earliest and latest end of the last warm-up epoch
        self.rounding = 0.0  # half of the last digit of the current figure

    def _broken(self, rule: Rule, line: int | None, found: str, required: str, severity=None) -> Finding:
        return rule.broken(self.path, line, found, required, severity)

    def figure(self, number: int, event: Event, text: str) -> Iterator[Finding]:
        """The findings about one figure; `text` is its line."""
        self.rounding = _half_digit(event, text)
        yield from self._unit(number, event)
        if not (math.isfinite(event["value"]) and event["value"] >= 0):
            rule = {"avg_ips": AVG_IPS, "total_use_time": TOTAL_TIME}.get(event["name"], TARGET_TIME)
            yield self._broken(rule, number, f"{event['name']} {event['value']}", "a finite number is required")
        elif event["name"] == "target_quality_time":
            yield from self._target_time(number, event)
        elif event["name"] == "total_use_time":
            yield from self._total_time(number, event)
        else:
            yield from self._avg_ips(number, event)

    def _unit(self, number: int, event: Event) -> Iterator[Finding]:
        unit = event["unit"]
        if event["name"] != "avg_ips":
            if unit != "sec":
                severity = None if unit in ("", "s", "secs", "second", "seconds") else ERROR
                yield self._broken(UNIT, number, f"{event['name']} in {unit or 'no unit'}", "sec is required", severity)
            return
        counted, slash, time = unit.partition("/")
        if not slash or time not in ("sec", "s", "second"):
            severity = ERROR if slash else None
            yield self._broken(UNIT, number, f"avg_ips in {unit or 'no unit'}", "images/sec is required", severity)
        elif time != "sec" or counted not in _COUNTED:
            usual = ", ".join(f"{name}/sec" for name in _COUNTED)
            yield self._broken(UNIT, number, f"avg_ips in {unit}", f"{usual} are the usual units", NOTE)

    def _target_time(self, number: int, event: Event) -> Iterator[Finding]:
        begin, stated = self._begin(), event["value"]
        goal = self.facts.goal(self.profile)
        at = self.reached if goal else self.last
        if begin is None:
            return
        if at is None:
            found = (
                f"target_quality_time, but no evaluation reached {goal.accuracy:g} before it"
                if goal
                else ("target_quality_time before any evaluation")
            )
            yield self._broken(TARGET_TIME, number, found, "an evaluation at the target before it is required")
            return
        if goal is None and at[1]["accuracy"] * self.scale <= self.best:
            yield self._broken(
                TARGET_TIME,
                number,
                f"the evaluation before it (line {at[0]}) is no better than an earlier one",
                "this line right after the first evaluation at the target is required",
            )
        by_definition, by_own = at[1]["t"] - begin, event["t"] - begin
        tolerance = _CLOCK_S + self.rounding
        if abs(stated - by_definition) <= tolerance:
            return
        required = (
            f"{by_definition:.3f} s is required: the timestamp of the evaluation "
            + (f"that first reached {goal.accuracy:g}" if goal else "before it")
            + f" (line {at[0]}) minus that of test_begin"
        )
        if abs(stated - by_own) <= tolerance:
            found = f"target_quality_time {stated:g} s, which is this line's own timestamp minus test_begin's"
            yield self._broken(TARGET_TIME, number, found, required, WARNING)
        else:
            yield self._broken(TARGET_TIME, number, f"target_quality_time {stated:g} s", required)

    def _total_time(self, number: int, event: Event) -> Iterator[Finding]:
        total_s = self._total_s()
        if total_s is not None and abs(event["value"] - total_s) > _CLOCK_S + self.rounding:
            yield self._broken(
                TOTAL_TIME,
                number,
                f"total_use_time {event['value']:g} s",
                f"{total_s:.3f} s is required: the timestamp of test_finish minus that of test_begin",
            )

    def _avg_ips(self, number: int, event: Event) -> Iterator[Finding]:
        facts, stated, total_s = self.facts, event["value"], self._total_s()
        if facts.avg_ips is not None:
            if abs(stated - facts.avg_ips) > self.rounding + 1e-6 * stated:
                yield self._broken(
                    AVG_IPS, number, f"avg_ips {stated:g}", f"{facts.avg_ips:.3f} is required by the events"
                )
            return
        if total_s is None or total_s <= 0 or self.last is None:
            return
        warmup, size = facts.warmup_epochs or 0, facts.epoch_size()
        epochs = (facts.epochs or self.last[1]["epoch"]) - warmup
        spans = self._timed_spans(total_s)
        if size is None:
            implied = f", which implies {stated * total_s / epochs:.1f} samples an epoch" if epochs > 0 else ""
            yield self._broken(
                AVG_IPS,
                number,
                f"avg_ips {stated:g} over {epochs:g} epochs in {total_s:.3f} s{implied}",
                "not checked: the log does not carry the samples of an epoch; --samples-per-epoch or --model resnet50, "
                "and --warmup-epochs",
                NOTE,
            )
            return
        if epochs <= 0 or spans is None:
            yield self._broken(
                AVG_IPS,
                number,
                f"avg_ips {stated:g} with {warmup} warm-up epochs",
                "epochs after the warm-up are required",
            )
            return
        slowest, fastest = (epochs * size / span for span in spans)
        if slowest * (1 - _IPS_TOLERANCE) <= stated <= fastest * (1 + _IPS_TOLERANCE):
            return
        required = f"{slowest:.1f}" if fastest - slowest < 0.1 else f"{slowest:.1f} to {fastest:.1f}"
        is_exact = facts.samples_per_epoch is not None and facts.warmup_epochs is not None
        implied = stated * sum(spans) / 2 / epochs
        yield self._broken(
            AVG_IPS,
            number,
            f"avg_ips {stated:g}, which implies {implied:.1f} samples an epoch",
            f"{required} is required: {epochs:g} epochs of {size} samples in {total_s:.3f} s"
            + (
                f", {warmup} warm-up epochs left out"
                if is_exact
                else ", if no warm-up is left out; --samples-per-epoch and --warmup-epochs make the check exact"
            ),
            ERROR if is_exact else WARNING,
        )

    def _timed_spans(self, total_s: float) -> tuple[float, float] | None:
        """(longest, shortest) time in seconds from the end of the warm-up to test_finish."""
        if not self.facts.warmup_epochs:
            return total_s, total_s
        if self.warm is None:
            return None
        end = self.first["run_stop"][1]["t"]
        longest, shortest = (end - t for t in self.warm)
        return (longest, shortest) if shortest > 0 else None

    def _begin(self) -> float | None:
        return self.first["run_start"][1]["t"] if "run_start" in self.first else None

    def _total_s(self) -> float | None:
        return (
            None
            if not {"run_start", "run_stop"} <= self.first.keys()
            else self.first["run_stop"][1]["t"] - self._begin()
        )


def _half_digit(event: Event, text: str) -> float:
    """Half of the last printed decimal place of a figure: its largest rounding error."""
    digits = re.search(event["name"] + r"\s*\S\s*[-+]?\d+(?:\.(\d{0,15}))?", text[:MAX_STATEMENT])
    return 0.5 * 10.0 ** -len(digits[1] or "") if digits else 0.0
