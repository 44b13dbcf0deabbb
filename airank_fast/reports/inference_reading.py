"""Reads an inference run for a report: its tests with vetted figures, and curves thin enough to be drawn.

As in reading.py, text of a log is cleaned and a figure that is no number becomes None. Latencies are drawn over
"nines", -log10(1 - share): 1 is the 90th percentile, 2 the 99th, so that the tail, which the rules judge, has room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.events import Event, dictionary, iter_events
from airank_fast.record.inference_metrics import (
    PERFORMANCE,
    WHOLE_SET,
    InferenceTally,
    LoadTest,
    figures,
    headline_value,
    loadgen_percentile,
)
from airank_fast.reports.cleaning import MAX_ITEMS, clean, number
from airank_fast.reports.curves import Curve, thin
from airank_fast.reports.examples import Example
from airank_fast.reports.judging import Verdict, judge

_PERCENTS = [n / 100 for n in range(90)] + [n / 1000 for n in range(900, 990)] + [n / 10000 for n in range(9900, 10000)]
_MAX_TESTS = 100
_BOUNDED = ("server", "online", "latency", "max-batch")  # scenarios whose requests must be answered in time


@dataclass(eq=False)
class Test:
    """One test of a scenario: its verdict, its figures (see inference_metrics.figures) and its latencies in ms."""

    scenario: str
    mode: str
    settings: dict
    ended: bool  # the log has its end
    valid: bool
    reasons: list[str]
    metric: dict[str, float]
    figures: dict[str, float | None]
    early_stopping: dict
    memory: dict[str, float]
    batches: dict[str, float]  # size: how many queries were in such a batch
    distribution: Curve  # ms over nines; empty where all samples are given at once
    over_time: Curve  # ms over seconds since test_start; of a whole set the time of each batch in the engine

    def ms(self, name: str) -> float | None:
        """A figure in seconds as milliseconds."""
        value = self.figures.get(name)
        return None if value is None else 1000 * value

    @property
    def bound_ms(self) -> float | None:
        """The greatest latency that the scenario allows; None without a bound."""
        seconds = number(self.settings.get("target_latency_s")) if self.scenario in _BOUNDED else None
        return 1000 * seconds if seconds is not None and seconds > 0 else None

    @property
    def estimate_ms(self) -> tuple[float, float] | None:
        """(a percentile as a share, early stopping's estimate of it); None where there is none."""
        share, seconds = number(self.early_stopping.get("percentile")), number(self.early_stopping.get("estimate_s"))
        return (share, 1000 * seconds) if share is not None and seconds is not None and 0 < share < 1 else None


@dataclass
class InferenceRun:
    """An inference run's setting, its tests and what was recorded beside them."""

    name: str
    path: Path
    config: Event  # infer_config
    system: Event
    start_t: float | None  # unix seconds
    total_s: float
    stop: dict | None  # status, reason and detail of run_stop
    model: dict
    quantize: dict
    reference: float | None  # the headline metric of the float32 reference
    accuracies: dict[str, dict]  # by scenario, with value: the headline metric
    tests: list[Test]
    probes: list[dict]
    searches: list[dict]
    warm_up: list[tuple[float, float]]  # batch size, seconds; of several warm-ups that of most sizes
    verdict: Verdict
    format: str = "events"
    warnings: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # what the log lacks, as keys of the texts without missing_

    @property
    def data(self) -> dict:
        """What the run states of its data set."""
        return dictionary(self.config.get("data"))

    @property
    def detail(self) -> str | None:
        """How the run ended, in its own words."""
        return str((self.stop or {}).get("detail") or "") or None

    @property
    def engine(self) -> dict:
        """What the engine says of itself: its name, version and the precision that ran."""
        return dictionary(self.model.get("engine"))

    @property
    def precision(self) -> str:
        """The precision that ran; where the engine states none, the one that was requested."""
        return str(self.engine.get("precision") or self.config.get("precision") or "")

    @property
    def measured(self) -> list[Test]:
        """The tests that measure performance, compliance tests apart."""
        return [test for test in self.tests if test.mode == PERFORMANCE]

    @property
    def counted(self) -> list[Test]:
        """Of several attempts at a test the one that counts: the last valid one, else the last."""
        found: dict[tuple[str, str], Test] = {}
        for test in self.tests:
            before = found.get((test.scenario, test.mode))
            if before is None or test.valid or not before.valid:
                found[test.scenario, test.mode] = test
        return [test for test in self.tests if test is found[test.scenario, test.mode]]

    def accuracy_of(self, scenario: str) -> dict:
        """The accuracy run of a scenario; of a run with one for all, that one; {} if there is none."""
        return self.accuracies.get(scenario) or next(iter(self.accuracies.values()), {})


def read(path: Path, given: dict) -> InferenceRun:
    """The inference run at `path`, a directory or its event log; `given` are the user's facts about it."""
    tally, warnings = InferenceTally(), []
    for event in iter_events(path / "events.jsonl" if path.is_dir() else path):
        tally.feed(event)
        if event["kind"] == "warning" and len(warnings) < MAX_ITEMS:
            warnings.append(clean(str(event.get("message"))))
    if tally.first_t is None or not tally.config:
        raise UserError(f"{path}: must have the events of an inference run, got none")
    config = _config(tally.config)
    warm_ups = [test.warm_up for test in tally.tests if test.warm_up]
    run = InferenceRun(
        name=clean(path.resolve().name, 200),
        path=path,
        config=config,
        system=clean(tally.system),
        start_t=number(tally.first_t),
        total_s=tally.last_t - tally.first_t,
        stop=tally.run_stop and clean(tally.run_stop),
        model=clean(tally.model),
        quantize=clean(tally.quantize),
        reference=number(headline_value(tally.reference, tally.metric)),
        accuracies={clean(str(name), 60): _accuracy(tally, event) for name, event in tally.accuracies.items()},
        tests=[_test(test) for test in tally.tests[:_MAX_TESTS]],
        probes=[_probe(event) for event in tally.probes[:MAX_ITEMS]],
        searches=[clean(event) for event in tally.searches.values()][:_MAX_TESTS],
        warm_up=max(map(_warm_up, warm_ups), key=len, default=[]),
        verdict=judge(path, config, given),
        warnings=warnings,
        notes=[clean(str(note)) for note in tally.summary()["notes"]],
    )
    run.missing = _missing(run)
    return run


def nines(share: float) -> float:
    """Where a share lies on an axis of nines: 0.9 at 1, 0.99 at 2."""
    return -math.log10(1 - min(max(share, 0.0), 1 - 1e-9))


def _config(event: Event) -> Event:
    """The infer_config with clean text; of a benchmark and a unit that are no words, without them."""
    config = clean({key: value for key, value in event.items() if key not in ("t", "kind", "command")})
    for name in ("benchmark", "unit", "profile"):
        config[name] = config[name] if isinstance(config.get(name), str) else None
    if isinstance(event.get("command"), list):
        config["command"] = [clean(str(word), 20_000) for word in event["command"]]
    return config


def _test(load: LoadTest) -> Test:
    stop, found = load.stop or {}, figures(load)
    reasons = stop.get("reasons")
    latencies = [] if load.scenario in WHOLE_SET else sorted(load.latency_s)
    return Test(
        scenario=clean(str(load.scenario), 60),
        mode=clean(str(load.mode), 60),
        settings=clean(dictionary(load.start.get("settings"))),
        ended=load.stop is not None,
        valid=stop.get("valid") is True,
        reasons=[clean(str(reason), 300) for reason in (reasons if isinstance(reasons, list) else [])[:20]],
        metric=_numbers(stop.get("metric")),
        figures={name: number(value) for name, value in found.items() if not isinstance(value, (dict, list, str))},
        early_stopping=clean(dictionary(stop.get("early_stopping"))),
        memory=_numbers(stop.get("memory")),
        batches=_numbers(found["batches"]),
        distribution=_distribution(latencies),
        over_time=_over_time(load),
    )


def _over_time(load: LoadTest) -> Curve:
    """Latencies in ms by the time of their issue. Samples of a whole set wait in a queue until their batch begins."""
    has_queues = load.scenario in WHOLE_SET and len(load.queue_s) == len(load.latency_s)
    waited = load.queue_s if has_queues else [0.0] * len(load.latency_s)
    begun_s = [issued + wait for issued, wait in zip(load.issued_s, waited, strict=True)]
    return thin(begun_s, [1000 * (took - wait) for took, wait in zip(load.latency_s, waited, strict=True)])


def _distribution(ascending: Sequence[float]) -> Curve:
    """Latency in ms over nines, up to the last percentile that so many queries resolve."""
    shares = [share for share in _PERCENTS if (1 - share) * len(ascending) >= 1 - 1e-9]
    values = [1000 * (loadgen_percentile(ascending, share) or 0.0) for share in shares]
    return Curve([nines(share) for share in shares], values, values, values)


def _accuracy(tally: InferenceTally, event: Event) -> dict:
    names = ("correct", "counted", "required", "factor", "reference", "agreement", "largest_error")
    value = number(headline_value(event, tally.metric))
    return {
        "value": value,
        "passed": event.get("passed") is True,
        "quality": _numbers(event.get("quality")),
        **{name: number(event.get(name)) for name in names},
    }


def _probe(event: Event) -> dict:
    names = ("target_qps", "queries", "over_latency", "p99_s", "duration_s")
    words = {name: clean(str(event.get(name) or ""), 60) for name in ("scenario", "purpose")}
    return {**words, **{name: number(event.get(name)) for name in names}, "valid": event.get("valid") is True}


def _warm_up(event: Event) -> list[tuple[float, float]]:
    pairs = event.get("times")
    sound = [
        (pair[0], pair[1])
        for pair in (pairs if isinstance(pairs, list) else [])
        if isinstance(pair, list) and len(pair) == 2 and all((number(value) or 0) > 0 for value in pair)
    ]
    return sorted(dict(sound).items())[:MAX_ITEMS]


def _missing(run: InferenceRun) -> list[str]:
    carried = {
        "run_stop": run.stop,
        "benchmark": run.config["benchmark"],
        "accuracy_run": run.accuracies,
        "tests": run.measured,
        "engine": run.engine,
        "system": run.system,
        "command": run.config.get("command"),
        "seed": run.config.get("seed") is not None,
    }
    return [name for name, is_there in carried.items() if not is_there]


def _numbers(values: object) -> dict[str, float]:
    """The items of a dictionary whose values are numbers."""
    found = {clean(str(name), 60): number(value) for name, value in dictionary(values).items()}
    return {name: value for name, value in found.items() if value is not None}
