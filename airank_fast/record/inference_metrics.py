"""The figures of an inference run, as pure functions of its events.

Two rules of percentiles are in use, and every figure names its own. With n latencies in ascending order:

    latency_p90_s          LoadGen's: the value at index floor(n * 0.9), counted from 0
    latency_p90_linear_s   AI-Rank's, as its published logs compute it: numpy's default, linear between neighbours

A rate is samples over `duration_s`, the time from the start of a test to its last answer. Of a closed loop (a client
that waits for its answer before it asks again) one stall delays requests that were never made, so that the percentiles
hide it. `stall_share` is the share of the time in requests longer than 10 x the median; `latency_p99_open_s` is p99 if
requests had gone on arriving at the pace of the median while such a request was under way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airank_fast import tasks
from airank_fast.numeric import is_float
from airank_fast.record.events import Event, dictionary
from airank_fast.record.metrics import percentile

PERFORMANCE, ACCURACY = "performance", "accuracy"
WHOLE_SET = ("offline", "flagperf")
"""Scenarios that give all samples at once: their queries are batches of the engine, without a latency of their own."""
OPEN_LOOP = ("server", *WHOLE_SET)
SHARED_ACCURACY = ("online", "latency", "max-batch", "flagperf")
STALL = 10  # requests longer than this many medians are stalls
STALLED = 0.01
"""Stalls for a larger share of a closed loop's time are said in a note."""
_MOST_MISSED = 1_000_000  # requests that a stall kept from being made, as far as they are counted
_COLUMNS = ("issued_s", "latency_s", "queue_s", "batch", "correct")


def loadgen_percentile(ascending: Sequence[float], share: float) -> float | None:
    """LoadGen's percentile (loadgen/results.cc): the value at index floor(n * share); None without values."""
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)] if ascending else None


def summarize(events: Iterable[Event]) -> dict:
    """Every figure of an inference run (summary.json), at any moment of it; None where the events give none.

    Keys: inference (true, which tells it from a training run's), benchmark, task, unit, profile, division, backend,
    precision (that ran), precision_requested, device, devices, threads, status, reason, detail, is_quick,
    is_rehearsal, comparable, e2e_time, trained_here, load_s, export_s, first_inference_s, file_bytes, parameters,
    flops_per_sample, quantize, reference, accuracy {scenario: ...}, scenarios {scenario: see `figures`}, compliance
    {scenario: {TEST01: valid}}, search {scenario: ...}, notes.
    """
    tally = InferenceTally()
    for event in events:
        tally.feed(event)
    return tally.summary()


@dataclass
class LoadTest:
    """One test of a scenario: the events around it, and its queries, one value a query in each list."""

    start: Event
    stop: Event | None = None
    warm_up: Event | None = None  # the last one before it
    issued_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    queue_s: list[float] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    correct: list[int] = field(default_factory=list)

    @property
    def scenario(self) -> str:
        """The scenario's name."""
        return self.start["scenario"]

    @property
    def mode(self) -> str:
        """accuracy, performance, or the name of a compliance test."""
        return self.start["mode"]

    def samples(self) -> list[int] | None:
        """The number of samples of each query; None if no reading of the queries gives the test's num_samples."""
        count, total = len(self.latency_s), (self.stop or {}).get("num_samples")
        per_query = dictionary(self.start.get("settings")).get("samples_per_query")
        if total is None:
            return None
        if self.scenario in (*WHOLE_SET, "max-batch") and sum(self.batch) == total:
            return list(self.batch)
        if count == total:
            return [1] * count
        if isinstance(per_query, int) and count * per_query == total:
            return [per_query] * count
        return None

    def done_s(self) -> list[float]:
        """When each query was answered, in seconds since the start of the test."""
        return [issued + took for issued, took in zip(self.issued_s, self.latency_s, strict=False)]


