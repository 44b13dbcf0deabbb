"""Rule book of FlagPerf results: flagperf.json of this program, and the result table of FlagPerf's READMEs.

| 配置 | precision | fix_hp | e2e_time | p_whole | p_train | p_core | acc | mem |
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.entries import BROKEN, quote
from airank_fast.record.formats import flagperf
from airank_fast.record.lines import Lines
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

_SOURCE = "FlagPerf, README of a case, 通用指标 and 性能指标"


def _rule(name: str, severity: str = ERROR) -> Rule:
    return Rule(name=f"flagperf.{name}", severity=severity, source=_SOURCE)


LINE = _rule("line")
COLUMNS = _rule("columns")
CELL = _rule("cell")
CONFIG = _rule("config")
PRECISION = _rule("precision")
MISSING = _rule("missing")
RATES = _rule("rates")
E2E_TIME = _rule("e2e_time")
ACCURACY = _rule("acc")
MEMORY = _rule("mem")
_ODD = {BROKEN: LINE, "columns": COLUMNS, "cell": CELL, "config": CONFIG, "fraction": ACCURACY}
_NO_ERRORS = {"fraction": WARNING}  # tables of models other than ResNet-50 have metrics of their own

PRECISIONS = ("fp32", "amp", "fp16")
_MORE_PRECISIONS = ("tf32", "bf16")  # only in later tables of FlagPerf
_RATES = ("p_core", "p_train", "p_whole")  # the fastest first
_LONGEST_INIT_S = 600.0  # the part of e2e_time that is not training
_NUMBERS = ("e2e_time", "p_whole", "p_train", "p_core", "acc", "mem_used", "mem_total", "nnodes", "nproc")


def check_table(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about every row of a Markdown file's FlagPerf tables."""
    num_rows = 0
    maximum = facts.task.headline.maximum if facts.task else 1.0
    for number, run, troubles, _ in flagperf.read_table(lines, maximum):
        for trouble in troubles:
            severity = NOTE if trouble.found == "no column acc" else _NO_ERRORS.get(trouble.kind)
            required = f"{trouble.required} is required"
            yield _ODD[trouble.kind].broken(lines.path, number, trouble.found, required, severity)
        if run is not None:
            num_rows += 1
            badly_formed = {trouble.found.split()[0] for trouble in troubles}
            yield from _Run(lines.path, number, run, facts).check(badly_formed)
    if not num_rows:
        yield MISSING.broken(lines.path, None, "a table without a row", "a row for each configuration is required")


