"""The infer command: one whole run on a small set of pictures; bad input; and what ends a run early."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from commands.inprocess import run, run_without_torch
from commands.runs import arguments, write_tree
from ops.threads import threads

from airank_fast import infer, train
from airank_fast.engine.shutdown import Terminated
from airank_fast.errors import UserError
from airank_fast.inference import request as requests
from airank_fast.inference import session, weights
from airank_fast.inference.accuracy import Reference
from airank_fast.inference.scenarios import NotAccurate, WorkerFailed
from airank_fast.record.events import read_events
from airank_fast.rules import verifying
from airank_fast.rules.findings import ERROR
from airank_fast.rules.inference_profiles import PROFILES

SHORT = ["--threads", "1", "--max-batch", "4", "--duration", "0.5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training run of one step of the whole network, far from its target."""
    tree = write_tree(tmp_path_factory.mktemp("few pictures"), num_train=4)
    output = tmp_path_factory.mktemp("trained") / "run"
    args = arguments(tree, output, "--epochs", "1", "--eval-batch-size", "20")
    with threads(2), mock.patch.object(sys, "argv", ["train", *args]):
        assert train.main() in (0, 1)
    return output


@pytest.fixture(scope="module")
def measured(trained, tmp_path_factory):
    """A run of one scenario by LoadGen and one by our own clients, with its output."""
    output = tmp_path_factory.mktemp("measured") / "run"
    scenario = ["--scenario", "singlestream", "online", "--target-latency", "2000"]
    done = run(infer, "resnet50", "--checkpoint", trained, *scenario, *SHORT, "--output", output)
    assert done.returncode == 0, done.stderr
    return output, done


def events_of(output, kind):
    return [event for event in read_events(output / "events.jsonl") if event["kind"] == kind]


def test_a_run_leaves_a_closed_log_and_is_valid(measured):
    output, _ = measured
    (stop,) = events_of(output, "run_stop")
    assert (stop["status"], stop["reason"]) == ("success", "valid")
    kinds = [event["kind"] for event in read_events(output / "events.jsonl")]
    assert kinds[:2] == ["process_start", "infer_config"]
    assert kinds[-2:] == ["run_stop", "process_stop"]
    assert not list(output.rglob("request.json"))


def test_the_engine_predicts_what_the_evaluation_of_training_did(measured, trained):
    output, _ = measured
    evaluation = events_of(trained, "eval_stop")[-1]
    (accuracy,) = events_of(output, "accuracy")
    (reference,) = events_of(output, "reference")
    for found in (accuracy, reference):
        assert (found["correct"], found["counted"]) == (evaluation["correct"], evaluation["counted"])
    assert sum(accuracy["sample_results"]) == accuracy["correct"]
    assert len(accuracy["sample_results"]) == accuracy["counted"] == 20
    assert accuracy["agreement"] == 1.0
    assert accuracy["largest_error"] < 1e-4
    with np.load(output / accuracy["predictions"]["files"][0]) as file:
        assert file["index"].tolist() == list(range(20))


def test_each_test_is_in_the_log_with_its_queries(measured):
    output, _ = measured
    stops = {(event["scenario"], event["mode"]): event for event in events_of(output, "test_stop")}
    assert set(stops) == {("singlestream", "accuracy"), ("singlestream", "performance"), ("online", "performance")}
    for (scenario, mode), stop in stops.items():
        assert stop["valid"], stop
        if mode == "performance":
            queries = [event for event in events_of(output, "queries") if event["scenario"] == scenario]
            assert sum(len(event["latency_s"]) for event in queries) == stop["num_queries"]
        assert stop["memory"]["total_bytes"] > 2**20
    assert stops["singlestream", "performance"]["num_queries"] >= 64
    assert stops["online", "performance"]["metric"]["concurrency"] >= 1
    detail = output / stops["singlestream", "performance"]["loadgen"]["directory"] / "mlperf_log_detail.txt"
    text = detail.read_text()
    for seed in PROFILES["v6.1"].seeds:
        assert str(seed) in text


def test_the_model_is_counted(measured):
    (model,) = events_of(measured[0], "model")
    assert model["parameters"] == 23_508_032 + 2048 * 4 + 4
    assert model["flops_per_sample"] == 2 * (4_089_184_256 - 2048 * 1000) * 32 * 32 // 224**2 + 2 * 2048 * 4
    assert model["engine"]["precision"] == "fp32"
    assert model["load_s"] > 0


