"""Rule book of AI-Rank's inference logs, cloud and mobile, profiles 2020-12 and 2021-05.

The lines tell which of the five logs a file is. Each figure is computed again from the lines before it. Errors are what
no reading of the documents allows; record/formats/airank_inference.py lists their contradictions, which are at most
warnings.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

from airank_fast.record.entries import BROKEN, Entry
from airank_fast.record.events import Event
from airank_fast.record.formats import airank_inference_reading as reading
from airank_fast.record.formats.airank_inference import PREFIX
from airank_fast.record.lines import Lines
from airank_fast.record.metrics import percentile
from airank_fast.rules import inference_profiles
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

_SOURCE = "AI-Rank docs/software/inference_{cloud,mobile}.md, 日志格式要求"
_CONSTRAINTS = "AI-Rank docs/software/inference_{cloud,mobile}.md, 模型、数据集和约束条件"


def _rule(name: str, severity: str = ERROR, source: str = _SOURCE) -> Rule:
    return Rule(name=f"airank_inference.{name}", severity=severity, source=source)


LINE = _rule("line")
PREFIXED = _rule("prefix")
DASH = _rule("dash", NOTE)
TIME_ORDER = _rule("time_order", WARNING)
ORDER = _rule("order")
MISSING = _rule("missing")
LOAD_DATA = _rule("load_data")
SPELLING = _rule("spelling", WARNING)
RESULT = _rule("result")
SAMPLE = _rule("sample")
ACCURACY = _rule("total_accuracy")
COUNT = _rule("total_samples_cnt")
IPS = _rule("avg_ips")
QPS = _rule("target_qps")
CASE = _rule("latency_case")
PERCENTILE = _rule("percentile")
EACH_CASE = _rule("samples_cnt_each_case")
MAX_LATENCY = _rule("max_latency")
MEMORY = _rule("max_memory_use")
BOUND = _rule("bound", ERROR, _CONSTRAINTS)
UNCHECKED = _rule("unchecked", NOTE, _CONSTRAINTS)
_ODD = {
    BROKEN: LINE,
    "prefix": PREFIXED,
    "interleaved": LINE,
    "full_width": SPELLING,
    "spelling": SPELLING,
    "result": RESULT,
    "top": ACCURACY,
    "other": LINE,
    "no_accuracy": ACCURACY,
}
_SEVERITIES = {"interleaved": WARNING, "other": WARNING, "no_accuracy": WARNING}
_KINDS = {  # of a log: the lines that it must have
    "accuracy": ("test_start", "sample", "progress", "test_stop"),
    "offline": ("test_start", "warm_up_start", "warm_up_stop", "progress", "avg_ips", "test_stop"),
    "online": ("test_start", "target_qps", "progress", "test_stop"),
    "latency": ("test_start", "case", "percentile", "test_stop"),
    "max-batch": ("test_start", "samples_cnt_each_case", "progress", "test_stop"),
}
_SHOWN = {
    "data": "load_data",
    "test_start": "test_begin",
    "test_stop": "test_end",
    "warm_up_start": "warmup_begin",
    "warm_up_stop": "warmup_finish",
    "sample": "sampleid",
    "progress": "total_accuracy",
    "percentile": "90th_percentile_latency",
    "case": "latency_case",
}
_RANK = {  # the order of lines; those of one rank may be in any
    "data": 0,
    "test_start": 1,
    "warm_up_start": 2,
    "target_qps": 2,
    "samples_cnt_each_case": 2,
    "warm_up_stop": 3,
    "sample": 4,
    "case": 4,
    "progress": 5,
    "avg_ips": 6,
    "percentile": 6,
    "test_stop": 7,
}
_REPEATED = ("sample", "progress", "case")
_NUM_CASES = 1000
_TOLERANCE = 1e-3  # of a rate; the program's clock and its printed times differ
_CLOCK_S = 0.0021  # of a difference of two printed times


def check(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about one log; lines without the prefix are ignored."""
    book = _Book(lines.path, facts)
    for entry in reading.read(lines):
        yield from book.feed(entry)
    yield from book.finish()


