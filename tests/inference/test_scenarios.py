"""The tests of a run with workers that are played: their order, their events, and what ends them early."""

import hashlib

import numpy as np
import pytest
import torch

from airank_fast import tasks
from airank_fast.engine.shutdown import Terminated
from airank_fast.errors import UserError
from airank_fast.inference import request as requests
from airank_fast.inference import scenarios
from airank_fast.inference.accuracy import Reference
from airank_fast.inference.scenarios import NotAccurate, Scenarios, WorkerFailed
from airank_fast.inference.supervise import Queries, WorkerResult
from airank_fast.inference.weights import Weights
from airank_fast.record.events import EventLog, read_events

NUM_SAMPLES, NUM_RIGHT = 20, 18
TIMES = {1: 0.004, 8: 0.016}


class PlayedJob:
    task = tasks.find("resnet50")


class PlayedSamples:
    job = PlayedJob()

    def __len__(self):
        return NUM_SAMPLES

    def load(self, indices):
        pass

    unload = load

    def results(self, outputs):
        return [1] * NUM_RIGHT + [0] * (NUM_SAMPLES - NUM_RIGHT)

    def agreement(self, outputs, reference):
        return 1.0, 0.0


class Workers:
    """Plays `run_worker`: what was requested, and what each test is said to have shown."""

    def __init__(self, correct=NUM_RIGHT, capacity_qps=100.0, outcomes=None, batch=5, stops=None):
        self.correct, self.capacity_qps, self.batch = correct, capacity_qps, batch
        self.outcomes = outcomes or {}
        self.stops = stops or {}  # of the first test of each kind
        self.calls = []
        self.hints = {}  # of an accuracy run

    def __call__(self, request, directory, *, deadline_s, on_line, should_stop, module, spares):
        own = request.extra
        scenario = own["scenario"] if own else request.settings.scenario
        mode = own["mode"] if own else request.settings.mode
        self.calls.append((scenario, mode, request))
        assert deadline_s >= 30
        on_line({"kind": "model", "engine": {"precision": "fp32", "file_bytes": 5}, "first_inference_s": 0.1})
        on_line({"kind": "warm_up", "times": [list(pair) for pair in TIMES.items()]})
        result = self.outcomes.get((scenario, mode))
        if result is not None:
            return result
        if mode != "search":
            settings = {"mode": mode, "target_latency_s": request.bound_s}
            on_line({"kind": "test_start", "scenario": scenario, "mode": mode, "settings": settings})
        return self.done(request, directory, scenario, mode)

    def done(self, request, directory, scenario, mode):
        facts = {"memory": {"total_bytes": 1 << 20}, "batch": self.batch}
        stop = {"valid": True, "reasons": [], "metric": {"samples_per_s": 200.0}, "num_queries": 64, "num_samples": 64}
        stop |= {"duration_s": 1.0, "over_latency": 0, "loadgen": {"version": "6.0.17"}}
        predictions = None
        if mode == "accuracy":
            quality = {"top1": self.correct / NUM_SAMPLES}
            facts |= {"quality": quality, "correct": self.correct, "counted": NUM_SAMPLES, "hints": self.hints}
            directory.mkdir(parents=True)
            predictions = directory / "predictions.npz"
            output = np.zeros((NUM_SAMPLES, 1, 2), np.float32)
            index = np.arange(NUM_SAMPLES)
            np.savez(predictions, index=index, offset=np.arange(NUM_SAMPLES + 1), response=index * 1.0, output=output)
        qps = request.settings.target_qps if request.settings else None
        if scenario == "server" and mode == "performance":
            qps = qps or 10.0
            is_late = qps > self.capacity_qps
            stop |= {"metric": {"scheduled_qps": qps}, "over_latency": 500 if is_late else 0, "num_queries": 1000}
            stop |= {"valid": False, "reasons": ["late"]} if is_late else {}
        facts["test_stop"] = stop | self.stops.pop((scenario, mode), {})
        if request.settings:
            facts["settings"] = request.settings.as_json() | {"target_qps": qps or 40.0}
            facts["settings"]["expected_latency_s"] = request.settings.expected_latency_s or 0.02
        return WorkerResult("done", facts=facts, queries=Queries([0.0], [0.5], [0.0], [1]), predictions=predictions)