def test_the_table_and_the_summary_have_every_scenario(measured):
    output, done = measured
    summary = json.loads((output / "summary.json").read_text())
    assert set(summary["scenarios"]) == {"singlestream", "online"}
    assert summary["is_rehearsal"]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["singlestream", "online"]
    assert all("valid" in line for line in lines[2:4])
    assert lines[-1] == f"logs and figures: {output}"


def test_the_rule_book_has_no_error(measured):
    found = [finding for finding in verifying.verify(measured[0]) if finding.severity == ERROR]
    assert not found


# -- what is requested -----------------------------------------------------------------------------------------------


def parsed(*args):
    with mock.patch.object(requests, "check_installed"):
        return requests.parse(["resnet50", *map(str, args)])


def test_the_options_of_the_task_follow():
    request = parsed("--scenario", "server", "offline", "--num-classes", "4", "--data", "D", "--checkpoint", "C")
    assert request.arguments == ["resnet50", "--data", "D", "--num-classes", "4"]
    assert request.scenarios == ("offline", "server")


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("v6.1", ("offline", "server", "singlestream", "multistream", "online", "latency", "max-batch")),
        ("paper", ("offline", "server", "singlestream", "online", "latency", "max-batch")),
        ("airank-2020-12", ("offline", "online", "latency", "max-batch")),
        ("flagperf", ("flagperf",)),
    ],
)
def test_all_scenarios_are_those_of_the_profile(profile, expected):
    request = parsed("--profile", profile)
    assert request.scenarios == expected
    by_loadgen = [name for name in expected if request.is_by_loadgen(name)]
    assert set(by_loadgen) == set(PROFILES[profile].scenarios)


@pytest.mark.parametrize(
    ("scenario", "args", "least", "duration_s"),
    [
        ("server", ["--data", "D", "--checkpoint", "C"], 459, 600),
        ("offline", ["--data", "D", "--checkpoint", "C"], 24_576, 600),
        ("server", [], 662, 60),
        ("singlestream", ["--quick"], 64, 6),
        ("multistream", ["--quick", "--data", "D", "--checkpoint", "C"], 662, 6),
        ("offline", ["--quick"], 1, 6),
        ("singlestream", ["--duration", "30", "--data", "D", "--checkpoint", "C"], 64, 30),
        ("singlestream", ["--profile", "paper"], 64, 60),
        ("singlestream", ["--profile", "paper", "--data", "D", "--checkpoint", "C"], 1024, 60),
    ],
)
def test_a_test_is_as_long_as_the_profile_requires_or_the_run_is_a_rehearsal(scenario, args, least, duration_s):
    request = parsed(*args)
    settings = request.settings(scenario, "performance", num_samples=355, bound_s=0.1)
    assert (settings["min_queries"], settings["min_duration_s"]) == (least, duration_s)
    whole = "--data" in args and "--quick" not in args and "--duration" not in args
    assert request.is_rehearsal is not whole
    assert settings["performance_count"] == 355
    assert settings["target_latency_s"] == (0.1 if scenario == "server" else None)


CONTRADICTIONS = [
    (["--scenario", "server", "--profile", "airank-2021-05"], "--scenario: must be one of offline, online, latency"),
    (["--scenario", "multistream", "--profile", "paper"], "--scenario: must be one of offline, server, singlestream"),
    (["--scenario", "offline", "--find-qps"], "--find-qps: must be with --scenario server, got offline"),
    (["--scenario", "offline", "--qps", "5"], "--qps: must be with --scenario server, got offline"),
    (["--find-qps", "--qps", "5"], "--qps: must be left out with --find-qps, got 5.0"),
    (["--precision", "int8"], "--backend: must be onnxruntime with --precision int8, got torch"),
    (
        ["--backend", "onnxruntime", "--precision", "bf16"],
        "--precision: must be fp32 or int8 with --backend onnxruntime",
    ),
    (["--compliance", "--profile", "airank-2021-05"], "--compliance: must be left out"),
    (["--threads", "0"], "--threads: must be at least 1, got 0"),
    (["--max-batch", "0"], "--max-batch: must be at least 1, got 0"),
    (["--duration", "0"], "--duration: must be a number above 0, got 0.0"),
    (["--target-latency", "nan"], "--target-latency: must be a number above 0, got nan"),
    (["--quick", "--duration", "5"], "--duration: must be left out with --quick, got 5.0"),
    (["--data", "D"], "--checkpoint: must be given with --data, got none"),
    (["--checkpoint", "no/such"], "--checkpoint: must be the directory of a training run, one of its checkpoints"),
]


@pytest.mark.parametrize(("args", "line"), CONTRADICTIONS)
def test_a_contradiction_is_one_line(args, line):
    done = run(infer, "resnet50", *args)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_unknown_task_is_one_line():
    done = run(infer, "resnet51")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: TASK: must be one of ")
    assert done.stderr.endswith("got resnet51\n")