class _Book:
    """Checks a log entry by entry; it keeps one number for each sample and each case."""

    def __init__(self, path: str, facts: Facts):
        self.path, self.facts = path, facts
        self.first: dict[str, tuple[int, Event]] = {}  # the first line of each name, and its event
        self.last_t, self.rank = -math.inf, 0
        self.dash: bool | None = None
        self.ids: set[int] = set()  # hashes
        self.num_samples = self.num_right = self.num_unknown = 0
        self.progress: tuple[int, Event] | None = None  # the last line with a count
        self.accuracy: tuple[int, float] | None = None  # the last one stated
        self.cases = array("d")
        self.begun: tuple[int, float] | None = None  # number and time of a case under way
        self.clock_s = 0.0  # error of a case that is a difference of printed times

    def _broken(self, rule: Rule, line: int | None, found: str, required: str, severity=None) -> Finding:
        return rule.broken(self.path, line, found, required, severity)

    @property
    def profile(self) -> str:
        """The document that the log follows."""
        return self.facts.profile or ("2021-05" if "data" in self.first else "2020-12")

    def feed(self, entry: Entry) -> Iterator[Finding]:
        number, event, troubles, text = entry
        for trouble in troubles:
            required = f"{trouble.required} is required"
            yield self._broken(_ODD[trouble.kind], number, trouble.found, required, _SEVERITIES.get(trouble.kind))
        if event is None or event["kind"] == "other":
            return
        name = _name(event)
        yield from self._form(number, text)
        yield from self._place(number, event, name)
        if name in self.first and name not in _REPEATED:
            return
        self.first.setdefault(name, (number, event))
        handle = getattr(self, "_on_" + event["kind"], None)
        if handle is not None:
            yield from handle(number, event, text)

    def _form(self, number: int, text: str) -> Iterator[Finding]:
        dash = text.partition("AI-Rank-")[0].rstrip().endswith("-")
        if self.dash is None:
            self.dash = dash
        elif dash != self.dash:
            self.dash = dash
            yield self._broken(DASH, number, "lines with and without '- ' before AI-Rank-log", "one form is usual")

    def _place(self, number: int, event: Event, name: str) -> Iterator[Finding]:
        shown, rank = _SHOWN.get(name, name), _RANK[name]
        if event["t"] < self.last_t - 1e-9:
            found = f"timestamp {event['t']:.3f} after {self.last_t:.3f}"
            yield self._broken(TIME_ORDER, number, found, "times that do not run backwards are required")
        self.last_t = max(self.last_t, event["t"])
        if name in self.first and name not in _REPEATED:
            found = f"{shown} again, first in line {self.first[name][0]}"
            yield self._broken(ORDER, number, found, "one is required")
        elif rank < self.rank:
            before = next(_SHOWN.get(key, key) for key in reversed(self.first) if _RANK[key] == self.rank)
            yield self._broken(ORDER, number, f"{shown} after {before}", f"{shown} before it is required")
        self.rank = max(self.rank, rank)

    # lines

    def _on_sample(self, number: int, event: Event, text: str) -> Iterator[Finding]:
        key = hash(event["id"])
        if key in self.ids:
            yield self._broken(SAMPLE, number, f"sample {event['id'][:60]} again", "each sample once is required")
        self.ids.add(key)
        self.num_samples += 1
        self.num_right += event["correct"] is True
        self.num_unknown += event["correct"] is None

    def _on_progress(self, number: int, event: Event, text: str) -> Iterator[Finding]:
        accuracy = event.get("accuracy")
        if accuracy is not None:
            self.accuracy = number, accuracy
            maximum = self.facts.task.headline.maximum if self.facts.task else 100.0
            if not 0 <= accuracy <= maximum:
                required = f"from 0 to {maximum:g} is required"
                yield self._broken(ACCURACY, number, f"total_accuracy {accuracy:g}", required)
        if "samples" not in event:
            return
        before = self.progress[1] if self.progress else {}
        if not event["samples"] > before.get("samples", 0):
            found = f"total_samples_cnt {event['samples']:g} after {before.get('samples', 0):g}"
            yield self._broken(COUNT, number, found, "a count that grows is required")
        for key, rule in (("max_latency_s", MAX_LATENCY), ("memory_bytes", MEMORY)):
            value, last = event.get(key), before.get(key)
            if value is not None and (not value > 0 or (last is not None and value < last)):
                found = f"{rule.name.partition('.')[2]} {value:g} after {last or 0:g} ({key})"
                yield self._broken(rule, number, found, "a maximum so far, which never falls, is required")
        self.progress = number, event

    def _on_case_start(self, number: int, event: Event, text: str) -> Iterator[Finding]:
        if self.begun is not None:
            found = f"latency_case{event['number']}_begin in case {self.begun[0]}"
            yield self._broken(CASE, number, found, "the end of a case before the next begins is required")
        self.begun = event["number"], event["t"]
        stamp = text.partition(PREFIX)[2].split()  # a time of day, to the ms, is before another word
        digits = len(stamp[0].partition(".")[2]) if stamp else 3
        self.clock_s = max(self.clock_s, 10.0**-digits)

    def _on_case_stop(self, number: int, event: Event, text: str) -> Iterator[Finding]:
        if self.begun is None or self.begun[0] != event["number"]:
            found = f"latency_case{event['number']}_finish without its begin"
            yield self._broken(CASE, number, found, "latency_caseN_begin before it is required")
        else:
            yield from self._case(number, event["number"], event["t"] - self.begun[1])
        self.begun = None

    def _on_case(self, number: int, event: Event, text: str) -> Iterator[Finding]:
        yield from self._case(number, event["number"], event["latency_s"])

    def _case(self, number: int, case: int, latency_s: float) -> Iterator[Finding]:
        if case != len(self.cases) + 1:
            yield self._broken(CASE, number, f"case {case} after {len(self.cases)}", "cases in order are required")
        if not 0 <= latency_s < math.inf:
            yield self._broken(CASE, number, f"a latency of {latency_s:g} s", "a time above 0 is required")
        self.cases.append(latency_s)

    # the log as a whole

    def finish(self) -> Iterator[Finding]:
        """The findings about the log as a whole."""
        kind = self._log_kind()
        for name in _KINDS[kind]:
            if name not in self.first:
                shown = _SHOWN.get(name, name)
                yield self._broken(MISSING, None, f"no {shown}", f"{shown} is required of this log ({kind})")
        if "data" not in self.first and self.profile == "2021-05":
            yield self._broken(LOAD_DATA, None, "no load_data", "load_data with a checksum is required (2021-05)")
        yield from getattr(self, "_finish_" + kind.replace("-", "_"))()
        yield from self._whole_set(kind)

    def _log_kind(self) -> str:
        for kind, name in (("accuracy", "sample"), ("latency", "case"), ("max-batch", "samples_cnt_each_case")):
            if name in self.first:
                return kind
        if "target_qps" in self.first:
            return "online"
        is_offline = {"warm_up_start", "avg_ips"} & self.first.keys() or self.progress
        return "offline" if is_offline else "accuracy"

    def _finish_accuracy(self) -> Iterator[Finding]:
        if self.accuracy is None:
            yield self._broken(MISSING, None, "no total_accuracy", "total_accuracy is required")
            return
        line, stated = self.accuracy
        share = self.num_right / self.num_samples if self.num_samples and not self.num_unknown else None
        bound = self._bound("cloud")
        is_share = bound is None or bound.metric == "top1"
        if share is not None and abs(stated - share) > 1e-6:
            found = f"total_accuracy {stated:g} of {self.num_right} right results of {self.num_samples}"
            required = f"{share!r} is required"
            if not is_share:
                required = "results say what matches exactly, total_accuracy is another metric"
            yield self._broken(ACCURACY, line, found, required, None if is_share else NOTE)
        yield from self._judge(line, stated, bound)

    def _judge(self, line: int, accuracy: float, bound: inference_profiles.Bound | None) -> Iterator[Finding]:
        """The accuracy against the bound: of the run, else of the document."""
        least = self.facts.target
        source = self.facts.target_source
        if least is None and bound is not None:
            least, source = bound.required, f"{bound.factor:.0%} of {bound.reference:g}, {bound.source}"
        if least is None:
            yield self._broken(UNCHECKED, None, "the log does not state its model", "not checked: --model")
        elif accuracy < least:
            found = f"total_accuracy {accuracy:g}, {least - accuracy:.3g} below the bound"
            yield self._broken(BOUND, line, found, f"at least {least:g} is required ({source})")

    def _finish_offline(self) -> Iterator[Finding]:
        yield from self._running_accuracy()
        figure, stop = self.first.get("avg_ips"), self.first.get("test_stop")
        if figure is None:
            return
        line, event = figure
        counted, _, time = event["unit"].partition("/")
        if time != "sec" or counted not in ("images", "samples", "videos", "sentences"):
            found = f"avg_ips in {event['unit'] or 'no unit'}"
            yield self._broken(IPS, line, found, "images/sec or samples/sec is required", WARNING)
        starts = [self.first[name][1]["t"] for name in ("warm_up_stop", "test_start") if name in self.first]
        if self.progress is None or not starts:
            return
        ends = {event["t"], (stop or figure)[1]["t"]}
        yield from self._rate(IPS, line, event["value"], starts, ends)

    def _rate(self, rule: Rule, line: int, stated: float, starts: list[float], ends: set[float]) -> Iterator[Finding]:
        """A rate against samples / time; `starts`: the usual one first, others give a note."""
        samples = self.progress[1]["samples"]
        for index, start in enumerate(starts):
            for end in ends:
                if end > start and self._fits(stated, samples, end - start):
                    if index:
                        found = f"{stated:g}/s with the warm-up in its time"
                        yield self._broken(rule, line, found, "the time from warmup_finish on is usual", NOTE)
                    return
        span = max(ends) - starts[0]
        required = f"{samples / span:.3f}/s is required" if span > 0 else "time between the lines is required"
        found = f"{rule.name.partition('.')[2]} {stated:g} of {samples:g} samples in {span:.3f} s"
        yield self._broken(rule, line, found, required)

    def _fits(self, stated: float, samples: float, span: float) -> bool:
        slack = stated * (_TOLERANCE + _CLOCK_S / span) + 0.0005
        return abs(stated - samples / span) <= slack

    def _running_accuracy(self) -> Iterator[Finding]:
        if self.accuracy is None:
            yield self._broken(MISSING, None, "no total_accuracy", "total_accuracy is required")
        else:
            yield from self._judge(*self.accuracy, self._bound("cloud"))

    def _finish_online(self) -> Iterator[Finding]:
        yield from self._running_accuracy()
        yield from self._bounded("cloud")
        figure, start, stop = (self.first.get(name) for name in ("target_qps", "test_start", "test_stop"))
        if figure is None or self.progress is None or start is None or stop is None:
            return
        line, event = figure
        span = stop[1]["t"] - start[1]["t"]
        samples = self.progress[1]["samples"]
        if span > 0 and not self._fits(event["value"], samples, span):
            measured = samples / span
            found = f"target_qps {event['value']:g} of {samples:g} samples in {span:.3f} s"
            severity = ERROR if event["value"] > measured else WARNING  # less may be the number of clients
            yield self._broken(QPS, line, found, f"{measured:.3f} is required: it is ips as well", severity)

    def _bounded(self, device: str) -> Iterator[Finding]:
        """The greatest latency against the document's bound."""
        if self.progress is None:
            return
        line, event = self.progress
        longest_s = event.get("max_latency_s")
        bound = self._bound(device) if self.facts.target is None else None  # else the events have the bound
        if longest_s is None:
            yield self._broken(MAX_LATENCY, line, "no max_latency", "max_latency is required")
        elif bound is not None and bound.latency_ms is not None and longest_s * 1e3 > bound.latency_ms * (1 + 1e-9):
            found = f"max_latency {longest_s * 1e3:g} ms"
            yield self._broken(BOUND, line, found, f"at most {bound.latency_ms:g} ms is required ({bound.source})")

    def _finish_latency(self) -> Iterator[Finding]:
        if len(self.cases) != _NUM_CASES:
            found = f"{len(self.cases)} latencies"
            severity = NOTE if self.facts.target is not None else None
            yield self._broken(CASE, None, found, f"{_NUM_CASES} are required", severity)
        figure = self.first.get("percentile")
        if figure is None or not self.cases:
            return
        line, event = figure
        ascending, count = sorted(self.cases), len(self.cases)
        below, above = (
            ascending[int(0.9 * (count - 1))],
            ascending[min(int(0.9 * count), count - 1)],
        )  # of any usual kind
        slack = 6e-8 + self.clock_s  # half of the fourth decimal of a ms
        if not below - slack <= event["p90_s"] <= above + slack:
            found = f"90th_percentile_latency {event['p90_s'] * 1e3:g} ms"
            own = percentile(ascending, 90) * 1e3
            yield self._broken(PERCENTILE, line, found, f"{own:.4f} ms is required by the {count} cases")
        for name, own in (("min_s", ascending[0]), ("max_s", ascending[-1])):
            if name in event and abs(event[name] - own) > slack:
                found = f"{name[:3]}_latency {event[name] * 1e3:g} ms"
                yield self._broken(PERCENTILE, line, found, f"{own * 1e3:.4f} ms is required by the {count} cases")

    def _finish_max_batch(self) -> Iterator[Finding]:
        yield from self._running_accuracy()
        yield from self._bounded("mobile")
        line, event = self.first["samples_cnt_each_case"]
        size = event["value"]
        if not (size >= 1 and size.is_integer()):
            yield self._broken(EACH_CASE, line, f"samples_cnt_each_case {size:g}", "a whole number is required")
        elif self.progress and self.progress[1]["samples"] < size:
            found = f"samples_cnt_each_case {size:g} of {self.progress[1]['samples']:g} samples"
            yield self._broken(EACH_CASE, line, found, "no more than were answered is required")
        if self.profile == "2020-12" and self.progress and "memory_bytes" not in self.progress[1]:
            yield self._broken(MEMORY, self.progress[0], "no max_memory_use", "it is required (2020-12)")

    def _whole_set(self, kind: str) -> Iterator[Finding]:
        """All of the validation set, of a task whose set the documents fix; not of a run judged by its own target."""
        name = self.facts.task.name if self.facts.task else ""
        whole = inference_profiles.EVAL_SAMPLES.get(name) if name == "resnet50" else None
        counts = {"accuracy": self.num_samples, "offline": self.progress[1]["samples"] if self.progress else 0}
        if whole and self.facts.target is None and kind in counts and counts[kind] < whole:
            found = f"{counts[kind]:g} samples"
            yield self._broken(COUNT, None, found, f"the whole validation set, {whole}, is required")

    def _bound(self, device: str) -> inference_profiles.Bound | None:
        name = self.facts.task.name if self.facts.task else ""
        return inference_profiles.bounds(name, f"airank-{self.profile}", device)


def _name(event: Event) -> str:
    """The name of a line in the tables above."""
    kind = event["kind"]
    return event["name"] if kind == "figure" else "case" if kind in ("case_start", "case_stop") else kind