def check(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about flagperf.json."""
    try:
        run = flagperf.parse_json(lines)
    except UserError as error:
        yield LINE.broken(lines.path, None, str(error), "one JSON object is required")
        return
    bad = []
    for name in _NUMBERS:
        value = run.get(name)
        if value is not None and not (type(value) in (int, float) and 0 <= value < 1e15):
            bad.append(name)
            yield CELL.broken(lines.path, None, f"{name} {quote(str(value))}", "a number from 0 on is required")
            run[name] = None
    yield from _Run(lines.path, None, run, facts).check(set(bad))


class _Run:
    """The figures of one run, from the table or from JSON; a blank figure is None."""

    def __init__(self, path: str, line: int | None, run: dict, facts: Facts):
        self.path, self.line, self.run, self.facts = path, line, run, facts

    def _broken(self, rule: Rule, found: str, required: str, severity: str | None = None) -> Finding:
        return rule.broken(self.path, self.line, found, required, severity)

    def check(self, reported: set[str]) -> Iterator[Finding]:
        """The findings about the run. `reported` are figures that have a finding already and are blank."""
        yield from self._configuration()
        if all(self.run.get(name) is None for name in (*_RATES, "e2e_time", "acc")) and not reported:
            yield self._broken(MISSING, "a configuration without figures", "rates are required of a finished run", NOTE)
            return
        yield from self._precision()
        yield from self._presence(reported)
        yield from self._rates()
        yield from self._e2e_time()
        yield from self._accuracy()
        yield from self._memory()

    def _configuration(self) -> Iterator[Finding]:
        run = self.run
        nodes, devices = run.get("nnodes"), run.get("nproc")
        if nodes is None or devices is None:
            return
        if nodes < 1 or devices < 1:
            yield self._broken(CONFIG, f"configuration {nodes:g}x{devices:g}", "at least 1x1 is required")
        elif run.get("config") != f"{nodes:g}x{devices:g}":
            yield self._broken(
                CONFIG, f"config {quote(str(run.get('config')), 30)}", f"{nodes:g}x{devices:g} is required"
            )
        for name, number, word in (("nodes_named", nodes, "机"), ("devices_named", devices, "卡")):
            named = run.get(name)
            if named not in (None, number):
                severity = WARNING if name == "devices_named" and named == nodes * devices else None
                yield self._broken(
                    CONFIG, f"{named}{word} beside {run['config']}", f"{number}{word} is required", severity
                )

    def _precision(self) -> Iterator[Finding]:
        precision = self.run.get("precision")
        if precision in PRECISIONS:
            return
        required = f"one of {', '.join(PRECISIONS)} is required"
        if precision in (None, ""):
            yield self._broken(PRECISION, "no precision", required)
        else:
            severity = NOTE if precision in _MORE_PRECISIONS else None
            yield self._broken(PRECISION, f"precision {quote(str(precision), 30)}", required, severity)

    def _presence(self, reported: set[str]) -> Iterator[Finding]:
        """Rates and fix_hp are required. e2e_time and acc are both blank for a run that did not train to its end."""
        names = ("e2e_time", "acc", "p_whole", "p_train", "p_core", "fix_hp")
        blank = {name for name in names if self.run.get(name) is None}
        for name in _RATES:
            if name in blank - reported:
                yield self._broken(MISSING, f"no {name}", f"{name} is required")
        if "fix_hp" in blank:
            yield self._broken(
                MISSING, "no fix_hp", "the changed hyper-parameters, or / for none, are required", WARNING
            )
        if len(blank & {"e2e_time", "acc"}) == 1 and not reported & {"e2e_time", "acc"}:
            missing, there = sorted({"e2e_time", "acc"}, key=lambda name: name not in blank)
            yield self._broken(MISSING, f"{there} without {missing}", "both or none are the usual form", WARNING)
        if self.run.get("mem_used") is None and "mem" not in reported:
            yield self._broken(MISSING, "no mem", "used/total in GiB is required", WARNING)

    def _rates(self) -> Iterator[Finding]:
        rates = [(name, self.run[name]) for name in _RATES if self.run.get(name) is not None]
        for (faster, high), (slower, low) in pairwise(rates):
            if high < low:
                yield self._broken(
                    RATES, f"{faster} {high:g} below {slower} {low:g}", f"{faster} >= {slower} is required"
                )
        for name, rate in rates:
            if rate == 0:
                yield self._broken(RATES, f"{name} 0", "a rate above 0 is required")

    def _e2e_time(self) -> Iterator[Finding]:
        """e2e_time is N / p_whole plus the initialisation. N is not in the table."""
        e2e_s, p_whole, facts = self.run.get("e2e_time"), self.run.get("p_whole"), self.facts
        if e2e_s is None or not p_whole:
            return
        size = facts.epoch_size()
        room = e2e_s * p_whole
        if size is None:
            yield self._broken(
                E2E_TIME,
                f"e2e_time {e2e_s:g} s at {p_whole:g} samples/s, room for {room:.0f} samples",
                "not checked: the table does not carry the number of samples; --samples-per-epoch or --model resnet50, "
                "and --epochs",
                NOTE,
            )
            return
        size *= facts.units_per_sample
        unit = facts.task.unit if facts.task is not None and facts.units_per_sample != 1 else "samples"
        exactly = facts.epochs is not None
        epochs = facts.epochs if exactly else int(room / size)
        init_s = e2e_s - epochs * size / p_whole
        shown = f"{epochs:g} epochs of {size:.0f} {unit} at {p_whole:g}/s"
        rounding = epochs * size * 0.5 / p_whole**2 + 0.5 if self.line is not None else 1e-3
        if epochs < 1 and not exactly:
            yield self._broken(
                E2E_TIME,
                f"e2e_time {e2e_s:g} s, less than an epoch of {size:.0f} {unit} at {p_whole:g}/s",
                "whole epochs are the usual run",
                WARNING,
            )
        elif init_s < -rounding:
            yield self._broken(
                E2E_TIME,
                f"e2e_time {e2e_s:g} s, {-init_s:.0f} s less than {shown}",
                f"at least {e2e_s - init_s:.0f} s is required",
            )
        elif init_s > _LONGEST_INIT_S + rounding:
            yield self._broken(
                E2E_TIME,
                f"e2e_time {e2e_s:g} s, {init_s:.0f} s more than {shown}",
                f"initialisation within {_LONGEST_INIT_S:.0f} s is the usual case",
                WARNING,
            )

    def _accuracy(self) -> Iterator[Finding]:
        accuracy = self.run.get("acc")
        if accuracy is None:
            return
        task = self.facts.task or tasks.find(self.run.get("case"))
        if task is not None and task.headline.maximum != 1:
            if accuracy > task.headline.maximum:
                most = f"at most {task.headline.maximum:g} is required of {task.headline.name}"
                yield self._broken(ACCURACY, f"acc {accuracy:g}", most)
        elif accuracy > 1:
            yield self._broken(ACCURACY, f"acc {accuracy:.1%}", "at most 100 % is required")
        elif self.line is not None and 0 < accuracy < 0.01:
            yield self._broken(ACCURACY, f"acc {accuracy:.2%}", "per cent is required: is this a fraction?", WARNING)
        target = self.run.get("target")
        if self.line is not None and target is not None and accuracy < target:
            found = f"acc {accuracy:g}/{target:g}"
            yield self._broken(ACCURACY, found, "an accuracy that reaches its target is the usual case", WARNING)

    def _memory(self) -> Iterator[Finding]:
        used, total = self.run.get("mem_used"), self.run.get("mem_total")
        if used is None:
            return
        if total is None or used > total:
            yield self._broken(
                MEMORY, f"mem {used:g}/{'' if total is None else f'{total:g}'}", "used <= total is required"
            )
        elif used == 0 or total > 2048:
            yield self._broken(MEMORY, f"mem {used:g}/{total:g}", "used and total in GiB are required", WARNING)