def made(tmp_path, monkeypatch, workers, *arguments):
    monkeypatch.setattr(requests, "check_installed", lambda request: None)
    monkeypatch.setattr(scenarios, "run_worker", workers)
    request = requests.parse(["resnet50", *arguments])
    weights = Weights(tmp_path, tmp_path / "model.safetensors", "ab" * 32)
    counts = {"correct": NUM_RIGHT, "counted": NUM_SAMPLES}
    reference = Reference({0: torch.zeros(1, 2)}, {"top1": NUM_RIGHT / NUM_SAMPLES}, counts)
    log = EventLog(tmp_path / "events.jsonl")
    device = torch.device("cpu")
    return Scenarios(
        request, weights, PlayedSamples(), reference, log, tmp_path, device, lambda: False, {"parameters": 7}
    )


def modes(workers):
    return [(scenario, mode) for scenario, mode, _ in workers.calls]


def test_accuracy_comes_before_any_timing_and_once_for_our_own_clients(tmp_path, monkeypatch):
    workers = Workers()
    tests = made(tmp_path, monkeypatch, workers)
    tests.run()
    assert tests.not_valid == []
    assert modes(workers) == [
        *((scenario, mode) for scenario in requests.LOADGEN for mode in ("accuracy", "performance")),
        ("online", "performance"),
        ("latency", "performance"),
        ("max-batch", "search"),
        ("max-batch", "performance"),
    ]
    events = read_events(tmp_path / "events.jsonl")
    kinds = [event["kind"] for event in events]
    first = ["model", "reference", "warm_up", "test_start", "test_stop", "accuracy", "warm_up", "test_start", "queries"]
    assert kinds[:9] == first
    assert kinds.count("model") == kinds.count("reference") == 1
    assert events[0]["parameters"] == 7
    stops = [event for event in events if event["kind"] == "test_stop"]
    assert stops[1]["loadgen"] == {"version": "6.0.17", "directory": "loadgen/offline/performance", "sha256": {}}
    (accuracy,) = [event for event in events if event["kind"] == "accuracy" and event["scenario"] == "server"]
    content = (tmp_path / "predictions" / "server.npz").read_bytes()
    assert accuracy["predictions"] == {
        "files": ["predictions/server.npz"],
        "sha256": {"predictions/server.npz": hashlib.sha256(content).hexdigest()},
    }


def test_latency_and_max_batch_have_one_thread_and_batches_of_their_own(tmp_path, monkeypatch):
    workers = Workers(batch=5)
    made(tmp_path, monkeypatch, workers, "--profile", "airank-2021-05", "--threads", "3").run()
    sizes = {(scenario, mode): (request.threads, request.max_batch) for scenario, mode, request in workers.calls}
    assert sizes[("offline", "accuracy")] == sizes[("online", "performance")] == (3, 32)
    assert sizes[("latency", "performance")] == (1, 1)
    assert sizes[("max-batch", "performance")] == (1, 5)
    assert modes(workers).count(("offline", "accuracy")) == 1


def test_an_engine_that_is_not_accurate_is_never_timed(tmp_path, monkeypatch):
    workers = Workers(correct=17)
    with pytest.raises(NotAccurate, match=r"top1 of at least 0\.89100 \(0\.99 x the reference\), got 17 of 20"):
        made(tmp_path, monkeypatch, workers).run()
    assert modes(workers) == [("offline", "accuracy")]
    accuracy = read_events(tmp_path / "events.jsonl")[-1]
    assert (accuracy["kind"], accuracy["passed"], accuracy["correct"]) == ("accuracy", False, 17)


@pytest.mark.parametrize(
    ("result", "raised", "reason"),
    [
        (WorkerResult("killed", "no sample was answered", "deadline"), WorkerFailed, "worker_lost"),
        (WorkerResult("failed", "ended by SIGSEGV", "worker_lost"), WorkerFailed, "worker_lost"),
        (WorkerResult("failed", "ValueError: x", "exception"), WorkerFailed, "exception"),
        (WorkerResult("failed", "no room", "disk_full"), WorkerFailed, "disk_full"),
        (WorkerResult("failed", "--data: must be there", "bad_data"), UserError, None),
        (WorkerResult("killed", "stopped", "stopped"), Terminated, None),
    ],
)
def test_what_ends_a_worker_ends_the_run(result, raised, reason, tmp_path, monkeypatch):
    workers = Workers(outcomes={("offline", "performance"): result})
    with pytest.raises(raised) as caught:
        made(tmp_path, monkeypatch, workers).run()
    assert modes(workers)[-1] == ("offline", "performance")
    if reason:
        assert caught.value.reason == reason
        assert result.message in str(caught.value)