class InferenceTally:
    """Follows an inference run event by event; `summary()` may be called at any moment."""

    def __init__(self):
        self.config: Event = {}
        self.system: Event = {}
        self.model: Event = {}
        self.reference: Event = {}
        self.quantize: Event = {}
        self.accuracies: dict[str, Event] = {}  # the last one of each scenario
        self.tests: list[LoadTest] = []
        self.probes: list[Event] = []
        self.searches: dict[str, Event] = {}
        self.run_stop: Event | None = None
        self.first_t: float | None = None
        self.last_t: float | None = None
        self._warm_up: Event | None = None

    def feed(self, event: Event) -> None:
        """Take an event; kinds without figures change nothing but the time."""
        if self.first_t is None:
            self.first_t = event["t"]
        self.last_t = event["t"]
        handle = getattr(self, "_on_" + event["kind"], None)
        if handle is not None:
            handle(event)

    def _on_infer_config(self, event: Event) -> None:
        self.config = self.config or event

    def _on_system(self, event: Event) -> None:
        self.system = self.system or event

    def _on_model(self, event: Event) -> None:
        self.model = self.model or event

    def _on_reference(self, event: Event) -> None:
        self.reference = event

    def _on_quantize(self, event: Event) -> None:
        self.quantize = event

    def _on_accuracy(self, event: Event) -> None:
        self.accuracies[event["scenario"]] = event

    def _on_warm_up(self, event: Event) -> None:
        self._warm_up = event

    def _on_probe(self, event: Event) -> None:
        self.probes.append(event)

    def _on_search(self, event: Event) -> None:
        self.searches[event["scenario"]] = event

    def _on_run_stop(self, event: Event) -> None:
        self.run_stop = event

    def _on_test_start(self, event: Event) -> None:
        self.tests.append(LoadTest(event, warm_up=self._warm_up))

    def _on_queries(self, event: Event) -> None:
        test = self.open_test()
        if test is not None:
            for name in _COLUMNS:
                getattr(test, name).extend(event.get(name) or ())

    def _on_test_stop(self, event: Event) -> None:
        test = self.open_test()
        if test is not None:
            test.stop = event

    def open_test(self) -> LoadTest | None:
        """The test under way."""
        return self.tests[-1] if self.tests and self.tests[-1].stop is None else None

    @property
    def metric(self) -> tasks.Metric:
        """The metric that the run calls its accuracy."""
        return tasks.headline(self.config)

    @property
    def samples_word(self) -> str:
        """What a rate counts in a line of AI-Rank's logs: images, videos or samples."""
        unit = self.config.get("unit")
        return unit if unit in ("images", "videos") else "samples"

    def performance(self, scenario: str) -> LoadTest | None:
        """The performance test of a scenario that counts: the last valid one, else the last that ended."""
        ended = [t for t in self.tests if t.stop and t.mode == PERFORMANCE and t.scenario == scenario]
        return next((test for test in reversed(ended) if test.stop.get("valid")), ended[-1] if ended else None)

    def accuracy_of(self, scenario: str) -> Event:
        """The accuracy run of a scenario; {} without any.

        AI-Rank's and FlagPerf's own scenarios share one, which may be that of a LoadGen scenario.
        """
        shared = scenario in SHARED_ACCURACY or len(self.accuracies) == 1
        return self.accuracies.get(scenario) or (next(iter(self.accuracies.values()), {}) if shared else {})

    def scenarios(self) -> list[str]:
        """The scenarios with a performance test that ended, in their order."""
        return list(dict.fromkeys(t.scenario for t in self.tests if t.stop and t.mode == PERFORMANCE))

    def summary(self) -> dict:
        """See `summarize`."""
        config, model, stop = self.config, self.model, self.run_stop or {}
        engine = dictionary(model.get("engine"))
        quick, rehearsal = bool(config.get("is_quick")), bool(config.get("is_rehearsal"))
        scenarios = {name: self.figures(name) for name in self.scenarios()}
        names = ("benchmark", "task", "unit", "profile", "division", "backend", "device", "devices", "threads")
        sizes = ("load_s", "export_s", "first_inference_s", "file_bytes", "parameters", "flops_per_sample")
        return {
            "inference": True,
            **{name: config.get(name) for name in names},
            "precision": engine.get("precision"),
            "precision_requested": config.get("precision"),
            "status": stop.get("status") if self.run_stop else "unfinished",
            "reason": stop.get("reason"),
            "detail": stop.get("detail"),
            "is_quick": quick,
            "is_rehearsal": rehearsal,
            "comparable": not quick and not rehearsal and stop.get("status") == "success",
            "e2e_time": None if self.first_t is None else self.last_t - self.first_t,
            "trained_here": dictionary(config.get("checkpoint")).get("trained_here"),
            **{name: model.get(name) for name in sizes},
            "quantize": _without(self.quantize, "samples") or None,
            "reference": _without(self.reference) or None,
            "accuracy": {name: self._accuracy(event) for name, event in self.accuracies.items()},
            "scenarios": scenarios,
            "compliance": self._compliance(),
            "search": {name: _without(event, "scenario") for name, event in self.searches.items()},
            "notes": self._notes(scenarios),
        }

    def figures(self, scenario: str) -> dict:
        """The figures of a scenario's performance test; see `figures`."""
        test = self.performance(scenario)
        found = figures(test)
        rate, flops = found["samples_per_s"], self.model.get("flops_per_sample")
        found["flop_per_s"] = rate * flops if rate and flops else None
        peak = self.config.get("peak_flops")
        found["peak_share"] = found["flop_per_s"] / peak if found["flop_per_s"] and peak else None
        return found

    def _accuracy(self, event: Event) -> dict:
        names = ("quality", "correct", "counted", "required", "factor", "reference", "passed", "agreement")
        value = dictionary(event.get("quality")).get(self.metric.name)
        return {"value": value, **{name: event.get(name) for name in (*names, "largest_error")}}

    def _compliance(self) -> dict:
        found: dict[str, dict] = {}
        for test in self.tests:
            if test.stop and test.mode not in (PERFORMANCE, ACCURACY):
                found.setdefault(test.scenario, {})[test.mode] = test.stop.get("valid")
        return found

    def _notes(self, scenarios: Mapping[str, dict]) -> list[str]:
        notes = []
        ran, requested = dictionary(self.model.get("engine")).get("precision"), self.config.get("precision")
        if ran is not None and ran != requested:
            notes.append(f"the engine ran in {ran}, {requested} was requested")
        if self.config.get("is_rehearsal"):
            notes.append("a rehearsal: embedded data, or shorter than the profile requires; it is no result")
        for name, found in scenarios.items():
            if found["stall_share"] is not None and found["stall_share"] > STALLED:
                shown, open_s = f"p99 {found['latency_p99_s'] * 1e3:.4g} ms", found["latency_p99_open_s"]
                otherwise = "far more" if open_s is None else f"{open_s * 1e3:.4g} ms"
                notes.append(
                    f"{name}: requests longer than {STALL} x the median took {found['stall_share']:.1%} of the time, "
                    f"which a closed loop hides: {shown}, {otherwise} if requests had gone on arriving"
                )
        return notes


