"""Runs the tests of an inference run, each in a process of its own, and writes their events.

Of a scenario first the accuracy run, by the same system as the rest: where it fails, nothing is timed. Then the
performance run, the compliance tests, and for Server the search for the greatest rate of queries.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from airank_fast.engine.shutdown import Terminated
from airank_fast.errors import UserError
from airank_fast.inference import clients, compliance, hints
from airank_fast.inference.accuracy import Predictions, Reference, judge, shown
from airank_fast.inference.request import QUICK_S, Request
from airank_fast.inference.samples import Samples
from airank_fast.inference.search import Found, Verdict, find_qps, judge_probe, probe_seconds
from airank_fast.inference.settings import TestSettings
from airank_fast.inference.spares import Spares
from airank_fast.inference.supervise import QUERIES, REQUEST, WORKER, WorkerRequest, WorkerResult, run_worker
from airank_fast.inference.weights import Weights
from airank_fast.record.events import EventLog
from airank_fast.record.files import sha256
from airank_fast.record.formats.loadgen import checksums
from airank_fast.rules.inference_profiles import compliance_of

OWN_WORKER = "airank_fast.inference.clients_worker"
CHUNK = 5000  # queries of an event
BOUNDED = ("server", "online", "max-batch")
LEAST_DEADLINE_S = 30.0  # without an answer
SLOWEST_BATCHES = 20  # the deadline in inferences of the slowest batch
PROBE_FIELDS = ("queries", "over_latency", "p99_s", "valid", "duration_s")
TRIES = 3  # of a performance run


class NotAccurate(Exception):
    """An engine whose predictions are worth less than the profile requires. `lines` show the first ones."""

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message)
        self.lines = lines


class WorkerFailed(Exception):
    """A test that did not end as it should; reason as in run_stop, the message is one line."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Scenarios:
    """The tests of a run. model_facts: parameters and operations of the network, for the `model` event.

    calibrated_on: the checksum of the inputs that int8 is calibrated on.
    """

    request: Request
    weights: Weights
    samples: Samples
    reference: Reference
    log: EventLog
    directory: Path
    device: torch.device
    should_stop: Callable[[], bool]
    model_facts: dict[str, Any] = field(default_factory=dict)
    calibrated_on: str | None = None

    def __post_init__(self) -> None:
        self._times: dict[int, dict[int, float]] = {}  # seconds of a batch, by threads and size: its first warm-up
        self._hints: dict[str, dict[str, float]] = {}  # of a scenario's speed, from its accuracy run
        self._spares = Spares(self.request.command.job)
        self._has_model = False
        self._is_accurate = False
        self.not_valid: list[str] = []

    def run(self) -> None:
        """All scenarios. `not_valid` then has a line for each test that does not count.

        Raises:
            NotAccurate, WorkerFailed: see there; nothing is timed, or timed on, after either.
            Terminated: `should_stop` says so.
            UserError: bad input that only a worker could find.
        """
        with contextlib.closing(self._spares):
            for scenario in self.request.scenarios:
                self._run_scenario(scenario)

    def _run_scenario(self, scenario: str) -> None:
        if self.request.is_by_loadgen(scenario) or not self._is_accurate:
            self.check_accuracy(scenario)
        if self.request.is_by_loadgen(scenario):
            stop = self.measure(scenario)
            if stop["valid"]:
                self.comply(scenario, stop["metric"])
        else:
            stop = self.measure_own(scenario)
        if not stop["valid"]:
            self.not_valid.append(f"{scenario}: {'; '.join(stop['reasons'])}")

    # -- accuracy -----------------------------------------------------------------------------------------------------

    def check_accuracy(self, scenario: str) -> None:
        """The accuracy run of a scenario, its `accuracy` event, and the gate."""
        if self.request.is_by_loadgen(scenario):
            result = self._loadgen(scenario, "accuracy")
        else:
            result = self._own(scenario, "accuracy", max_batch=self._max_batch(scenario))
        self._stop(scenario, "accuracy", result)
        counts: dict[str, int] = {name: result.facts[name] for name in ("correct", "counted") if name in result.facts}
        if result.predictions is None:
            raise WorkerFailed("exception", f"{scenario}: the accuracy run left no predictions")
        kept = self._keep_predictions(scenario, result.predictions)
        predictions = Predictions.read(kept, result.facts["quality"], counts)
        event = judge(scenario, predictions, self.reference, self.request.factor, self.samples)
        files = {str(kept.relative_to(self.directory)): sha256(kept)}
        self.log.emit("accuracy", **event, predictions={"files": list(files), "sha256": files})
        if not event["passed"]:
            metric = self.samples.job.task.headline
            got = (
                f"{counts['correct']} of {counts['counted']}" if counts else metric.text(event["quality"][metric.name])
            )
            required = f"{metric.name} of at least {event['required']:.5f} ({event['factor']:g} x the reference)"
            raise NotAccurate(f"{scenario}: must have {required}, got {got}", shown(predictions, self.samples))
        self._is_accurate = True
        self._hints[scenario] = dict(result.facts.get("hints") or {})

    def _keep_predictions(self, scenario: str, file: Path) -> Path:
        folder = self.directory / "predictions"
        folder.mkdir(exist_ok=True)
        return Path(shutil.move(file, folder / f"{scenario}.npz"))

    # -- LoadGen's scenarios ------------------------------------------------------------------------------------------

    def measure(self, scenario: str) -> dict[str, Any]:
        """The performance run of a LoadGen scenario; the fields of its test_stop.

        LoadGen is told the speed of the system before it runs. Where the accuracy run misled, as on a machine that
        others use too, it is corrected, and the run begins again.
        """
        is_server, options = scenario == "server", self.request.options
        if is_server and options.find_qps:
            found = self.search(scenario)
            if found.valid is None:
                return {"valid": False, "reasons": ["no rate of queries was valid"], "metric": {}}
            for qps in found.rates(TRIES):
                self._hints[scenario] = {"target_qps": qps}
                stop, _ = self._performance(scenario, self._hints[scenario])
                if stop["valid"]:
                    break
            return stop
        is_given = is_server and options.qps is not None
        known = {"target_qps": options.qps} if is_server and options.qps else self._hints.get(scenario, {})
        for _ in range(TRIES):
            stop, settings = self._performance(scenario, known)
            if is_server:  # compliance tests have the same rate
                self._hints[scenario] = {"target_qps": settings["target_qps"]}
            known = {} if stop["valid"] or is_given else hints.corrected(scenario, settings, stop)
            if not known:
                break
            self._hints[scenario] = known
        return stop

    def _performance(self, scenario: str, known: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(fields of the test_stop, the settings that were used) of a performance run."""
        result = self._loadgen(scenario, "performance", known)
        return self._stop(scenario, "performance", result), result.facts.get("settings") or {}

    def comply(self, scenario: str, performance: Mapping[str, float]) -> None:
        """The compliance tests of a scenario, if they are requested.

        One that is too short, or as fast as the performance run no more, begins again, as that does.
        """
        if not self.request.options.compliance:
            return
        for mode in compliance_of(self.request.profile, self.request.task):
            known, folder = self._hints.get(scenario, {}), self.directory / "loadgen" / scenario
            for _ in range(TRIES):
                result = self._loadgen(scenario, mode, known)
                metric = result.facts["test_stop"]["metric"]
                answers = compliance.answers_differ(folder / "accuracy", folder / mode) if mode == "TEST01" else []
                speeds = compliance.speeds_differ(scenario, mode, performance, metric)
                stop = self._stop(scenario, mode, result, [*speeds, *answers])
                if stop["valid"] or answers:
                    break
                if scenario != "server":
                    known = hints.corrected(scenario, result.facts.get("settings") or {}, stop) or known
            if not stop["valid"]:
                self.not_valid.append(f"{scenario}, {mode}: {'; '.join(stop['reasons'])}")

    def search(self, scenario: str) -> Found:
        """The greatest rate of queries at which a probe is valid, between one that is and one that is not."""

        def probe(qps: float) -> Verdict:
            duration_s = probe_seconds(qps, at_most_s=QUICK_S if self.request.options.quick else None)
            known = {"target_qps": qps, "duration_s": duration_s}
            result = self._loadgen(scenario, "performance", known, is_probe=True)
            stop = result.facts["test_stop"]
            verdict = judge_probe(
                qps,
                stop["num_queries"],
                stop["over_latency"],
                p99_s=stop["metric"].get("latency_p99_s"),
                duration_s=stop["duration_s"],
            )
            figures = {name: getattr(verdict, name) for name in PROBE_FIELDS}
            self.log.emit("probe", scenario=scenario, purpose="search", target_qps=qps, **figures)
            return verdict

        start = hints.SERVER_SHARE * hints.greatest_rate(self._times[self.request.threads_of(scenario)])
        found = find_qps(probe, start)
        self.log.emit(
            "search", scenario=scenario, valid_qps=found.valid, refused_qps=found.refused, probes=len(found.probes)
        )
        return found

    def _loadgen(
        self, scenario: str, mode: str, known: Mapping[str, float | None] | None = None, *, is_probe: bool = False
    ) -> WorkerResult:
        """A LoadGen test; `known` are further values of `Request.settings`."""
        told: dict[str, Any] = {"bound_s": self._bound_s(scenario), **(known or {})}
        values = self.request.settings(scenario, mode, num_samples=len(self.samples), **told)
        folder = self.directory / "loadgen" / scenario / ("search" if is_probe else mode)
        request = self._worker_request(scenario, self._max_batch(scenario), TestSettings(**values))
        return self._run(scenario, mode, request, folder, WORKER, is_probe=is_probe)

    # -- our own clients ----------------------------------------------------------------------------------------------

    def measure_own(self, scenario: str) -> dict[str, Any]:
        """The measurement of a scenario by our own clients; the fields of its test_stop."""
        if scenario != "max-batch":
            result = self._own(scenario, "performance", max_batch=self._max_batch(scenario))
            if scenario == "flagperf":
                result.facts["test_stop"]["metric"] |= self.reference.rates()
            return self._stop(scenario, "performance", result)
        found = self._own(scenario, "search", max_batch=1).facts["batch"]
        for size in clients.final_numbers(found):
            stop = self._stop(scenario, "performance", self._own(scenario, "performance", max_batch=size))
            if stop["valid"]:
                break
        return stop

    def _own(self, scenario: str, mode: str, *, max_batch: int) -> WorkerResult:
        request = self._worker_request(scenario, max_batch, None)
        request.extra.update(
            scenario=scenario,
            mode=mode,
            profile=self.request.options.profile,
            bound_s=request.bound_s,
            is_quick=self.request.options.quick,
            most_batch=self.request.options.max_batch if self.request.options.quick else clients.MOST_BATCH,
        )
        return self._run(scenario, mode, request, self.directory / "clients" / scenario / mode, OWN_WORKER)

    # -- a worker -----------------------------------------------------------------------------------------------------

    def _worker_request(self, scenario: str, max_batch: int, settings: TestSettings | None) -> WorkerRequest:
        options = self.request.options
        calibration = {
            "num_samples": options.calibration_samples,
            "seed": options.seed,
            "checksum": self.calibrated_on,
        }
        return WorkerRequest(
            arguments=self.request.arguments,
            checkpoint=str(self.weights.path),
            device=str(self.device),
            backend=options.backend,
            precision=options.precision,
            threads=self.request.threads_of(scenario),
            max_batch=max_batch,
            calibration=calibration if options.precision == "int8" else None,
            settings=settings,
            bound_s=self._bound_s(scenario) if scenario in BOUNDED else None,
            times=self._times.get(self.request.threads_of(scenario), {}),
        )

    def _max_batch(self, scenario: str) -> int:
        single = {"singlestream": 1, "latency": 1}
        stated = self.request.profile.scenarios.get(scenario)
        if scenario == "multistream" and stated:
            return min(self.request.options.max_batch, stated.samples_per_query)
        return single.get(scenario, self.request.options.max_batch)

    def _bound_s(self, scenario: str) -> float | None:
        """The same in all tests: by the first time of a single inference, with as many threads where there is one."""
        single_s = {threads: times[1] for threads, times in self._times.items() if 1 in times}
        any_s = next(iter(single_s.values()), None)
        return self.request.bound_for(scenario, single_s.get(self.request.threads_of(scenario), any_s))

    def _run(
        self, scenario: str, mode: str, request: WorkerRequest, folder: Path, module: str, is_probe: bool = False
    ) -> WorkerResult:
        slowest_s = max((took for times in self._times.values() for took in times.values()), default=0.0)
        deadline_s = max(LEAST_DEADLINE_S, 10 * (request.bound_s or 0.0), SLOWEST_BATCHES * slowest_s)
        result = run_worker(
            request,
            folder,
            deadline_s=deadline_s,
            on_line=lambda line: self._take(scenario, mode, line, is_probe),
            should_stop=self.should_stop,
            module=module,
            spares=self._spares,
        )
        for name in (REQUEST, QUERIES):
            (folder / name).unlink(missing_ok=True)
        if result.status != "done":
            raise Terminated if self.should_stop() else _failure(scenario, mode, result)
        return result

    def _take(self, scenario: str, mode: str, line: Mapping[str, Any], is_probe: bool) -> None:
        """The events that follow from a line of a worker."""
        fields = {name: value for name, value in line.items() if name not in ("kind", "t")}
        kind = line["kind"]
        if kind == "model" and not self._has_model:
            self._has_model = True
            self._emit_model(fields)
        elif kind == "warm_up":
            self._times.setdefault(self.request.threads_of(scenario), {}).update(fields["times"])
            if not is_probe:
                self.log.emit("warm_up", times=fields["times"])
        elif kind == "probe" and not is_probe:
            self.log.emit("probe", **{"scenario": scenario, **fields})
        elif kind == "test_start" and not is_probe:
            self.log.emit("test_start", scenario=scenario, mode=mode, settings=fields["settings"])

    def _emit_model(self, fields: Mapping[str, Any]) -> None:
        engine = dict(fields["engine"])
        quantize = engine.pop("quantize", None)
        measured = {name: engine.get(name) for name in ("file_bytes", "load_s", "export_s")}
        measured |= {name: fields[name] for name in ("load_s", "first_inference_s") if name in fields}
        self.log.emit("model", **self.model_facts, **measured, engine=engine)
        if quantize:
            self.log.emit("quantize", **quantize)
        self.log.emit("reference", **self.reference.event())

    def _stop(self, scenario: str, mode: str, result: WorkerResult, more_reasons: Iterable[str] = ()) -> dict[str, Any]:
        """Emit the queries of a test that has ended and its test_stop, whose fields are returned."""
        if result.queries is not None and mode != "accuracy":
            queries = result.queries
            columns = {
                "issued_s": queries.issued_s,
                "latency_s": queries.latency_s,
                "queue_s": queries.queue_s,
                "batch": queries.batch,
                "correct": result.facts.get("results"),
            }
            given = {name: values for name, values in columns.items() if values}
            for first in range(0, len(queries.issued_s), CHUNK):
                part: dict[str, Any] = {name: values[first : first + CHUNK] for name, values in given.items()}
                self.log.emit("queries", scenario=scenario, mode=mode, first=first, **part)
        stop = {**result.facts["test_stop"], "scenario": scenario, "mode": mode}
        stop["memory"] = result.facts.get("memory")
        stop["reasons"] = [*stop["reasons"], *more_reasons]
        stop["valid"] = bool(stop["valid"]) and not stop["reasons"]
        if stop.get("loadgen"):
            directory = f"loadgen/{scenario}/{mode}"
            logs = {"directory": directory, "sha256": checksums(self.directory / directory)}
            stop["loadgen"] = {**stop["loadgen"], **logs}
        self.log.emit("test_stop", **stop)
        return stop


def _failure(scenario: str, mode: str, result: WorkerResult) -> Exception:
    """The exception for a worker that has not ended as it should."""
    if result.reason == "stopped":
        return Terminated()
    if result.reason == "bad_data":
        return UserError(result.message)
    reason = {"deadline": "worker_lost"}.get(result.reason or "", result.reason or "exception")
    return WorkerFailed(reason, f"{scenario}, {mode}: {result.message}")
