"""The train command as a user runs it: the files and figures of a finished run, on one rank and on two."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from commands.forks import train_on_two_ranks
from commands.runs import NUM_CLASSES, NUM_VAL, arguments, here, train
from safetensors.torch import load_file

from airank_fast import train as command
from airank_fast.engine.precision import amp_choice
from airank_fast.recipes import resnet50
from airank_fast.record.events import effective, read_events
from airank_fast.record.logs import write_logs
from airank_fast.record.metrics import summarize


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory):
    """A run of three epochs that misses its target."""
    output = tmp_path_factory.mktemp("run") / "out"
    return output, train(arguments(tree, output, "--amp", "--tensorboard"))


def losses(output):
    """Mean loss of each global batch, in order."""
    events = effective(read_events(output / "events.jsonl"))
    whole = [loss for e in events if e["kind"] == "block_stop" for loss in e.get("loss", [])]
    return whole or [loss for e in events if e["kind"] == "steps" for loss in e["loss"]]


def test_a_run_writes_all_its_files(finished):
    output, process = finished
    assert process.returncode in (0, 1), process.stderr
    names = {path.name for path in output.iterdir()}
    assert names >= {
        "events.jsonl",
        "airank.log",
        "mlperf.log",
        "flagperf.json",
        "flagperf.md",
        "summary.json",
        "recipe.json",
        "system_information.json",
        "checkpoints",
        "tensorboard",
    }
    assert not list(output.rglob("*.tmp"))
    amp = amp_choice(torch.device("cpu"))
    assert json.loads((output / "recipe.json").read_text())["precision"] == amp.precision
    assert process.stderr.count(f"precision: {amp.precision} (--amp: ") == 1


def test_the_table_and_the_summary_hold_the_same_figures(finished):
    output, process = finished
    summary = json.loads((output / "summary.json").read_text())
    assert summary == json.loads(json.dumps(summarize(read_events(output / "events.jsonl"))))
    for name in (
        "time2train",
        "e2e_time",
        "p_whole",
        "p_train",
        "p_core",
        "avg_ips",
        "accuracy",
        "memory",
        "data wait",
    ):
        assert name in process.stdout
    assert f"{summary['p_core']:.1f}" in process.stdout
    assert summary["p_core"] >= summary["p_train"] >= summary["p_whole"] > 0
    assert summary["trained_samples"] == 18 * 16


def test_logs_are_functions_of_the_events(finished, tmp_path):
    output, _ = finished
    write_logs(read_events(output / "events.jsonl"), tmp_path)
    for name in ("airank.log", "mlperf.log", "flagperf.json", "flagperf.md", "summary.json"):
        assert (tmp_path / name).read_text() == (output / name).read_text(), name


def test_evaluation_counts_every_picture_once(finished):
    output, _ = finished
    evaluations = [e for e in read_events(output / "events.jsonl") if e["kind"] == "eval_stop"]
    assert [e["counted"] for e in evaluations] == [NUM_CLASSES * NUM_VAL] * 3
    assert all(e["accuracy"] == e["correct"] / e["counted"] for e in evaluations)


def test_the_checkpoint_is_float32_under_torchvisions_names(finished):
    output, _ = finished
    weights = load_file(max((output / "checkpoints").iterdir()) / "model.safetensors")
    assert weights["fc.weight"].shape == (NUM_CLASSES, 2048)
    assert {w.dtype for name, w in weights.items() if not name.endswith("num_batches_tracked")} == {torch.float32}
    assert not torch.equal(weights["conv1.weight"], weights["conv1.weight"].bfloat16().float())


def test_reaching_the_target_stops_the_run(tree, tmp_path):
    output = tmp_path / "out"
    assert here(arguments(tree, output, "--amp", "--target", "0.2", "--stop-at-target")) == 0
    events = read_events(output / "events.jsonl")
    summary = summarize(events)
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["epochs"] < 3
    reached = next(e for e in events if e["kind"] == "eval_stop" and e["accuracy"] >= 0.2)
    started = next(e for e in events if e["kind"] == "run_start")
    assert summary["time2train"] == pytest.approx(reached["t"] - started["t"])
    lines = (output / "airank.log").read_text().splitlines()
    assert f"{reached['t']:.3f} target_quality_time:" in lines[-4]


def test_two_ranks_train_as_one_with_the_same_global_batch(tree, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    # one rank in two micro-batches has the batch norms of two ranks
    more = ["--precision", "fp32", "--learning-rate", "0.002", "--epochs", "1"]
    assert here(arguments(tree, one, *more, "--gradient-accumulation-steps", "2")) in (0, 1)
    process = train_on_two_ranks(arguments(tree, two, *more))
    assert (two / "summary.json").exists(), process.stderr
    summary = json.loads((two / "summary.json").read_text())
    assert (summary["world_size"], summary["trained_samples"]) == (2, 6 * 16)
    counted = [e["counted"] for e in read_events(two / "events.jsonl") if e["kind"] == "eval_stop"]
    assert counted == [NUM_CLASSES * NUM_VAL]
    assert len(losses(one)) == len(losses(two)) == 6
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)  # the order of sums differs
    assert losses(one)[0] != losses(one)[-1]


def test_the_synthetic_reader_leaves_the_data_out(tmp_path, monkeypatch):
    output = tmp_path / "out"
    monkeypatch.setattr(resnet50, "SYNTHETIC_STEPS", 3)
    options = ["--recipe", "digits", "--reader", "synthetic", "--batch-size", "2", "--eval-batch-size", "4"]
    options += ["--epochs", "1", "--eval-every", "1", "--learning-rate", "1e-4", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["train", "resnet50", *options])
    assert command.main() == 0
    data = next(e for e in read_events(output / "events.jsonl") if e["kind"] == "data")
    assert (data["source"], data["train_samples"], data["eval_samples"]) == ("synthetic noise", 6, 4)
    assert len(losses(output)) == 3
    assert all(map(math.isfinite, losses(output)))


def test_a_misspelt_option_is_answered_with_the_likely_one():
    process = train(["resnet50", "--ouput", "x"])
    assert process.returncode == 2
    assert "--output" in process.stderr + process.stdout


def test_help_explains_the_options():
    process = train(["resnet50", "--help"])
    assert process.returncode == 0
    for text in ("--amp", "--data", "--no-stop-at-target", "ImageFolder", "loss scaling", "--resume"):
        assert text in " ".join(process.stdout.replace("│", " ").split()), text