def test_a_task_without_a_bound_needs_one_for_server():
    done = run(infer, "tsm", "--data", "D", "--checkpoint", "C", "--scenario", "server")
    assert done.stderr.startswith("error: --target-latency: must be given: --profile v6.1 states no bound of tsm")


def test_help_needs_no_torch():
    done = run_without_torch(infer, "resnet50", "--help")
    assert done.returncode == 0, done.stderr
    assert "--find-qps" in done.stdout
    assert run_without_torch(infer, "--help").returncode == 0


def test_another_version_of_loadgen_is_refused():
    with pytest.raises(UserError, match=r"mlcommons-loadgen: must be version 4\.0 for --profile v4\.0 .*, got 6"):
        requests.check_loadgen(PROFILES["v4.0"], "6.0.17")
    requests.check_loadgen(PROFILES["v6.1"], "6.0.17")
    requests.check_loadgen(PROFILES["paper"], "5.1")
    with pytest.raises(UserError):
        requests.check_loadgen(PROFILES["v6.1"], "6.01")


def test_without_loadgen_our_own_clients_are_offered(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    request = SimpleNamespace(
        scenarios=("server",), is_by_loadgen=lambda name: True, options=SimpleNamespace(backend="torch", export=None)
    )
    with pytest.raises(UserError, match=r"mlcommons-loadgen: must be installed .*airank-2021-05.*, got none"):
        requests.check_installed(request)


def test_an_occupied_output_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "file").write_text("x")
    done = run(infer, "resnet50", "--checkpoint", "C", "--output", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: --output: must be a directory that is absent or empty, got {tmp_path}\n"


# -- weights ---------------------------------------------------------------------------------------------------------


def test_a_runs_weights_are_found_by_its_directory_a_checkpoint_or_a_file(trained):
    (step,) = (trained / "checkpoints").iterdir()
    found = [weights.find(parsed("--checkpoint", path)) for path in (trained, step, step / "model.safetensors")]
    assert len({each.sha256 for each in found}) == 1
    assert all(each.run.samefile(trained) for each in found)
    assert found[0].facts()["trained_here"]
    assert found[0].facts()["run"]["benchmark"] == "resnet50"
    assert found[0].data == found[1].data is not None


def test_the_checkpoint_of_another_task_is_refused(trained):
    with mock.patch.object(requests, "check_installed"):
        request = requests.parse(["tsm", "--checkpoint", str(trained)])
    with pytest.raises(UserError, match=r"--checkpoint: must be a run of tsm, got .*, a run of resnet50"):
        weights.find(request)


def test_a_run_with_a_broken_log_is_named_where_it_is_requested_and_passed_over_where_not(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "summary.json").write_text('{"status": "success"}')
    (run / "events.jsonl").write_text("no event\n{}\n")
    with pytest.raises(UserError, match=r"events\.jsonl: line 1 must be an event, got b'no event"):
        weights.find(parsed("--checkpoint", run))
    assert weights.newest_run(tmp_path, parsed()) is None
    assert "left out (" in capsys.readouterr().err
    (run / "events.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"must be a run whose events\.jsonl states what was trained, got no such event"
    ):
        weights.find(parsed("--checkpoint", run))


def test_the_closed_division_takes_published_weights_alone():
    closed = parsed("--submission.division", "closed")
    with pytest.raises(UserError, match=r"--submission\.division closed: must have the weights that MLPerf publishes"):
        closed.check_weights("ab" * 32)
    closed.check_weights("19c8e357" + "0" * 56)
    parsed().check_weights("ab" * 32)


def test_the_newest_finished_run_on_embedded_data_is_taken(tmp_path):
    def make(name, at, status="success", benchmark="resnet50", data=None):
        run = tmp_path / name
        (run / "checkpoints" / "step-00000001").mkdir(parents=True)
        (run / "recipe.json").write_text("{}")
        config = {"t": 1.0, "kind": "run_config", "benchmark": benchmark, "options": {"data": data}}
        (run / "events.jsonl").write_text(json.dumps(config) + "\n")
        (run / "summary.json").write_text(json.dumps({"status": status}))
        os.utime(run / "summary.json", (at, at))
        return run

    old, new = make("old", 1), make("new", 2)
    make("aborted", 3, status="aborted")
    make("other", 4, benchmark="tsm")
    make("own data", 5, data="/data")
    shutil.rmtree(make("without weights", 6) / "checkpoints")
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "summary.json").write_text("{}")
    assert weights.newest_run(tmp_path, parsed()) == new
    shutil.rmtree(new)
    assert weights.newest_run(tmp_path, parsed()) == old
    shutil.rmtree(old)
    assert weights.newest_run(tmp_path, parsed()) is None


