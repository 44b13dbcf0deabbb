"""The figures of an inference run: percentiles by both rules, rates, stalls, and every scenario's summary."""

import json

import numpy as np
import pytest
from record.inference_run import SCENARIOS, InferenceStory, inference_run, write

from airank_fast.errors import UserError
from airank_fast.record import inference_metrics
from airank_fast.record.events import EventLog, to_line
from airank_fast.record.inference_logs import FILES, InferenceLogs
from airank_fast.record.inference_metrics import InferenceTally, LoadTest, figures, loadgen_percentile, summarize
from airank_fast.record.inference_reading import is_inference, read_inference


def closed_loop(latency_s, scenario="singlestream", **stop):
    """A test of one client with these latencies."""
    issued_s = [float(each) for each in np.concatenate([[0.0], np.cumsum(latency_s)[:-1]])]
    start = {"scenario": scenario, "mode": "performance", "settings": {"samples_per_query": 1}}
    count = len(latency_s)
    fields = {"valid": True, "reasons": [], "metric": {}, "num_queries": count, "num_samples": count}
    fields |= {"duration_s": float(sum(latency_s))} | stop
    return LoadTest(start, fields, None, issued_s, list(latency_s), [], [1] * count)


def test_percentiles_are_those_of_loadgen_and_of_numpy():
    latency_s = [float(value) for value in np.random.default_rng(1).exponential(0.01, 1246)]
    found = figures(closed_loop(latency_s))
    ascending = sorted(latency_s)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99_9", 0.999)):
        assert found[f"latency_{name}_s"] == ascending[int(1246 * share)]  # loadgen/results.cc
    assert found["latency_p90_linear_s"] == pytest.approx(np.percentile(latency_s, 90), rel=1e-12)
    assert (found["latency_min_s"], found["latency_max_s"]) == (ascending[0], ascending[-1])
    assert found["latency_mean_s"] == pytest.approx(np.mean(latency_s))
    assert loadgen_percentile([], 0.9) is None
    assert loadgen_percentile([3.0], 0.999) == 3.0


def test_the_published_p90_of_a_thousand_cases():
    """Kirin 990, armv8_cpu: 900th 46.029 ms, 901st 46.030 ms, published 46.0291 ms."""
    latency_ms = [45.0] * 899 + [46.029, 46.030] + [47.0] * 99
    found = figures(closed_loop([each / 1e3 for each in latency_ms], "latency"))
    assert round(found["latency_p90_linear_s"] * 1e3, 4) == 46.0291


def test_a_stall_that_a_closed_loop_hides_is_said():
    """2 s in 8 s: 1 request of 667, so p99 is that of the others; of an open loop 199 more would have waited."""
    latency_s = [0.009] * 666 + [2.0]
    test = closed_loop(latency_s)
    found = figures(test)
    assert found["latency_p99_s"] == 0.009
    assert found["stall_s"] == 2.0
    assert found["stall_share"] == pytest.approx(2.0 / sum(latency_s))
    missed = [2.0 - index * 0.009 for index in range(1, 223)]
    assert found["latency_p99_open_s"] == pytest.approx(sorted([*latency_s, *missed])[int(889 * 0.99)])
    tally = InferenceTally()
    tally.tests.append(test)
    (note,) = tally.summary()["notes"]
    assert note.startswith("singlestream: requests longer than 10 x the median took 25.0% of the time")
    calm = figures(closed_loop([0.009] * 667))
    assert (calm["stall_s"], calm["latency_p99_open_s"]) == (0.0, 0.009)
    assert figures(closed_loop(latency_s, "server"))["stall_share"] is None


def test_more_missed_requests_than_can_be_listed_have_no_percentile(monkeypatch):
    monkeypatch.setattr(inference_metrics, "_MOST_MISSED", 100)
    test = closed_loop([0.009] * 666 + [2.0])
    found = figures(test)
    assert found["latency_p99_open_s"] is None
    assert found["stall_s"] == 2.0
    tally = InferenceTally()
    tally.tests.append(test)
    (note,) = tally.summary()["notes"]
    assert note.endswith("p99 9 ms, far more if requests had gone on arriving")


def test_queue_and_service_add_up():
    test = closed_loop([0.010, 0.020, 0.030], "server")
    test.queue_s = [0.004, 0.008, 0.020]
    found = figures(test)
    assert found["queue_p50_s"] == 0.008
    assert found["service_p50_s"] == pytest.approx(0.010)
    assert found["service_p99_s"] == pytest.approx(0.012)
    whole = closed_loop([0.1, 0.2], "offline")
    whole.queue_s = [0.0, 0.1]
    assert (figures(whole)["queue_p50_s"], figures(whole)["service_p50_s"]) == (None, 0.1)


