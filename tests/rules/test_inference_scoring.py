"""Results of inference runs: MLPerf's metrics, those that an edge system may infer, AI-Rank's rows and coverage."""

import json

import pytest
from commands.inprocess import run
from record.inference_run import inference_run, write
from rules.mlperf_runs import Runs

from airank_fast import score as command
from airank_fast.record.inference_reading import read_inference
from airank_fast.rules import early_stopping, inference_scoring


def scored(directory, *arguments, is_rehearsal=False, **config):
    """The score of a made-up run."""
    made = read_inference(write(directory, inference_run(*arguments, **config)))
    return made, inference_scoring.score([made], is_rehearsal)


def latencies(made, scenario):
    return sorted(made.tally.performance(scenario).latency_s)


def test_mlperfs_metric_of_each_scenario(tmp_path):
    made, found = scored(tmp_path / "run", "v4.0")
    results = {result.scenario: result for result in found.results}
    assert list(results) == ["singlestream", "multistream", "server", "offline"]
    assert all(result.valid for result in results.values())
    assert results["singlestream"].metric == "early_stopping_latency_ss"
    for name, share in (("singlestream", 0.9), ("multistream", 0.99)):
        own = early_stopping.estimate(latencies(made, name), share)
        assert results[name].value == pytest.approx(own * 1e3)
    assert (results["server"].metric, results["server"].unit) == ("result_scheduled_samples_per_sec", "queries/s")
    stop = made.tally.performance("server").stop
    assert results["server"].value == stop["metric"]["scheduled_qps"] > stop["metric"]["completed_qps"]
    assert results["offline"].value == pytest.approx(made.summary["scenarios"]["offline"]["samples_per_s"])
    assert results["offline"].accuracy == 0.7612


def test_an_edge_system_infers_what_it_did_not_run(tmp_path):
    made, found = scored(tmp_path / "single", "v6.1", ("singlestream",))
    results = {result.scenario: result for result in found.results}
    own = latencies(made, "singlestream")
    assert results["multistream"].value == pytest.approx(8e3 * early_stopping.estimate(own, 0.99))
    assert results["offline"].value == pytest.approx(1000 / (sum(own) / len(own) * 1e3))
    assert all(results[name].inferred for name in ("multistream", "offline"))
    assert results["multistream"].accuracy == results["offline"].accuracy == results["singlestream"].accuracy
    made, found = scored(tmp_path / "multi", "v6.1", ("multistream",))
    (offline,) = (result for result in found.results if result.inferred)
    own = latencies(made, "multistream")
    assert offline.value == pytest.approx(8000 / (sum(own) / len(own) * 1e3))
    _, found = scored(tmp_path / "server", "v4.0", ("server",))
    assert [result.scenario for result in found.results] == ["server"]  # a data centre infers nothing


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"is_rehearsal": True}, "a rehearsal: embedded data, or a short run"),
        ({"is_quick": True}, "a rehearsal: embedded data, or a short run"),
        ({"checkpoint": {"trained_here": True}}, "weights that were trained here: the open division only"),
        ({"accuracy": 0.70}, "accuracy below its bound"),
    ],
)
def test_a_figure_that_is_no_result_says_why(tmp_path, config, problem):
    events = inference_run("v6.1", ("offline",), **config)
    for event in events:
        if event["kind"] == "accuracy" and "accuracy" in config:
            event["passed"] = False
    made = read_inference(write(tmp_path / "run", events))
    (result,) = inference_scoring.score([made]).results
    assert not result.valid
    assert result.problems == (problem,)
    if "is_rehearsal" in config:
        assert inference_scoring.score([made], is_rehearsal=True).valid


def test_a_test_that_is_not_valid_and_a_failed_compliance_test(tmp_path):
    events = inference_run("v6.1", ("offline",))
    for event in events:
        if event["kind"] == "test_stop" and event["mode"] in ("performance", "TEST04"):
            event |= {"valid": False, "reasons": ["min duration"]}
    made = read_inference(write(tmp_path / "run", events))
    (result,) = inference_scoring.score([made]).results
    assert result.problems == ("not valid: min duration", "TEST04 failed")


