"""Rule book of events.jsonl, this program's event log: the fields, order, counts and times of its events."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from airank_fast.record.entries import quote
from airank_fast.record.events import Event
from airank_fast.record.lines import Lines
from airank_fast.record.metrics import Tally
from airank_fast.rules import event_fields
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

_SOURCE = "airank_fast/record/events.py"


def _rule(name: str, severity: str = ERROR, source: str = _SOURCE) -> Rule:
    return Rule(name=f"events.{name}", severity=severity, source=source)


LINE = _rule("line")
FIELD = _rule("field")
KIND = _rule("kind", WARNING)
TIME_ORDER = _rule("time_order")
MISSING = _rule("missing")
ORDER = _rule("order")
STEPS = _rule("steps")
EPOCHS = _rule("epochs")
EVALUATION = _rule("evaluation")
BLOCK = _rule("block")
CLOCKS = _rule("clocks")
STATUS = _rule("status")
RESUMED = _rule("resumed", WARNING, "AI-Rank docs/software/train.md (2021-05-28), 评价指标: 训练开始后计时不暂停")
RATES = _rule("rates", ERROR, "airank_fast/record/metrics.py: p_core >= p_train >= p_whole")
MEMORY = _rule("memory")
LOSS = _rule("loss", WARNING)
WARNED = _rule("warned", NOTE)
FORM_RULES = {LINE.name, FIELD.name}  # no figures can be computed from a log that breaks them

_STATUSES = ("success", "aborted")
_REASONS = ("target", "epochs", "exception", "sigterm", "sigint", "sighup", "rank_lost", "nan_loss", "bad_data")
_REASONS += ("disk_full",)
_ONCE = ("run_config", "system", "cache_clear", "init_start", "init_stop", "run_start", "data")
_TIMED = {"block_start", "block_stop", "epoch_stop", "steps", "eval_start", "eval_stop"}
_LISTS = ("loss", "lr", "core_s", "wait_s", "h2d_s")


def check(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about one events.jsonl."""
    return event_fields.check_lines(lines, _Book(lines.path), event_fields.troubles, LINE, FIELD)