def test_a_training_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "train_command", lambda request, output: [sys.executable, "-c", "exit(1)"])
    with pytest.raises(UserError, match="--checkpoint: must be given, as the training of resnet50 did not reach"):
        weights.find(parsed())
    assert "training it first" in capsys.readouterr().out


# -- how a run ends --------------------------------------------------------------------------------------------------


class PlayedSamples:
    facts = {"source": "played", "checksum": "0", "eval_samples": 2}  # noqa: RUF012

    def __init__(self, job):
        self.job = job

    def __len__(self):
        return 2

    def close(self):
        pass


def ended(tmp_path, monkeypatch, outcome):
    """Run the command with everything played but the log; `outcome` is what happens in the tests."""
    from airank_fast.recipes.resnet50 import Job

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    monkeypatch.setattr(requests, "check_installed", lambda request: None)
    monkeypatch.setattr(session, "load_job", lambda *args: (SimpleNamespace(benchmark="resnet50", task=Job.task), {}))
    monkeypatch.setattr(session, "Samples", PlayedSamples)
    monkeypatch.setattr(session, "torch_reference", lambda *args: Reference({}, {"top1": 1.0}))
    monkeypatch.setattr(session, "count_flops", lambda *args: 5)
    monkeypatch.setattr(session.Scenarios, "run", outcome)
    output = tmp_path / "out"
    done = run(infer, "resnet50", "--checkpoint", file, "--output", output)
    return done, read_events(output / "events.jsonl")


def raising(error):
    def outcome(self):
        raise error

    return outcome


@pytest.mark.parametrize(
    ("error", "status", "reason", "line"),
    [
        (NotAccurate("offline: must be better", ["sample 0: predicted 3, is 8"]), 1, "accuracy", "must be better"),
        (WorkerFailed("worker_lost", "server, performance: ended by SIGSEGV"), 1, "worker_lost", "SIGSEGV"),
        (UserError("--data: must be there, got none"), 2, "bad_data", "error: --data: must be there, got none"),
        (OSError(errno.ENOSPC, "No space left on device", "out/f"), 2, "disk_full", "error: out/f: must have room"),
    ],
)
def test_what_ends_a_run_is_one_line_and_a_closed_log(error, status, reason, line, tmp_path, monkeypatch):
    done, events = ended(tmp_path, monkeypatch, raising(error))
    assert done.returncode == status
    last = done.stderr.strip().splitlines()[-1]
    assert line in last
    assert last.startswith("error: ")
    assert [event["kind"] for event in events[-2:]] == ["run_stop", "process_stop"]
    assert (events[-2]["status"], events[-2]["reason"]) == ("aborted", reason)
    if reason == "accuracy":
        assert "sample 0: predicted 3, is 8" in done.stderr


def test_a_defect_keeps_its_traceback_and_closes_the_log(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        ended(tmp_path, monkeypatch, raising(ZeroDivisionError("x")))
    events = read_events(tmp_path / "out" / "events.jsonl")
    assert [event["kind"] for event in events[-2:]] == ["run_stop", "process_stop"]
    assert events[-2]["reason"] == "exception"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_closes_the_log(number, status, tmp_path, monkeypatch):
    def outcome(self):
        os.kill(os.getpid(), number)
        while not self.should_stop():
            pass
        raise Terminated

    done, events = ended(tmp_path, monkeypatch, outcome)
    assert done.returncode == status
    assert events[-2]["reason"] == number.name.lower()
    assert events[-1]["kind"] == "process_stop"


@pytest.mark.parametrize(("not_valid", "status", "reason"), [([], 0, "valid"), (["server: late"], 1, "not_valid")])
def test_the_exit_status_is_the_verdict(not_valid, status, reason, tmp_path, monkeypatch):
    def outcome(self):
        self.not_valid += not_valid

    done, events = ended(tmp_path, monkeypatch, outcome)
    assert done.returncode == status, done.stderr
    assert events[-2]["reason"] == reason
    assert events[-2]["detail"] == " | ".join(not_valid)


@pytest.mark.parametrize("name", ["transformer", "word2vec", "cyclegan", "pix2pix"])
def test_a_task_that_cannot_be_measured_is_refused_before_it_is_trained(name, monkeypatch):
    monkeypatch.setattr(weights, "train", lambda request: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=f"infer: must be a task whose prediction is one pass .*, got {name}"):
        session.run(requests.parse([name, "--quick"]))