@pytest.mark.parametrize("profile", SCENARIOS)
def test_the_summary_of_every_profile(profile):
    events = inference_run(profile, **({} if profile in ("v4.0", "v6.1") else {"eval_samples": 1000}))
    summary = summarize(events)
    assert summary["inference"] is True
    assert (summary["status"], summary["reason"], summary["comparable"]) == ("success", "valid", True)
    assert list(summary["scenarios"]) == list(SCENARIOS[profile])
    stops = {e["scenario"]: e for e in events if e["kind"] == "test_stop" and e["mode"] == "performance"}
    for name, found in summary["scenarios"].items():
        stop = stops[name]
        assert found["samples_per_s"] == pytest.approx(stop["num_samples"] / stop["duration_s"])
        assert found["flop_per_s"] == pytest.approx(found["samples_per_s"] * 8.178e9)
        assert sum(found["batches"].values()) == sum(
            len(e["latency_s"]) for e in events if e["kind"] == "queries" and e["scenario"] == name and _is_speed(e)
        )
        for key in ("latency_p90_s", "latency_p99_s"):
            if key in stop["metric"] and (name == "server" or profile == "paper"):
                assert found[key] == stop["metric"][key]
    assert summary["e2e_time"] == pytest.approx(events[-1]["t"] - events[0]["t"])
    assert summary["precision"] == "fp32"
    json.dumps(summary, allow_nan=False)


def _is_speed(event):
    return event["mode"] == "performance"


def test_the_last_valid_test_counts_and_compliance_is_beside_it():
    story = InferenceStory("v6.1", ("offline",)).begin()
    story.check_accuracy("offline")
    story.test("offline")
    story.test("offline")
    story.events[-1] |= {"valid": False, "reasons": ["min duration"]}
    story.test("offline", "TEST01")
    tally = InferenceTally()
    for event in story.end().events:
        tally.feed(event)
    first = next(test for test in tally.tests if test.mode == "performance")
    assert tally.performance("offline") is first
    assert tally.summary()["compliance"] == {"offline": {"TEST01": True}}
    assert tally.performance("server") is None


def test_a_run_that_was_cut_off_anywhere_has_a_summary():
    events = inference_run("v4.0", ("server",), eval_samples=100)
    for count in range(len(events) + 1):
        summary = summarize(events[:count])
        assert summary["status"] == ("success" if count > len(events) - 2 else "unfinished")


def test_precision_that_was_not_requested_is_said():
    events = inference_run("v6.1", ("offline",), eval_samples=100)
    model = next(event for event in events if event["kind"] == "model")
    model["engine"]["precision"] = "fp16"
    assert "the engine ran in fp16, fp32 was requested" in summarize(events)["notes"]


# the files of a run


def test_a_subscriber_writes_the_files_of_its_profile(tmp_path):
    made = {}
    for profile in ("v6.1", "airank-2021-05", "flagperf"):
        directory = tmp_path / profile
        directory.mkdir()
        log = EventLog(directory / "events.jsonl")
        log.subscribe(InferenceLogs(directory, profile))
        for event in inference_run(profile, eval_samples=200, is_rehearsal=True):
            log.emit(event["kind"], t=event["t"], **{k: v for k, v in event.items() if k not in ("t", "kind")})
        log.close()
        made[profile] = sorted(path.name for path in directory.iterdir() if path.name != "events.jsonl")
        assert json.loads((directory / "summary.json").read_text()) == read_inference(directory).summary
    assert made["v6.1"] == ["summary.json"]
    assert made["flagperf"] == ["flagperf_inference.json", "flagperf_inference.md", "summary.json"]
    assert made["airank-2021-05"] == sorted({"summary.json", *(name for name in FILES if name.endswith(".log"))})


def test_a_run_of_another_profile_is_refused(tmp_path):
    logs = InferenceLogs(tmp_path, "airank-2020-12")
    with pytest.raises(UserError, match=r"profile: must be airank-2020-12, got v6\.1"):
        logs.feed(inference_run("v6.1", ("offline",), eval_samples=10)[1])


def test_reading_tells_inference_from_other_runs(tmp_path):
    directory = write(tmp_path / "run", inference_run("v6.1", ("offline",), eval_samples=100))
    assert is_inference(directory)
    assert is_inference(directory / "events.jsonl")
    assert not is_inference(tmp_path)
    (tmp_path / "events.jsonl").write_text('{"t": 1.0, "kind": "process_start"}\n')
    assert not is_inference(tmp_path)
    events = inference_run("v6.1", ("offline",), eval_samples=100)
    del events[1]["t"], events[4]["kind"]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(UserError, match="line 2 must be an event"):
        read_inference(tmp_path)
    lame = [{"t": 1.0, "kind": "process_start"}, {"t": 1.0, "kind": "test_start"}, {"t": 1.0, "kind": "test_stop"}]
    (tmp_path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in lame))
    with pytest.raises(UserError, match="must have events with the fields of their kinds, got KeyError"):
        read_inference(tmp_path)