def figures(test: LoadTest) -> dict[str, Any]:
    """The figures of one test that ended.

    From its test_stop: valid, reasons, metric, num_queries, num_samples, duration_s, over_latency, early_stopping,
    memory, target_latency_s; loadgen (the version). Computed: samples_per_s, warm_up_s, samples_per_s_with_warm_up,
    latency_{min,mean,p50,p90,p95,p99,p99_9,max}_s, latency_p90_linear_s, queue_{p50,p99}_s, service_{p50,p99}_s,
    batches {size: number of queries in such a batch}, stall_s, stall_share, latency_p99_open_s.
    """
    stop, settings = test.stop or {}, dictionary(test.start.get("settings"))
    duration_s, num_samples = stop.get("duration_s"), stop.get("num_samples")
    warm_up_s = math.fsum(seconds for _, seconds in (test.warm_up or {}).get("times") or ())
    names = ("valid", "reasons", "metric", "num_queries", "num_samples", "duration_s", "over_latency")
    return {
        **{name: stop.get(name) for name in (*names, "early_stopping", "memory")},
        "target_latency_s": settings.get("target_latency_s"),
        "loadgen": dictionary(stop.get("loadgen")).get("version"),
        "samples_per_s": _rate(num_samples, duration_s),
        "warm_up_s": warm_up_s,
        "samples_per_s_with_warm_up": _rate(num_samples, duration_s and duration_s + warm_up_s),
        **_latencies([] if test.scenario in WHOLE_SET else sorted(test.latency_s)),
        **_parts(test),
        "batches": {str(size): count for size, count in sorted(Counter(test.batch).items())},
        **_stalls(test, duration_s),
    }