def test_airanks_rows_and_coverage(tmp_path):
    made, found = scored(tmp_path / "run", "airank-2020-12", eval_samples=1000)
    cloud, mobile = found.rows
    figures = made.summary["scenarios"]
    assert (cloud.device, cloud.online) == ("cloud", figures["online"]["samples_per_s"])
    assert cloud.offline == mobile.offline == figures["offline"]["samples_per_s"]
    assert mobile.latency_ms == pytest.approx(figures["latency"]["latency_p90_linear_s"] * 1e3)
    assert (mobile.max_batch, mobile.memory_mib) == (2, 420.0)
    assert (cloud.latency_ms, cloud.memory_mib) == (None, None)
    assert found.valid
    by_device = {each.device: each for each in found.coverage}
    assert by_device["cloud"].models == by_device["mobile"].models == ("resnet50",)
    assert by_device["cloud"].num_models == 6
    assert (by_device["mobile"].num_hardware, by_device["mobile"].pairs) == (14, 0)
    _, found = scored(tmp_path / "new", "airank-2021-05", eval_samples=1000)
    assert found.rows[1].memory_mib is None  # the later text dropped it


def test_a_listed_device_counts_once(tmp_path):
    runs = []
    for number in range(2):
        events = inference_run("airank-2021-05", ("offline", "latency"), eval_samples=1000, seed=number)
        system = next(event for event in events if event["kind"] == "system")
        system |= {"hardware_name": "Firefly RK3399", "hardware_type": "mobile"}
        runs.append(read_inference(write(tmp_path / str(number), events)))
    found = inference_scoring.score(runs)
    assert [row.device for row in found.rows] == ["mobile", "mobile"]
    (each,) = found.coverage
    assert (each.hardware, each.pairs, each.num_pairs) == (("RK3399",), 1, 14 * each.num_models)
    assert inference_scoring.device_of("Apple iPhone 6s", "airank-2021-05") == "iPhone 6s"
    assert inference_scoring.device_of("Example CPU", "airank-2021-05") is None


# the command


def test_the_command_tells_training_and_inference_apart(tmp_path):
    write(tmp_path / "inference", inference_run("v6.1", ("singlestream", "offline")))
    done = run(command, tmp_path / "inference")
    assert (done.returncode, done.stderr) == (0, "")
    assert "MLPerf inference" in done.stdout
    assert "multistream (inferred)" in done.stdout
    assert "GP2BM: its score has no inference part" in done.stdout
    assert "MLPerf resnet" not in done.stdout
    (tmp_path / "training").mkdir()
    Runs(tmp_path / "training").write("resnet50", [28.0, 29.0, 28.5, 30.0, 31.0])
    none = json.loads(run(command, tmp_path / "inference", "--rules", "airank", "--json").stdout)["inference"]
    assert (none["mlperf"], none["airank"]["rows"]) == ([], [])
    both = run(command, tmp_path, "--json", "--b-minutes", "16.882")
    assert both.returncode == 0
    result = json.loads(both.stdout)
    assert [each["scenario"] for each in result["inference"]["mlperf"]] == ["singlestream", "offline", "multistream"]
    assert result["mlperf"][0]["minutes"] == pytest.approx(29.1667, abs=1e-3)


def test_a_rehearsal_counts_with_own_targets_alone(tmp_path):
    write(tmp_path / "run", inference_run("airank-2021-05", eval_samples=500, is_rehearsal=True))
    done = run(command, tmp_path / "run")
    assert done.returncode == 1
    assert "problem: " in done.stdout
    assert "a rehearsal: embedded data, or a short run" in done.stdout
    done = run(command, tmp_path / "run", "--own-targets")
    assert done.returncode == 0
    assert done.stdout.startswith("REHEARSAL: ")
    assert "model coverage of airank-2021-05: 1/6 (resnet50)" in done.stdout


def test_a_scenario_of_other_rules_has_a_note(tmp_path):
    events = inference_run("v6.1", ("offline", "online"), eval_samples=1000, is_rehearsal=True)
    made = read_inference(write(tmp_path / "run", events))
    found = inference_scoring.score([made], is_rehearsal=True)
    assert [result.scenario for result in found.results] == ["offline"]
    assert found.rows == []
    assert found.notes == [f"{made.path}: no result of online: measured under v6.1, which AI-Rank's rows are not"]