class _Book:
    """Checks a run event by event."""

    def __init__(self, path: str):
        self.path = path
        self.tally = Tally()
        self.first: dict[str, int] = {}  # line of the first event of each kind
        self.line = 0
        self.last_t = -math.inf
        self.step = self.samples = 0
        self.epoch = 0
        self.open: dict[str, Event] = {}  # the block and the evaluation under way
        self.clocks: Event | None = None  # the last block_stop of this process
        self.stop: tuple[int, Event] | None = None
        self.data: Event = {}
        self.nan_reported = False
        self.ahead = 0  # step of an epoch_stop that comes before its `steps`

    def _broken(self, rule: Rule, found: str, required: str, severity: str | None = None) -> Finding:
        return rule.broken(self.path, self.line, found, required, severity)

    def feed(self, number: int, event: Event) -> Iterator[Finding]:
        self.line, kind = number, event["kind"]
        if event["t"] < self.last_t:
            yield self._broken(
                TIME_ORDER,
                f"t {event['t']:.6f} after {self.last_t:.6f}",
                "times that do not run backwards are required",
            )
        self.last_t = max(self.last_t, event["t"])
        if kind not in event_fields.FIELDS:
            yield self._broken(KIND, f"an event of kind {quote(kind, 30)}", "one of the documented kinds is required")
            return
        yield from self._order(kind)
        handle = getattr(self, "_on_" + kind, None)
        if handle is not None:
            yield from handle(event)
        self.tally.feed(event)
        self.first.setdefault(kind, number)

    def _order(self, kind: str) -> Iterator[Finding]:
        if not self.first and kind != "process_start":
            yield self._broken(ORDER, f"{kind} first", "process_start first is required")
        if kind in _ONCE and kind in self.first:
            yield self._broken(ORDER, f"{kind} again, first in line {self.first[kind]}", "one is required")
        if kind in _TIMED and "run_start" not in self.first:
            yield self._broken(
                ORDER, f"{kind} before run_start", "training and evaluation under the clock are required"
            )
        if kind in _TIMED and self.stop is not None:
            yield self._broken(ORDER, f"{kind} after run_stop", "nothing timed after run_stop is required")
        if kind == "data" and "run_start" not in self.first:
            required = "a clock that starts before the data set is first touched is required"
            yield self._broken(ORDER, "the data set was touched before run_start", required, WARNING)

    # processes

    def _on_process_start(self, event: Event) -> Iterator[Finding]:
        self.clocks, self.ahead = None, 0
        self.open.clear()
        yield from ()

    def _on_resume(self, event: Event) -> Iterator[Finding]:
        yield self._broken(
            RESUMED,
            f"resumed at step {event['step']}",
            "a run whose clock never stopped is required; this one is not comparable",
        )
        if event["step"] > self.step:
            yield self._broken(
                STEPS,
                f"resume at step {event['step']}, but the log ends at {self.step}",
                "a step that was trained is required",
            )
        self.step, self.samples = event["step"], event["samples"]
        self.epoch = max((old["epoch"] for old in self.tally.epochs if old["step"] <= self.step), default=0)
        self.stop = None

    def _on_run_stop(self, event: Event) -> Iterator[Finding]:
        if event["status"] not in _STATUSES:
            yield self._broken(STATUS, f"status {quote(event['status'], 30)}", f"{' or '.join(_STATUSES)} is required")
        elif event["status"] == "success" and self.tally.target is not None and self.tally.reached() is None:
            yield self._broken(
                STATUS,
                f"success without an evaluation at {self.tally.target:g}",
                "an evaluation at or above the target is required",
            )
        elif event["status"] == "aborted" and event.get("reason") == "target":
            yield self._broken(STATUS, "aborted with reason target", "success is required")
        if event.get("reason") is not None and event["reason"] not in _REASONS:
            yield self._broken(
                STATUS, f"reason {quote(event['reason'], 30)}", f"one of {', '.join(_REASONS)} is required"
            )
        if self.stop is not None:
            yield self._broken(ORDER, f"run_stop again, first in line {self.stop[0]}", "one is required")
        self.stop = self.line, event

    # training

    def _counts(self, event: Event) -> Iterator[Finding]:
        """step and samples must be the totals of the steps so far."""
        if (event["step"], event["samples"]) != (self.step, self.samples):
            found = f"{event['kind']} at step {event['step']} with {event['samples']} samples"
            yield self._broken(STEPS, found, f"step {self.step} with {self.samples} samples is required")

    def _on_steps(self, event: Event) -> Iterator[Finding]:
        first, count = event["first_step"], event["num_steps"]
        if first != self.step + 1:
            yield self._broken(
                STEPS, f"steps from {first} on after step {self.step}", f"step {self.step + 1} is required"
            )
        names = (*_LISTS, "units") if event.get("units") is not None else _LISTS
        lengths = {name: len(event[name]) for name in names if len(event[name]) != count}
        for name, length in lengths.items():
            yield self._broken(STEPS, f"{length} values of {name} for {count} steps", "one a step is required")
        yield from self._losses(event)
        batch = self.tally.config.get("global_batch_size")
        if batch and event["samples"] != count * batch:
            yield self._broken(
                STEPS, f"{event['samples']} samples in {count} steps", f"{count * batch} are required: {batch} a step"
            )
        bad = next((index for index, loss in enumerate(event["loss"]) if not math.isfinite(loss)), None)
        if bad is not None and not self.nan_reported:
            self.nan_reported = True
            yield self._broken(LOSS, f"loss {event['loss'][bad]} at step {first + bad}", "a finite loss is required")
        self.step, self.samples = first + count - 1, self.samples + event["samples"]

    def _losses(self, event: Event) -> Iterator[Finding]:
        """Steps with several losses must have one value of each a step, and their sum as the loss."""
        several = event.get("losses")
        if not several:
            return
        for name, values in several.items():
            if len(values) != event["num_steps"]:
                found = f"{len(values)} values of the loss {name} for {event['num_steps']} steps"
                yield self._broken(STEPS, found, "one a step is required")
        for loss, parts in zip(event["loss"], zip(*several.values(), strict=False), strict=False):
            total = sum(parts)
            if math.isfinite(total) and not math.isclose(loss, total, rel_tol=1e-6, abs_tol=1e-9):
                yield self._broken(STEPS, f"loss {loss} of losses that add up to {total!r}", "their sum is required")
                return

    def _on_block_start(self, event: Event) -> Iterator[Finding]:
        if "block" in self.open:
            yield self._broken(BLOCK, "block_start in a block", "block_stop before it is required")
        self.open["block"] = event
        yield from self._counts(event)

    def _on_block_stop(self, event: Event) -> Iterator[Finding]:
        if self.open.pop("block", None) is None:
            yield self._broken(BLOCK, "block_stop without a block_start", "block_start before it is required")
        yield from self._counts(event)
        if event["step"] < self.ahead:
            yield self._broken(
                EPOCHS,
                f"an epoch_stop at step {self.ahead} in a block that stops at {event['step']}",
                "an epoch that ends in its block is required",
            )
        self.step, self.samples, self.ahead = event["step"], event["samples"], 0
        ranks = self.tally.config.get("world_size")
        for name in ("core_s", "wait_s", "h2d_s", "measure_s"):
            if ranks and len(event[name]) != ranks:
                yield self._broken(CLOCKS, f"{name} of {len(event[name])} ranks", f"{ranks} are required")
            before = self.clocks[name] if self.clocks else []
            if any(now < old for now, old in zip(event[name], before, strict=False)):
                yield self._broken(CLOCKS, f"{name} less than in the block before", "sums that grow are required")
        self.clocks = event

    def _on_epoch_stop(self, event: Event) -> Iterator[Finding]:
        if event["epoch"] != self.epoch + 1:
            required = f"epoch {self.epoch + 1} is required"
            yield self._broken(EPOCHS, f"epoch_stop of epoch {event['epoch']} after {self.epoch}", required)
        self.epoch = event["epoch"]
        batch = self.tally.config.get("global_batch_size")
        if event["step"] < self.step or (batch and event["samples"] != event["step"] * batch):
            yield from self._counts(event)
        self.ahead = event["step"]  # the steps up to it may be reported after it, in this block

    def _on_checkpoint(self, event: Event) -> Iterator[Finding]:
        if event["step"] != self.step:
            yield self._broken(STEPS, f"checkpoint of step {event['step']} at step {self.step}", "the same is required")

    # evaluation

    def _on_data(self, event: Event) -> Iterator[Finding]:
        self.data = self.data or event
        yield from ()

    def _on_eval_start(self, event: Event) -> Iterator[Finding]:
        if "evaluation" in self.open:
            yield self._broken(EVALUATION, "eval_start in an evaluation", "eval_stop before it is required")
        self.open["evaluation"] = event
        yield from self._counts(event)

    def _on_eval_stop(self, event: Event) -> Iterator[Finding]:
        start = self.open.pop("evaluation", None)
        if start is None or start["step"] != event["step"]:
            yield self._broken(
                EVALUATION, "eval_stop without its eval_start", "eval_start at the same step is required"
            )
        yield from self._counts(event)
        if event.get("counted") is not None:
            yield from self._ratio(event)
        name, maximum = self.tally.metric.name, self.tally.metric.maximum
        if event["accuracy"] > maximum * (1 + 1e-6):
            yield self._broken(
                EVALUATION, f"accuracy {event['accuracy']:g}", f"at most {maximum:g} is required of {name}"
            )
        stated = (event.get("quality") or {}).get(name)
        if stated is not None and stated != event["accuracy"] and not math.isnan(stated):
            found = f"accuracy {event['accuracy']} with {name} {stated} in quality"
            yield self._broken(EVALUATION, found, f"{stated!r} is required: {name} is the headline metric")

    def _ratio(self, event: Event) -> Iterator[Finding]:
        """The accuracy of an evaluation must be correct / counted."""
        correct, counted, accuracy = event["correct"], event["counted"], event["accuracy"]
        if not counted or correct > counted:
            yield self._broken(
                EVALUATION, f"{correct} of {counted} correct", "a part of the counted samples is required"
            )
        elif not math.isclose(accuracy, correct / counted, rel_tol=1e-6, abs_tol=1e-9):
            yield self._broken(
                EVALUATION,
                f"accuracy {accuracy} with {correct} of {counted} correct",
                f"{correct / counted!r} is required",
            )
        samples = self.data.get("eval_samples") or self.tally.config.get("eval_samples")
        if samples and self.tally.unit == "images" and counted != samples:
            yield self._broken(EVALUATION, f"an evaluation of {counted} images", f"all {samples} are required")

    def _on_memory(self, event: Event) -> Iterator[Finding]:
        used = max([event["used_bytes"], *(event.get("per_rank") or [])])
        if used > event["total_bytes"]:
            yield self._broken(MEMORY, f"{used} bytes used of {event['total_bytes']}", "used <= total is required")

    def _on_warning(self, event: Event) -> Iterator[Finding]:
        yield self._broken(WARNED, f"the run warned: {quote(event['message'], 200)}", "no warning is the usual case")

    # the run as a whole

    def finish(self) -> Iterator[Finding]:
        for kind in ("process_start", "run_config", "run_start"):
            if kind not in self.first:
                yield MISSING.broken(self.path, None, f"no {kind}", f"{kind} is required")
        if self.stop is None:
            yield MISSING.broken(
                self.path, None, "no run_stop: the run was cut off, or is still under way", "run_stop is required"
            )
        summary = self.tally.summary()
        for note in summary["notes"]:
            if note.startswith("core_s"):
                yield RATES.broken(
                    self.path, None, note, "time in steps within the time outside evaluations is required", WARNING
                )
        rates = [(name, summary[name]) for name in ("p_core", "p_train", "p_whole") if summary[name] is not None]
        for (faster, high), (slower, low) in pairwise(rates):
            if high < low * (1 - 1e-9):
                yield RATES.broken(
                    self.path,
                    None,
                    f"{faster} {high:.3f} below {slower} {low:.3f}",
                    f"{faster} >= {slower} is required",
                )