def test_the_search_reports_probed_rates_alone_and_the_whole_run_is_at_one_of_them(tmp_path, monkeypatch):
    workers = Workers(capacity_qps=77.0)
    tests = made(tmp_path, monkeypatch, workers, "--scenario", "server", "--find-qps")
    tests.run()
    events = read_events(tmp_path / "events.jsonl")
    probes = [event for event in events if event["kind"] == "probe"]
    (search,) = [event for event in events if event["kind"] == "search"]
    assert search["valid_qps"] in {probe["target_qps"] for probe in probes if probe["valid"]}
    assert search["refused_qps"] in {probe["target_qps"] for probe in probes if not probe["valid"]}
    assert 75 < search["valid_qps"] <= 77 < search["refused_qps"]
    assert search["probes"] == len(probes)
    starts = [event for event in events if event["kind"] == "test_start" and event["mode"] == "performance"]
    assert len(starts) == 1, "a probe is no test of the log"
    assert workers.calls[-1][2].settings.target_qps == search["valid_qps"]
    assert workers.calls[-1][2].settings.min_duration_s == 60
    assert tests.not_valid == []


def test_a_whole_run_that_is_not_valid_begins_again_at_a_lower_rate_that_was_and_compliance_has_its_rate(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(scenarios.compliance, "answers_differ", lambda *folders: [])
    workers = Workers(capacity_qps=77.0)
    tests = made(tmp_path, monkeypatch, workers, "--scenario", "server", "--find-qps", "--compliance")
    whole_runs = []

    def only_the_second_whole_run_is_valid(request, directory, **options):
        result = workers(request, directory, **options)
        if directory.name == "performance":
            whole_runs.append(request.settings.target_qps)
            is_second = len(whole_runs) == 2
            result.facts["test_stop"] |= {"valid": is_second, "reasons": [] if is_second else ["late"]}
        if request.settings.mode.startswith("TEST"):
            result.facts["test_stop"]["metric"] = {"scheduled_qps": request.settings.target_qps}
        return result

    monkeypatch.setattr(scenarios, "run_worker", only_the_second_whole_run_is_valid)
    tests.run()
    valid = {p["target_qps"] for p in read_events(tmp_path / "events.jsonl") if p["kind"] == "probe" and p["valid"]}
    assert len(whole_runs) == 2
    assert whole_runs[0] == max(valid)
    assert whole_runs[1] == max(qps for qps in valid if qps <= 0.98 * max(valid))
    told = {request.settings.target_qps for _, mode, request in workers.calls if mode.startswith("TEST")}
    assert told == {whole_runs[1]}
    assert tests.not_valid == []


def test_there_is_no_compliance_test_of_a_run_that_is_not_valid(tmp_path, monkeypatch):
    void = {"valid": False, "reasons": ["void"], "duration_s": 61.0}
    workers = Workers(stops={("offline", "performance"): void})
    tests = made(tmp_path, monkeypatch, workers, "--scenario", "offline", "--compliance")
    tests.run()
    assert modes(workers)[1:] == [("offline", "performance")]
    assert tests.not_valid == ["offline: void"]


def test_where_no_rate_is_valid_there_is_no_whole_run(tmp_path, monkeypatch):
    tests = made(tmp_path, monkeypatch, Workers(capacity_qps=0.0), "--scenario", "server", "--find-qps")
    tests.run()
    assert tests.not_valid == ["server: no rate of queries was valid"]


def test_compliance_tests_follow_each_performance_run_and_count(tmp_path, monkeypatch):
    workers = Workers()
    monkeypatch.setattr(scenarios.compliance, "answers_differ", lambda *folders: [])
    tests = made(tmp_path, monkeypatch, workers, "--scenario", "offline", "--compliance")
    tests.run()
    assert modes(workers)[1:] == [("offline", "performance"), ("offline", "TEST01"), ("offline", "TEST04")]
    assert tests.not_valid == []
    monkeypatch.setattr(scenarios.compliance, "answers_differ", lambda *folders: ["TEST01: others"])
    (tmp_path / "two").mkdir()
    tests = made(tmp_path / "two", monkeypatch, Workers(), "--scenario", "offline", "--compliance")
    tests.run()
    assert tests.not_valid == ["offline, TEST01: TEST01: others"]
    stops = [event for event in read_events(tmp_path / "two" / "events.jsonl") if event["kind"] == "test_stop"]
    assert [(stop["mode"], stop["valid"]) for stop in stops][1:] == [
        ("performance", True),
        ("TEST01", False),
        ("TEST04", True),
    ]


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ({"valid": False, "reasons": ["too short"], "duration_s": 50.0}, [123.0, pytest.approx(1.1 * 64 / 50)]),
        ({"metric": {"samples_per_s": 100.0}, "duration_s": 61.0}, [123.0, 123.0]),
    ],
)
def test_a_compliance_test_that_is_too_short_or_too_slow_begins_again(first, told, tmp_path, monkeypatch):
    workers = Workers(stops={("offline", "TEST01"): first})
    workers.hints = {"target_qps": 123.0}
    monkeypatch.setattr(scenarios.compliance, "answers_differ", lambda *folders: [])
    tests = made(tmp_path, monkeypatch, workers, "--scenario", "offline", "--compliance")
    tests.run()
    assert [request.settings.target_qps for _, mode, request in workers.calls if mode == "TEST01"] == told
    assert tests.not_valid == []


