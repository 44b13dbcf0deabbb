"""Tests that LoadGen runs, each in a process: settings are the profile's, results are whole, and faults are named."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from inference.loadgen_fakes import SYSTEM, settings

from airank_fast.errors import UserError
from airank_fast.inference import hints, loadgen, verdict
from airank_fast.inference.schedule import server_schedule, since_due
from airank_fast.inference.settings import TestSettings as Settings
from airank_fast.inference.settings import required_values
from airank_fast.inference.supervise import WorkerRequest, run_worker
from airank_fast.record.formats.loadgen import read_detail
from airank_fast.record.lines import Lines
from airank_fast.rules.inference_profiles import PROFILES, TEST01_LOG_SEED

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="no LoadGen"),
    pytest.mark.usefixtures("workers_see_tests"),
]
SEEDS = dict(zip(("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"), PROFILES["v6.1"].seeds, strict=True))


def run(directory, test: Settings, *, max_batch: int = 8, lines=None, **extra):
    """The result of a test with the fakes, which must be done."""
    request = WorkerRequest(max_batch=max_batch, settings=test, system=SYSTEM, extra=extra)
    result = run_worker(request, directory, deadline_s=30.0, on_line=None if lines is None else lines.append)
    assert result.status == "done", (result.message, result.details)
    return result


def test_single_stream(tmp_path):
    lines = []
    result = run(tmp_path / "run", settings("singlestream"), lines=lines, latency_s=0.001)
    stop = result.facts["test_stop"]
    assert stop["reasons"] == []
    assert stop["valid"] is True
    assert 0.001 <= stop["metric"]["latency_p90_s"] == stop["early_stopping"]["estimate_s"]
    assert stop["num_queries"] == stop["num_samples"] == len(result.queries.latency_s) >= 64
    assert min(result.queries.latency_s) >= 0.001
    assert result.queries.issued_s == sorted(result.queries.issued_s)
    assert set(result.queries.batch) == {1}
    assert stop["duration_s"] >= 0.2
    assert stop["loadgen"]["version"].startswith("6.0")
    assert stop["effective"].items() >= SEEDS.items()
    assert stop["effective"]["min_duration_ms"] == 200
    assert result.facts["settings"]["expected_latency_s"] >= 0.0004
    kinds = [line["kind"] for line in lines if line["kind"] != "progress"]
    assert kinds == [
        *("phase", "phase", "model", "warm_up", "phase", "test_start", "test_stop", "phase", "done"),
    ]
    assert (tmp_path / "run" / "mlperf_log_trace.json").stat().st_size < 1000


@pytest.mark.parametrize("scenario", ["singlestream", "multistream", "offline", "server"])
def test_an_accuracy_run_has_every_sample(scenario, tmp_path):
    result = run(tmp_path, settings(scenario, "accuracy", performance_count=30), count=41)
    stop = result.facts["test_stop"]
    assert stop["reasons"] == []
    assert stop["metric"] == {}
    assert result.facts["quality"] == {"top1": 1.0}
    assert (result.facts["correct"], result.facts["counted"]) == (41, 41)
    assert result.queries is None
    with np.load(result.predictions) as file:
        assert file["index"].tolist() == list(range(41))
        assert file["response"].tolist() == [3.0 * index for index in range(41)]
        assert file["offset"].tolist() == list(range(42))
    logged = json.loads((tmp_path / "mlperf_log_accuracy.json").read_text())
    assert {entry["qsl_idx"]: np.frombuffer(bytes.fromhex(entry["data"]), "<f4")[0] for entry in logged} == {
        index: 3.0 * index for index in range(41)
    }


def test_server_with_an_audit_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.config").write_text("*.*.mode = 1\n*.*.min_duration = 7\n*.*.qsl_rng_seed = 7\n")
    (tmp_path / "user.conf").write_text("*.*.min_duration = 7\n")
    result = run(tmp_path / "run", settings("server"), latency_s=0.0005)
    stop = result.facts["test_stop"]
    assert stop["effective"].items() >= SEEDS.items()
    assert stop["effective"]["min_duration_ms"] == 200
    assert stop["effective"]["test_mode"] == "PerformanceOnly"
    assert stop["effective"]["target_latency_ns"] == 500_000_000
    assert stop["metric"]["scheduled_qps"] == pytest.approx(2500, rel=0.3)
    queries = result.queries
    assert len(queries.latency_s) == stop["num_queries"] >= 459
    assert all(latency >= queue >= 0 for latency, queue in zip(queries.latency_s, queries.queue_s, strict=True))
    assert max(queries.batch) <= 8
    detail = read_detail(Lines(tmp_path / "run" / "mlperf_log_detail.txt"))
    due_s, due_ns = server_schedule(2500.0, PROFILES["v6.1"].seeds[2], detail.value("generated_query_count"))
    assert abs(due_ns - detail.value("generated_query_duration")) <= len(due_s)
    assert queries.issued_s == due_s.tolist()
    assert [size for size, _ in result.facts["warm_up"]] == [1, 2, 4, 8]


def test_a_callback_that_comes_late_counts_as_latency():
    due_s = np.array([0.0, 0.1, 0.2])
    rows = np.array([[0.0, 0.01, 0.0, 1], [0.1005, 0.01, 0.002, 1], [0.0005 + 0.35, 0.01, 0.0, 1]])
    rows[:, 0] -= 0.0005  # the first callback, from which records count, was the latest of the usual ones
    counted = since_due(rows, due_s)
    assert counted[:, 0].tolist() == due_s.tolist()
    assert counted[:, 1].tolist() == pytest.approx([0.01, 0.0105, 0.1605])
    assert counted[:, 2].tolist() == pytest.approx([0.0, 0.0025, 0.1505])


def test_a_bound_that_is_missed_makes_server_invalid(tmp_path):
    result = run(tmp_path, settings("server", target_latency_s=1e-5), latency_s=0.0001, max_batch=1)
    stop = result.facts["test_stop"]
    assert stop["valid"] is False
    assert stop["over_latency"] > 0.5 * stop["num_queries"]
    (reason,) = stop["reasons"]
    assert reason.startswith("the latency bound is not met: ")
    assert reason.endswith("queries took longer than 0.01 ms")


def test_offline(tmp_path):
    test = settings("offline", min_queries=200, target_qps=4400.0)  # more than the engine can do
    result = run(tmp_path, test, lengths=[index % 7 for index in range(40)], latency_s=0.002)
    stop = result.facts["test_stop"]
    assert stop["reasons"] == []
    assert stop["num_queries"] == 1
    assert stop["num_samples"] == sum(result.queries.batch) >= 200
    assert 0 < stop["metric"]["samples_per_s"] <= 8 / 0.002
    assert stop["early_stopping"] is None


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_a_rate_that_is_not_given_is_measured(scenario, tmp_path):
    result = run(tmp_path, settings(scenario, target_qps=None, min_queries=1), latency_s=0.002)
    most = {"offline": hints.OFFLINE_MARGIN, "server": hints.SERVER_SHARE}[scenario] * 8 / 0.002
    assert 0 < result.facts["settings"]["target_qps"] <= most


def test_times_that_are_known_are_not_measured_again(tmp_path):
    lines = []
    test = settings("offline", target_qps=None, min_queries=1, min_duration_s=0.02)
    request = WorkerRequest(max_batch=4, settings=test, system=SYSTEM, times={1: 0.01, 4: 0.02})
    result = run_worker(request, tmp_path, deadline_s=30.0, on_line=lines.append)
    ((times,),) = ([line["times"]] for line in lines if line["kind"] == "warm_up")
    assert [size for size, _ in times] == [2]
    assert result.facts["warm_up"][::2] == [[1, 0.01], [4, 0.02]]


def test_an_accuracy_run_tells_what_loadgen_must_know_of_the_speed(tmp_path):
    lengths = list(range(40))
    offline = run(tmp_path / "offline", settings("offline", "accuracy"), latency_s=0.002, max_batch=8, lengths=lengths)
    assert 0 < offline.facts["hints"]["target_qps"] <= 8 / 0.002
    stream = run(tmp_path / "stream", settings("singlestream", "accuracy"), latency_s=0.002)
    assert stream.facts["hints"]["expected_latency_s"] >= 0.4 * 0.002


def test_the_rate_of_offlines_samples_that_are_alike_is_measured_before_the_test(tmp_path):
    accuracy = run(tmp_path / "accuracy", settings("offline", "accuracy"), latency_s=0.002, max_batch=8)
    assert accuracy.facts["hints"] == {}
    test = settings("offline", min_duration_s=1.0)
    told = run(tmp_path / "told", test, latency_s=0.002, max_batch=8).facts["settings"]
    assert 0 < told["target_qps"] <= 1.05 * 8 / 0.002


def test_multi_stream(tmp_path):
    result = run(tmp_path, settings("multistream"), max_batch=4, latency_s=0.0002)
    stop = result.facts["test_stop"]
    assert stop["reasons"] == []
    assert stop["num_samples"] == 8 * stop["num_queries"]
    assert stop["num_queries"] == len(result.queries.latency_s) >= 662
    assert set(result.queries.batch) == {4}
    assert stop["metric"]["latency_p99_s"] > 0


def test_too_few_queries_are_a_reason_with_numbers(tmp_path):
    test = settings("singlestream", min_duration_s=0.01, min_queries=20)
    result = run(tmp_path, test, latency_s=0.001)
    stop = result.facts["test_stop"]
    if stop["num_queries"] < 64:
        assert stop["reasons"] == [f"early stopping at p90 is not met: {stop['num_queries']} queries"]
        assert stop["early_stopping"]["met"] is False


def test_a_hint_that_is_far_too_long_is_said(tmp_path):
    result = run(tmp_path, settings("singlestream", expected_latency_s=0.1))
    assert result.facts["test_stop"]["valid"] is False
    reasons = " | ".join(result.facts["test_stop"]["reasons"])
    assert "LoadGen had too few queries for the duration: the expected latency was too long" in reasons
    assert "the test must last 0.2 s, lasted 0.0" in reasons


@pytest.mark.parametrize(
    ("mode", "effective"),
    [
        ("TEST01", {"accuracy_log_rng_seed": TEST01_LOG_SEED, "accuracy_log_sampling_target": 4096}),
        ("TEST04", {"performance_issue_same": True, "performance_issue_same_index": 3}),
    ],
)
def test_compliance(mode, effective, tmp_path):
    result = run(tmp_path, settings("singlestream", mode), latency_s=0.0005)
    stop = result.facts["test_stop"]
    assert stop["reasons"] == []
    assert stop["effective"].items() >= effective.items()
    logged = json.loads((tmp_path / "mlperf_log_accuracy.json").read_text() or "[]")
    assert bool(logged) == (mode == "TEST01")


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("lost", r"RuntimeError: sample \d+ was issued and never answered"),
        ("twice", r"RuntimeError: sample \d+ was answered twice"),
    ],
)
def test_a_sample_that_is_lost_or_answered_twice_ends_the_test(fault, failure, tmp_path):
    command = [sys.executable, "-m", "inference.loadgen_fakes", fault, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    first, second = done.stdout.splitlines()
    assert re.fullmatch(failure, first)
    assert second == "LoadGen: must be run once a process, got a second test"


COMMON = {"time_ms": 0.5, "namespace": "mlperf::logging", "event_type": "POINT_IN_TIME"}


def logs(directory, test: Settings, **changes) -> None:
    """What LoadGen leaves of an accuracy run of 40 samples, with changed values."""
    values = {f"effective_{key}": value for key, value in required_values(test, 40).items()}
    entries = {"loadgen_version": "6.0 @ x", **values, **changes}
    lines = [
        json.dumps({**COMMON, "key": key, "value": value, "metadata": {"is_error": key.startswith("error")}})
        for key, value in entries.items()
    ]
    (directory / "mlperf_log_detail.txt").write_text("".join(f":::MLLOG {line}\n" for line in lines))
    answers = [{"seq_id": index, "qsl_idx": index, "data": "00000000"} for index in range(40)]
    text = ",\n".join(map(json.dumps, answers))
    (directory / "mlperf_log_accuracy.json").write_text(f"[\n{text}\n]\n")


class Ended:
    failure = None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"effective_qsl_rng_seed": 0}, "effective_qsl_rng_seed: must be 2085463073848966840, LoadGen's log has 0"),
        ({"effective_min_duration_ms": 10}, "effective_min_duration_ms: must be 200, LoadGen's log has 10"),
        ({"effective_performance_issue_same": True}, "effective_performance_issue_same: must be False"),
        ({"effective_target_latency_percentile": 0.5}, "effective_target_latency_percentile: must be 0.9"),
        ({"error_runtime": "a new error"}, "LoadGen logged an error: a new error"),
    ],
)
def test_a_log_that_has_other_settings_or_errors_makes_the_test_void(changes, reason, tmp_path):
    test = settings("singlestream", "accuracy")
    logs(tmp_path, test, **changes)
    outcome = verdict.judge(test, Ended(), 40, tmp_path)
    assert outcome.is_valid == (reason is None)
    assert [one.startswith(reason) for one in outcome.reasons] == ([] if reason is None else [True])


def test_a_sample_that_lacks_in_the_accuracy_log_makes_the_test_void(tmp_path):
    test = settings("singlestream", "accuracy")
    logs(tmp_path, test)
    outcome = verdict.judge(test, Ended(), 40 + 2, tmp_path)
    assert "2 of 42 samples are missing in LoadGen's accuracy log" in outcome.reasons


@pytest.mark.parametrize("name", ["mlperf_log_detail.txt", "mlperf_log_accuracy.json"])
def test_a_log_that_is_cut_off_is_a_failure(name, tmp_path):
    test = settings("singlestream", "accuracy")
    for rest in (60, 0):
        logs(tmp_path, test)
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(whole[:rest])
        outcome = verdict.judge(test, Ended(), 40, tmp_path)
        assert not outcome.is_valid
    (tmp_path / name).unlink()
    assert name in verdict.judge(test, Ended(), 40, tmp_path).failure


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"profile": "airank-2021-05"}, "--profile: must be one of"),
        ({"scenario": "online"}, "--scenario: must be one of"),
        ({"mode": "fast"}, "mode: must be one of"),
        ({"mode": "TEST05"}, "TEST05: must be a test of v4.0, got profile v6.1"),
        ({"min_duration_s": 0.0}, "--duration: must be at least 0.001 s, got 0.0"),
        ({"target_latency_s": 5e-7}, "--target-latency: must be at least 0.001 ms"),
        ({"scenario": "server", "target_latency_s": None}, "--target-latency: must be given for the Server scenario"),
        ({"target_qps": -1.0}, "target_qps: must be a number above 0, got -1.0"),
        ({"min_queries": 0}, "min_queries: must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(fields, message, tmp_path):
    test = settings("singlestream")
    with pytest.raises(UserError, match="^" + re.escape(message)):
        run_worker(WorkerRequest(settings=Settings(**{**test.as_json(), **fields})), tmp_path, deadline_s=1.0)


def test_loadgen_of_another_version_is_refused():
    with pytest.raises(UserError, match=r"mlcommons-loadgen: must be version 4.0 for profile v4.0, got 6"):
        loadgen.load_generator(PROFILES["v4.0"])


def test_settings_travel():
    test = settings("server")
    assert Settings.from_json(json.loads(json.dumps(test.as_json()))) == test
    request = WorkerRequest(settings=test, times={1: 0.004, 8: 0.03}, extra={"a": 1})
    assert WorkerRequest.from_json(json.loads(json.dumps(request.as_json()))) == request


@pytest.mark.parametrize(("logged", "differs"), [(12.1107, False), (12.111, True)])
def test_a_rate_is_compared_by_the_six_digits_that_loadgen_prints(logged, differs):
    test = Settings(
        scenario="server",
        mode="performance",
        profile="v6.1",
        min_duration_s=1.0,
        min_queries=1,
        performance_count=4,
        target_latency_s=0.1,
        target_qps=12.110725114069606,
    )
    seen = {**required_values(test, 4), "target_qps": logged}
    assert bool(verdict._differences(test, 4, seen)) is differs