def _rate(samples: float | None, seconds: float | None) -> float | None:
    return samples / seconds if samples is not None and seconds is not None and seconds > 0 else None


def _latencies(ascending: list[float]) -> dict:
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}
    return {
        "latency_min_s": ascending[0] if ascending else None,
        "latency_mean_s": math.fsum(ascending) / len(ascending) if ascending else None,
        **{f"latency_{name}_s": loadgen_percentile(ascending, share) for name, share in shares.items()},
        "latency_max_s": ascending[-1] if ascending else None,
        "latency_p90_linear_s": percentile(ascending, 90),
    }


def _parts(test: LoadTest) -> dict:
    """Time in the queue and in the engine, of tests that state the former; of a whole set the time of a batch alone."""
    queue_s, service_s = [], []
    if len(test.queue_s) == len(test.latency_s):
        queue_s = [] if test.scenario in WHOLE_SET else sorted(test.queue_s)
        service_s = sorted(took - waited for took, waited in zip(test.latency_s, test.queue_s, strict=True))
    found = {}
    for name, values in (("queue", queue_s), ("service", service_s)):
        for share, word in ((0.5, "p50"), (0.99, "p99")):
            found[f"{name}_{word}_s"] = loadgen_percentile(values, share)
    return found


def _stalls(test: LoadTest, duration_s: float | None) -> dict:
    """Stalls of a closed loop; None for open loops, whose latencies contain them."""
    absent = {"stall_s": None, "stall_share": None, "latency_p99_open_s": None}
    if test.scenario in OPEN_LOOP or not test.latency_s or not duration_s:
        return absent
    ascending = sorted(test.latency_s)
    median = loadgen_percentile(ascending, 0.5)
    stalls = [took for took in ascending if took > STALL * median] if median else []
    counts = [int(took / median) for took in stalls]
    open_p99_s = None  # of more missed requests than can be listed
    if sum(counts) <= _MOST_MISSED:
        pairs = zip(stalls, counts, strict=True)
        missed = [took - index * median for took, count in pairs for index in range(1, count + 1)]
        open_p99_s = loadgen_percentile(sorted(ascending + missed), 0.99)
    stall_s = math.fsum(stalls)
    clients = dictionary((test.stop or {}).get("metric")).get("concurrency") or 1
    return {
        "stall_s": stall_s,
        "stall_share": stall_s / duration_s / clients,
        "latency_p99_open_s": open_p99_s,
    }


def headline_value(event: Event, metric: tasks.Metric) -> float | None:
    """The value of the headline metric in an accuracy or reference event: its ratio of counts, else as stated."""
    if event.get("counted"):
        return event["correct"] / event["counted"]
    value = dictionary(event.get("quality")).get(metric.name)
    return value if is_float(value) else None


def _without(event: Event, *names: str) -> dict:
    return {key: value for key, value in event.items() if key not in ("t", "kind", *names)}