def test_a_compliance_test_begins_again_twice_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(scenarios.compliance, "answers_differ", lambda *folders: [])
    monkeypatch.setattr(scenarios.compliance, "speeds_differ", lambda *asked: ["TEST01: slow"])
    workers = Workers()
    tests = made(tmp_path, monkeypatch, workers, "--scenario", "offline", "--compliance")
    tests.run()
    assert modes(workers).count(("offline", "TEST01")) == 3
    assert tests.not_valid == ["offline, TEST01: TEST01: slow", "offline, TEST04: TEST01: slow"]


def test_a_rehearsals_bound_is_ten_single_inferences_and_stays(tmp_path, monkeypatch):
    workers = Workers()
    made(tmp_path, monkeypatch, workers, "--scenario", "server", "online").run()
    bounds = [request.bound_s for _, _, request in workers.calls]
    assert bounds == [0.015, 0.04, 0.04], "before a single inference was timed, the profile's"


def test_a_bound_that_is_given_stays_as_it_is(tmp_path, monkeypatch):
    workers = Workers()
    made(tmp_path, monkeypatch, workers, "--scenario", "server", "--target-latency", "7").run()
    assert {request.bound_s for _, _, request in workers.calls} == {0.007}
    assert {request.settings.target_latency_s for _, _, request in workers.calls} == {0.007}


SHORT = {"valid": False, "reasons": ["the test must last 60 s, lasted 1 s"], "duration_s": 1.0}
LATE = {"valid": False, "reasons": ["late"], "over_latency": 9}


@pytest.mark.parametrize(
    ("scenario", "first", "told"),
    [
        ("offline", SHORT, [("target_qps", None), ("target_qps", pytest.approx(70.4))]),
        ("singlestream", SHORT, [("expected_latency_s", None), ("expected_latency_s", 0.01)]),
        ("server", LATE, [("target_qps", None), ("target_qps", 5.0)]),
        ("server", SHORT, [("target_qps", None)]),
        ("offline", {"valid": False, "reasons": ["void"], "duration_s": 61.0}, [("target_qps", None)]),
    ],
)
def test_a_wrong_measurement_of_the_speed_is_corrected(scenario, first, told, tmp_path, monkeypatch):
    workers = Workers(stops={(scenario, "performance"): first})
    run = made(tmp_path, monkeypatch, workers, "--scenario", scenario)
    run.run()
    tests = [request.settings for _, mode, request in workers.calls if mode == "performance"]
    assert [(name, getattr(test, name)) for (name, _), test in zip(told, tests, strict=True)] == told
    assert bool(run.not_valid) is (len(told) == 1)


def test_a_performance_run_is_told_the_speed_of_the_accuracy_run_and_the_times_of_the_first(tmp_path, monkeypatch):
    workers = Workers()
    workers.hints = {"target_qps": 123.0}
    made(tmp_path, monkeypatch, workers, "--scenario", "offline").run()
    (accuracy, performance) = (request for _, _, request in workers.calls)
    assert (accuracy.times, accuracy.settings.target_qps) == ({}, None)
    assert (performance.times, performance.settings.target_qps) == (TIMES, 123.0)


def test_a_rate_that_is_given_is_not_corrected(tmp_path, monkeypatch):
    workers = Workers(stops={("server", "performance"): LATE})
    run = made(tmp_path, monkeypatch, workers, "--scenario", "server", "--qps", "33")
    run.run()
    assert run.not_valid == ["server: late"]
    assert [request.settings.target_qps for _, mode, request in workers.calls if mode == "performance"] == [33.0]


def test_flagperfs_figures_have_those_of_the_float32_pass(tmp_path, monkeypatch):
    run = made(tmp_path, monkeypatch, Workers(), "--profile", "flagperf")
    run.reference.whole_s, run.reference.core_s = 0.5, 0.25
    run.run()
    stop = [event for event in read_events(tmp_path / "events.jsonl") if event["kind"] == "test_stop"][-1]
    assert (stop["scenario"], stop["mode"]) == ("flagperf", "performance")
    assert (stop["metric"]["p_val_whole"], stop["metric"]["p_val_core"]) == (2.0, 4.0)  # of one sample
