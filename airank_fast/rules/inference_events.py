"""Rule book of an inference run's events.jsonl: fields, order, counts, figures, and what the profile requires.

record/events.py documents the events. The figures of a test are checked by rules/inference_figures.py, LoadGen's own
logs by rules/mlperf_inference. A rehearsal need not be as long as the profile requires, and must say that it is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal

from airank_fast import tasks
from airank_fast.record.entries import quote
from airank_fast.record.events import Event, dictionary
from airank_fast.record.inference_metrics import ACCURACY, PERFORMANCE, InferenceTally, LoadTest, headline_value
from airank_fast.record.lines import Lines
from airank_fast.rules import (
    event_fields,
    inference_accuracy,
    inference_effective,
    inference_fields,
    inference_figures,
    inference_profiles,
)
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

_SOURCE = "airank_fast/record/events.py"


def _rule(name: str, severity: str = ERROR, source: str = _SOURCE) -> Rule:
    return Rule(name=f"infer.{name}", severity=severity, source=source)


LINE = _rule("line")
FIELD = _rule("field")
KIND = _rule("kind", WARNING)
TIME_ORDER = _rule("time_order")
MISSING = _rule("missing")
ORDER = _rule("order")
PROFILE = _rule("profile")
TEST = _rule("test")
QUERIES = _rule("queries")
FIGURES = _rule("figures", ERROR, "the queries events of the same test")
VERDICT = _rule("verdict")
BOUND = _rule("bound")
LENGTH = _rule("length")
SETTINGS = _rule("settings")
GATE = _rule("gate", ERROR, "docs/inference.md: accuracy before speed")
ACCURACIES = _rule("accuracy")
PRECISION = _rule("precision")
CALIBRATION = _rule("calibration")
WEIGHTS = _rule("weights", ERROR, "MLPerf inference rules (closed division) and AI-Rank: the reference model's weights")
DATA = _rule("data")
COMPLIANCE = _rule("compliance", WARNING)
SEARCH = _rule("search")
MEMORY = _rule("memory")
STATUS = _rule("status")
REHEARSAL = _rule("rehearsal", NOTE)
WARNED = _rule("warned", NOTE)
FORM_RULES = {LINE.name, FIELD.name}  # no figures can be computed from events that break them

_REASONS = ("valid", "not_valid", "accuracy", "exception", "sigterm", "sigint", "sighup", "worker_lost", "disk_full")
_REASONS += ("bad_data",)
_ONCE = ("infer_config", "system", "cache_clear")
_ANYWHERE = ("process_start", "infer_config", "system", "cache_clear", "warning", "run_stop", "process_stop")
_MODES = (ACCURACY, PERFORMANCE, "TEST01", "TEST04", "TEST05")
_OWN_SCENARIOS = {"airank": ("offline", "online", "latency", "max-batch"), "flagperf": ("flagperf",)}
_OWN_CLIENTS = ("online", "latency", "max-batch")  # of AI-Rank, which a run of LoadGen may have as well
_CASES = 1000  # of AI-Rank's latency
EMBEDDED = "the embedded "  # begins the name of every data set that comes with the package


def check(lines: Lines, facts: Facts) -> Iterator[Finding]:
    """The findings about one events.jsonl of an inference run."""
    return event_fields.check_lines(lines, _Book(lines.path), inference_fields.troubles, LINE, FIELD)


class _Book:
    """Checks a run event by event."""

    def __init__(self, path: str):
        self.path, self.line = path, 0
        self.tally = InferenceTally()
        self.first: dict[str, int] = {}  # line of the first event of each kind
        self.last_t = -math.inf
        self.profile: inference_profiles.Profile | None = None
        self.passed: set[str] = set()  # scenarios with a passed accuracy run
        self.valid: set[str] = set()  # scenarios with a valid performance test
        self.stop: Event | None = None

    @property
    def is_free(self) -> bool:
        """Whether the run says of itself that it is no result."""
        return bool(self.tally.config.get("is_rehearsal") or self.tally.config.get("is_quick"))

    @property
    def task(self) -> tasks.Task | None:
        """The task of the run."""
        return tasks.of(self.tally.config)

    def _broken(self, rule: Rule, found: str, required: str, severity: str | None = None) -> Finding:
        return rule.broken(self.path, self.line, found, required, severity)

    def feed(self, number: int, event: Event) -> Iterator[Finding]:
        self.line, kind = number, event["kind"]
        if event["t"] < self.last_t:
            found = f"t {event['t']:.6f} after {self.last_t:.6f}"
            yield self._broken(TIME_ORDER, found, "times that do not run backwards are required")
        self.last_t = max(self.last_t, event["t"])
        if kind not in inference_fields.FIELDS:
            required = "one of the kinds of an inference run is required"
            yield self._broken(KIND, f"an event of kind {quote(kind, 30)}", required)
            return
        yield from self._order(kind)
        open_test = self.tally.open_test()
        self.tally.feed(event)
        self.first.setdefault(kind, number)
        handle = getattr(self, "_on_" + kind, None)
        if handle is not None:
            yield from handle(event, open_test) if kind in _OF_TEST else handle(event)

    def _order(self, kind: str) -> Iterator[Finding]:
        if not self.first and kind != "process_start":
            yield self._broken(ORDER, f"{kind} first", "process_start first is required")
        if kind in _ONCE and kind in self.first:
            yield self._broken(ORDER, f"{kind} again, first in line {self.first[kind]}", "one is required")
        if kind not in _ANYWHERE:
            if "infer_config" not in self.first:
                yield self._broken(ORDER, f"{kind} before infer_config", "infer_config before it is required")
            if self.stop is not None:
                yield self._broken(ORDER, f"{kind} after run_stop", "nothing after run_stop is required")

    # what was asked for

    def _on_infer_config(self, event: Event) -> Iterator[Finding]:
        name = event["profile"]
        self.profile = inference_profiles.PROFILES.get(name)
        if self.profile is None:
            names = ", ".join(inference_profiles.PROFILES)
            yield self._broken(PROFILE, f"profile {quote(name, 30)}", f"one of {names} is required")
            return
        own = next((names for book, names in _OWN_SCENARIOS.items() if name.startswith(book)), None)
        known = (*self.profile.scenarios, *_OWN_CLIENTS) if own is None else own
        for scenario in event["scenarios"]:
            if scenario not in known:
                found = f"scenario {quote(scenario, 30)} of profile {name}"
                yield self._broken(PROFILE, found, f"one of {', '.join(known)} is required")
        yield from self._weights(event)
        yield from self._data(event)
        if self.is_free:
            yield self._broken(REHEARSAL, "a rehearsal, or a quick run", "it is no result of its profile")

    def _weights(self, event: Event) -> Iterator[Finding]:
        checkpoint, division = dictionary(event.get("checkpoint")), event.get("division")
        if division not in ("closed", "open", None):
            yield self._broken(WEIGHTS, f"division {quote(division, 30)}", "closed or open is required")
        if division == "closed" and checkpoint.get("trained_here") and not self.is_free:
            found = "weights that were trained here in the closed division"
            yield self._broken(WEIGHTS, found, "published weights, or the open division, are required")
        if checkpoint.get("run") and not checkpoint.get("trained_here"):
            yield self._broken(WEIGHTS, "weights of a run, not said to be trained here", "trained_here is required")

    def _data(self, event: Event) -> Iterator[Finding]:
        data = dictionary(event.get("data"))
        stated = data.get("eval_samples")
        if str(data.get("source")).startswith(EMBEDDED) and not event.get("is_rehearsal"):
            found = f"{quote(data['source'], 60)}, not said to be a rehearsal"
            yield self._broken(DATA, found, "embedded data give no result: is_rehearsal is required")
        whole = self.task.eval_samples if self.task else None
        whole = inference_profiles.EVAL_SAMPLES.get(self.task.name if self.task else "", whole)
        if stated is None:
            yield self._broken(DATA, "no number of evaluation samples", "data.eval_samples is required")
        elif whole and stated != whole and not self.is_free and self.profile.scenarios:
            found = f"{stated} evaluation samples, not said to be a rehearsal"
            yield self._broken(DATA, found, f"all {whole} of {self.task.data_set} are required")
        if self.task and not self.task.has_classes(data.get("classes")) and not self.is_free:
            found = f"{quote(str(data['classes']), 20)} classes, not said to be a rehearsal"
            yield self._broken(DATA, found, f"the {self.task.classes} of {self.task.data_set} are required")

    def _on_model(self, event: Event) -> Iterator[Finding]:
        ran, requested = event["engine"].get("precision"), self.tally.config.get("precision")
        if not isinstance(ran, str):
            yield self._broken(PRECISION, "an engine without the precision that ran", "what ran is required")
        elif requested is not None and ran != requested:
            yield self._broken(PRECISION, f"{requested} was requested, {ran} ran", f"{requested} is required")

    # tests

    def _on_test_start(self, event: Event, open_test: LoadTest | None) -> Iterator[Finding]:
        if open_test is not None:
            yield self._broken(TEST, "test_start in a test", "test_stop before it is required")
        if event["mode"] not in _MODES:
            yield self._broken(TEST, f"mode {quote(event['mode'], 30)}", f"one of {', '.join(_MODES)} is required")
        if event["scenario"] not in (self.tally.config.get("scenarios") or ()):
            found = f"a test of {quote(event['scenario'], 30)}"
            yield self._broken(TEST, found, "a scenario of infer_config is required")
        settings = event["settings"]
        for name in ("scenario", "mode"):
            if settings.get(name, event[name]) != event[name]:
                found = f"{name} {quote(str(settings[name]), 30)} in the settings of {event[name]}"
                yield self._broken(SETTINGS, found, "the same is required")
        if event["mode"] != ACCURACY and event["scenario"] not in self.passed:
            is_loadgen = self._scenario(event["scenario"]) is not None
            if not self.passed or is_loadgen:
                found = f"{event['scenario']} is measured without a passed accuracy run"
                yield self._broken(GATE, found, "accuracy that passed before it is required")
        if event["mode"] == PERFORMANCE and not self.is_free:
            yield from self._settings(event)

    def _settings(self, event: Event) -> Iterator[Finding]:
        """The profile's minimums; a bound no looser than the document's."""
        settings, required = event["settings"], self._scenario(event["scenario"])
        task_name = self.task.name if self.task else ""
        found_s = settings.get("target_latency_s")
        if event["scenario"] in inference_figures.BOUNDED:
            device = "mobile" if event["scenario"] == "max-batch" else "cloud"
            bound = inference_profiles.bounds(task_name, self.tally.config.get("profile") or "", device)
            if found_s is None and (bound is None or bound.latency_ms is not None):
                yield self._broken(BOUND, f"{event['scenario']} without a latency bound", "a bound is required")
            elif bound is not None and bound.latency_ms is not None and found_s > bound.latency_ms / 1e3 + 1e-9:
                limit = f"at most {bound.latency_ms:g} ms is required ({bound.source})"
                yield self._broken(BOUND, f"{event['scenario']} with a bound of {found_s * 1e3:g} ms", limit)
        if required is None:
            return
        per_query = settings.get("samples_per_query")
        if per_query is not None and per_query != required.samples_per_query and event["scenario"] != "offline":
            found = f"{per_query} samples a query of {event['scenario']}"
            yield self._broken(SETTINGS, found, f"{required.samples_per_query} is required")
        least_s = settings.get("min_duration_s")
        if least_s is not None and least_s < required.min_duration_s:
            found = f"{event['scenario']} of at least {least_s:g} s, not said to be a rehearsal"
            yield self._broken(SETTINGS, found, f"{required.min_duration_s:g} s is required")

    def _scenario(self, name: str) -> inference_profiles.Scenario | None:
        if self.profile is None:
            return None
        return inference_profiles.scenario_of(self.profile, name, self.task.name if self.task else "")

    def _on_queries(self, event: Event, open_test: LoadTest | None) -> Iterator[Finding]:
        if open_test is None:
            yield self._broken(QUERIES, "queries outside a test", "test_start before them is required")
            return
        count = len(open_test.latency_s) - len(event["latency_s"])  # the tally has them already
        if event["first"] != count:
            yield self._broken(QUERIES, f"queries from {event['first']} on after {count}", f"{count} is required")
        if (event["scenario"], event["mode"]) != (open_test.scenario, open_test.mode):
            found = f"queries of {event['scenario']} {event['mode']} in a test of {open_test.scenario}"
            yield self._broken(QUERIES, found, "those of the test under way are required")

    def _on_test_stop(self, event: Event, open_test: LoadTest | None) -> Iterator[Finding]:
        if open_test is None:
            yield self._broken(TEST, "test_stop without a test", "test_start before it is required")
            return
        if (event["scenario"], event["mode"]) != (open_test.scenario, open_test.mode):
            found = f"test_stop of {event['scenario']} {event['mode']} in a test of {open_test.scenario}"
            yield self._broken(TEST, found, "that of the test under way is required")
            return
        for _, found, required in inference_figures.disagreements(open_test):
            yield self._broken(FIGURES, found, required)
        yield from self._verdict(event, open_test)
        if self.profile is not None and self.profile.scenarios:
            for found, required in inference_effective.troubles(event, open_test, self.profile):
                yield self._broken(SETTINGS, found, required)
        yield from self._memory(event)
        if open_test.mode == ACCURACY:
            yield from self._whole_set(event, open_test)
        if open_test.mode == PERFORMANCE and event["valid"]:
            self.valid.add(event["scenario"])

    def _verdict(self, event: Event, test: LoadTest) -> Iterator[Finding]:
        """A valid test has no reason against it; one that is not valid has at least one."""
        name = event["scenario"]
        if event["valid"] == bool(event["reasons"]):
            found = f"{name} is {'valid' if event['valid'] else 'not valid'} with {len(event['reasons'])} reasons"
            yield self._broken(VERDICT, found, "reasons against a test that is not valid, and only there, are required")
        if not event["valid"] or test.mode != PERFORMANCE:
            return
        early, required, over = event.get("early_stopping"), self._scenario(name), event.get("over_latency")
        is_met = None if early is None else early.get("met")
        if is_met is False:
            yield self._broken(VERDICT, f"{name} is valid, early stopping not met", "early stopping is required")
        if is_met is None and required is not None and required.early_stopping:
            yield self._broken(VERDICT, f"{name} is valid without early stopping", f"{self.profile.name} requires it")
        if name in ("online", "max-batch") and over:
            found = f"{name} is valid with {over} requests over the bound"
            yield self._broken(VERDICT, found, "every request within the bound is required")
        if name == "server" and over and required is not None and not required.early_stopping:
            share = required.percentile or 0.99
            if over > event["num_queries"] * (1 - share):
                found = f"{name} is valid with {over} of {event['num_queries']} queries over the bound"
                yield self._broken(VERDICT, found, f"{share:.0%} within the bound is required")
        if not self.is_free:
            yield from self._length(event, test, required)

    def _length(self, event: Event, test: LoadTest, required: inference_profiles.Scenario | None) -> Iterator[Finding]:
        name, samples = event["scenario"], dictionary(self.tally.config.get("data")).get("eval_samples")
        if name == "latency" and event["num_queries"] != _CASES:
            yield self._broken(LENGTH, f"{event['num_queries']} latencies", f"{_CASES} are required")
        whole = name in ("offline", "online", "flagperf") and required is None
        if whole and samples and event["num_samples"] < samples:
            found = f"{name} of {event['num_samples']} samples"
            yield self._broken(LENGTH, found, f"the whole evaluation set, {samples}, is required")
        if required is None:
            return
        if event["duration_s"] < required.min_duration_s:
            found = f"{name} of {event['duration_s']:.3f} s, not said to be a rehearsal"
            yield self._broken(LENGTH, found, f"at least {required.min_duration_s:g} s is required")
        count = event["num_samples"] if name == "offline" else event["num_queries"]
        if count < required.min_queries:
            what = "samples" if name == "offline" else "queries"
            yield self._broken(LENGTH, f"{name} of {count} {what}", f"at least {required.min_queries} are required")

    def _memory(self, event: Event) -> Iterator[Finding]:
        memory = dictionary(event.get("memory"))
        total = memory.get("total_bytes")
        for name in ("model_bytes", "run_bytes"):
            part = memory.get(name)
            if total is not None and part is not None and part > total:
                yield self._broken(MEMORY, f"{name} {part} of {total} bytes in all", "a part of them is required")

    def _whole_set(self, event: Event, test: LoadTest) -> Iterator[Finding]:
        """Every sample once, and those with which LoadGen fills up queries of several samples."""
        samples = dictionary(self.tally.config.get("data")).get("eval_samples")
        if not samples:
            return
        settings, required = test.start["settings"], samples
        if test.scenario == "multistream":
            loaded = settings.get("performance_count")
            loaded = min(loaded, samples) if type(loaded) is int and loaded > 0 else samples
            required = inference_profiles.num_issued(samples, settings.get("samples_per_query") or 1, loaded)
        if event["num_samples"] != required:
            again = f", and {required - samples} again to fill up queries," if required > samples else ""
            found = f"an accuracy run of {event['num_samples']} samples"
            yield self._broken(
                ACCURACIES, found, f"each of the {samples} evaluation samples once{again} is required: {required}"
            )

    # accuracy

    def _on_accuracy(self, event: Event) -> Iterator[Finding]:
        metric = self.tally.metric
        value = headline_value(event, metric)
        if value is None:
            yield self._broken(ACCURACIES, f"no {metric.name} in quality", "the headline metric is required")
            return
        for found, required in inference_accuracy.troubles(event, self.tally, self.is_free):
            yield self._broken(ACCURACIES, found, required)
        reached = metric.reaches(value, event["required"])
        if event.get("counted"):
            reached = event["correct"] >= Decimal(repr(event["required"])) * event["counted"]
        if event["passed"] != reached:
            found = f"{metric.name} {value!r} of {event['required']!r} {'passed' if event['passed'] else 'failed'}"
            yield self._broken(ACCURACIES, found, f"{'passed' if reached else 'failed'} is required")
        elif reached:
            self.passed.add(event["scenario"])

    # the search

    def _on_search(self, event: Event) -> Iterator[Finding]:
        """Only rates that were tried may be reported."""
        name = event["scenario"]
        tried = {True: set(), False: set()}
        for probe in self.tally.probes:
            if probe["scenario"] == name and probe.get("valid") is not None:
                tried[probe["valid"]].add(probe.get("target_qps"))
        for field, is_valid in (("valid_qps", True), ("refused_qps", False)):
            if event.get(field) is not None and event[field] not in tried[is_valid]:
                found = f"{field} {event[field]:g}, which no probe {'passed' if is_valid else 'failed'} at"
                yield self._broken(SEARCH, found, "a rate that was tried is required")
        valid, refused = event.get("valid_qps"), event.get("refused_qps")
        if valid is not None and refused is not None and valid >= refused:
            found = f"valid at {valid:g} queries/s, refused at {refused:g}"
            yield self._broken(SEARCH, found, "a refused rate above the valid one is required")

    def _on_warning(self, event: Event) -> Iterator[Finding]:
        yield self._broken(WARNED, f"the run warned: {quote(event['message'], 200)}", "no warning is the usual case")

    # the run as a whole

    def _on_run_stop(self, event: Event) -> Iterator[Finding]:
        status, reason = event["status"], event.get("reason")
        if self.stop is not None:
            yield self._broken(ORDER, "run_stop again", "one is required")
        self.stop = event
        if status not in ("success", "aborted"):
            yield self._broken(STATUS, f"status {quote(status, 30)}", "success or aborted is required")
        if reason is not None and reason not in _REASONS:
            yield self._broken(STATUS, f"reason {quote(reason, 30)}", f"one of {', '.join(_REASONS)} is required")
        if (status == "success") != (reason == "valid"):
            yield self._broken(STATUS, f"{status} with reason {reason}", "success with reason valid is required")
        if status != "success":
            return
        missing = [name for name in self.tally.config.get("scenarios") or () if name not in self.valid]
        if missing:
            found = f"success without a valid test of {', '.join(missing)}"
            yield self._broken(STATUS, found, "a valid test of each scenario is required")
        if not self.passed:
            yield self._broken(STATUS, "success without a passed accuracy run", "one is required")

    def finish(self) -> Iterator[Finding]:
        """The findings about the run as a whole."""
        self.line = None
        needed = ["process_start", "infer_config", "model", "accuracy", "run_stop"]
        if self.stop is not None and self.stop["status"] != "success":
            needed = ["process_start", "infer_config", "run_stop"]
        for kind in needed:
            if kind not in self.first:
                yield self._broken(MISSING, f"no {kind}", f"{kind} is required")
        if self.tally.config.get("precision") == "int8" and "quantize" not in self.first and "model" in self.first:
            yield self._broken(CALIBRATION, "int8 without quantize", "the calibration's samples and seed are required")
        if self.tally.open_test() is not None and (self.stop or {}).get("status") == "success":
            yield self._broken(TEST, "a test without test_stop", "test_stop is required")
        yield from self._compliance()

    def _compliance(self) -> Iterator[Finding]:
        """The compliance tests of the closed division."""
        if self.profile is None or self.tally.config.get("division") != "closed" or self.is_free:
            return
        required = inference_profiles.compliance_of(self.profile, self.task.name if self.task else "")
        done = {(test.scenario, test.mode): test.stop["valid"] for test in self.tally.tests if test.stop}
        for scenario in sorted(self.valid):
            missing = [name for name in required if (scenario, name) not in done]
            failed = [name for name in required if done.get((scenario, name)) is False]
            if missing:
                found = f"{scenario} without {', '.join(missing)}"
                yield self._broken(COMPLIANCE, found, "the closed division requires them (--compliance)")
            if failed:
                yield self._broken(COMPLIANCE, f"{scenario} failed {', '.join(failed)}", "they must pass", ERROR)


_OF_TEST = ("test_start", "queries", "test_stop")
