"""Rule book of FlagPerf's inference results: flagperf_inference.json, `Finish Info` and the table of its READMEs.

FlagPerf states no bound on the loss of accuracy and no clock for p_core; published rows lose 6 %. The bounds here are
those that its own figures imply, and 1 % of accuracy, which AI-Rank and MLPerf allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.numeric import is_number
from airank_fast.record.entries import BROKEN, quote
from airank_fast.record.formats import flagperf_inference
from airank_fast.record.lines import Lines
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

_SOURCE = "FlagPerf docs/inference/inference-case-doc.md, and README of a case, 指标列表"


def _rule(name: str, severity: str = ERROR) -> Rule:
    return Rule(name=f"flagperf_inference.{name}", severity=severity, source=_SOURCE)


LINE = _rule("line")
COLUMNS = _rule("columns", WARNING)
CELL = _rule("cell")
PRECISION = _rule("precision")
MISSING = _rule("missing")
RATES = _rule("rates")
E2E_TIME = _rule("e2e_time")
ACCURACY = _rule("acc")
LOSS = _rule("loss", WARNING)
MEMORY = _rule("mem")
MFU = _rule("mfu")
_ODD = {BROKEN: LINE, "columns": COLUMNS, "cell": CELL}

PRECISIONS = ("fp32", "fp16")
_MORE_PRECISIONS = ("bf16", "int8", "tf32")  # of other engines and devices
_CORE, _WHOLE = "*p_inference_core(qps)", "p_inference_whole(qps)"
_VAL_CORE, _VAL_WHOLE = "p_validation_core(qps)", "p_validation_whole(qps)"
_NUMBERS = ("batchsize", "samples", "flops", "e2e_time(second)", _VAL_WHOLE, _VAL_CORE, _WHOLE, _CORE)
_NUMBERS += (
    "flops_per_sample",
    "val_average_acc",
    "infer_average_acc",
    "vendor_usage(GiB)",
    "vendor_max_mem(GiB)",
    "*MFU",
    "mfu",
)
_LOSS = 0.01


def check_table(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about every row of a Markdown file's FlagPerf tables of inference."""
    num_rows = 0
    for number, run, troubles, _ in flagperf_inference.read_table(lines):
        for trouble in troubles:
            required = f"{trouble.required} is required"
            yield _ODD[trouble.kind].broken(lines.path, number, trouble.found, required)
        if run is not None:
            num_rows += 1
            yield from _Run(lines.path, number, run, facts).check(is_table=True)
    if not num_rows:
        yield MISSING.broken(lines.path, None, "a table without a row", "a row for each configuration is required")


def check(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about a dictionary of figures."""
    try:
        run = flagperf_inference.parse_json(lines)
    except UserError as error:
        yield LINE.broken(lines.path, None, str(error), "one JSON object is required")
        return
    for name in _NUMBERS:
        value = run.get(name)
        if value is not None and not (is_number(value, 1e18) and value >= 0):
            yield CELL.broken(lines.path, None, f"{name} {quote(str(value))}", "a number from 0 on is required")
            run[name] = None
    yield from _Run(lines.path, None, run, facts).check(is_table=False)


class _Run:
    """The figures of one run, with FlagPerf's names; a blank figure is None."""

    def __init__(self, path: str, line: int | None, run: dict, facts: Facts):
        self.path, self.line, self.run, self.facts = path, line, run, facts

    def _broken(self, rule: Rule, found: str, required: str, severity: str | None = None) -> Finding:
        return rule.broken(self.path, self.line, found, required, severity)

    def check(self, is_table: bool) -> Iterator[Finding]:
        """The findings about the run."""
        yield from self._precision()
        for name in ("compiler", "batchsize", _WHOLE, _CORE, "infer_average_acc"):
            if self.run.get(name) is None:
                yield self._broken(MISSING, f"no {name}", f"{name} is required")
        yield from self._rates()
        yield from self._accuracy(is_table)
        yield from self._memory()
        yield from self._mfu()

    def _precision(self) -> Iterator[Finding]:
        precision = self.run.get("precision")
        if precision not in PRECISIONS:
            severity = NOTE if precision in _MORE_PRECISIONS else None
            found = f"precision {quote(str(precision), 30)}"
            yield self._broken(PRECISION, found, f"{' or '.join(PRECISIONS)} is required", severity)

    def _rates(self) -> Iterator[Finding]:
        """Core leaves time out, so it is the faster one; the whole set in both ways must fit into e2e_time."""
        for faster, slower in ((_CORE, _WHOLE), (_VAL_CORE, _VAL_WHOLE)):
            high, low = self.run.get(faster), self.run.get(slower)
            if high is not None and low is not None and high < low * (1 - 1e-9):
                found = f"{faster} {high:g} below {slower} {low:g}"
                yield self._broken(RATES, found, f"{faster} >= {slower} is required")
        for name in (_WHOLE, _CORE):
            if self.run.get(name) == 0:
                yield self._broken(RATES, f"{name} 0", "a rate above 0 is required")
        size, e2e_s = self.run.get("samples"), self.run.get("e2e_time(second)")
        if size is None and self.facts.task is not None and self.facts.task.name == "resnet50":
            size = self.facts.task.eval_samples
        if size is not None and e2e_s is not None and self.run.get(_WHOLE):
            least_s = size / self.run[_WHOLE]
            if e2e_s < least_s * (1 - 1e-3) - 0.5:
                found = f"e2e_time {e2e_s:g} s for {size} samples at {self.run[_WHOLE]:g}/s"
                yield self._broken(E2E_TIME, found, f"at least {least_s:.0f} s is required")

    def _task(self) -> tasks.Task | None:
        return self.facts.task or tasks.find(self.run.get("case"))

    def _accuracy(self, is_table: bool) -> Iterator[Finding]:
        own, reference = self.run.get("infer_average_acc"), self.run.get("val_average_acc")
        maximum = 100 if is_table else self._task().headline.maximum if self._task() else 1
        for name, value in (("infer_average_acc", own), ("val_average_acc", reference)):
            if value is not None and value > maximum:
                yield self._broken(ACCURACY, f"{name} {value:g}", f"at most {maximum:g} is required")
        if own is not None and reference and own < reference * (1 - _LOSS):
            found = f"accuracy {own:g} of {reference:g}, {1 - own / reference:.1%} lost"
            yield self._broken(LOSS, found, f"a loss within {_LOSS:.0%} is the usual bound")

    def _memory(self) -> Iterator[Finding]:
        used, total = self.run.get("vendor_usage(GiB)"), self.run.get("vendor_max_mem(GiB)")
        if used is None:
            yield self._broken(MEMORY, "no mem", "used/total in GiB is required", WARNING)
        elif total is not None and used > total:
            yield self._broken(MEMORY, f"mem {used:g}/{total:g}", "used <= total is required")

    def _mfu(self) -> Iterator[Finding]:
        for name in ("*MFU", "mfu"):
            share = self.run.get(name)
            if share is not None and not 0 < share <= 1:
                yield self._broken(MFU, f"{name} {share:.1%}", "a share of the device's rate, up to 100 %, is required")
        theirs, ours, flops = self.run.get("*MFU"), self.run.get("mfu"), self.run.get("flops")
        own_flops = self.run.get("flops_per_sample")
        if not (theirs and ours and flops and own_flops):
            return
        if not math.isclose(theirs / ours, flops / own_flops, rel_tol=1e-6):
            found = f"MFU {theirs:.4g} with {flops:g} operations, {ours:.4g} with {own_flops:g}"
            yield self._broken(MFU, found, "the same rate in both is required")
