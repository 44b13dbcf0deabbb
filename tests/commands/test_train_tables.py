"""Wide&Deep and DeepFM from the command line: interrupted runs, two ranks, bad input."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest
from commands.forks import Run, train_on_two_ranks
from commands.runs import here, kinds_of, wait_until
from commands.same_run import accuracies, assert_same_run, losses
from sources import criteo_text

from airank_fast.cli import run_command
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize
from airank_fast.sources import criteo
from airank_fast.train import main

COMMANDS = ["wide_deep", "deepfm"]
CLICK_LOGS = "deepfm, click logs"
RUNS = ["wide_deep", CLICK_LOGS]
NUM_TRAIN, NUM_HELD_OUT = 32_561, 16_281


def arguments(command, output, *more: str) -> list[str]:
    """A run of a second: 2 epochs of 32 steps, out of reach of its target."""
    options = ["--batch-size", "1024", "--epochs", "2", "--target", "0.99", "--hidden", "16-8"]
    if command == CLICK_LOGS:
        options += ["--batch-size", "120", "--table-rows", "3000", "--data", str(click_logs(output.parent / "data"))]
    return [command.partition(",")[0], *options, "--output", str(output), *more]


def click_logs(root) -> Path:
    """4,000 rows in 5 shards, of which 3,840 train."""
    text = root.with_suffix(".txt")
    if not text.exists():
        text.write_bytes(criteo_text.text(4000))
        criteo.prepare([text], root, shard_rows=900, partial_set=True, skip_corrupt=False)
    return root


@pytest.mark.parametrize("command", RUNS)
def test_killed_and_resumed_is_the_same_run_bit_for_bit(command, tmp_path):
    whole, more = tmp_path / "whole", ["--epochs", "10"]  # most of the run is after the signal
    assert here(arguments(command, whole, *more)) == 1
    for attempt in range(5):
        output = tmp_path / f"out{attempt}"
        process = Run(arguments(command, output, *more, "--checkpoint-steps", "3"))
        wait_until(lambda: kinds_of(output).count("checkpoint") >= 2, process)  # noqa: B023
        process.kill()
        process.communicate()
        if "run_stop" not in kinds_of(output):  # else it ended before the signal came
            break
    assert here([command.partition(",")[0], "--resume", "--output", str(output)]) == 1
    assert "resume" in kinds_of(output)
    assert_same_run(output, whole)


@pytest.mark.parametrize("command", RUNS)
def test_two_ranks_train_as_one_and_evaluate_each_row_once(command, tmp_path):
    options = ["--epochs", "1", "--gradient-accumulation-steps", "2"]
    alone, both = (tmp_path / name for name in "12")
    assert here(arguments(command, alone, *options)) == 1
    process = train_on_two_ranks(arguments(command, both, *options))
    assert process.returncode == 1, process.stderr
    (block,) = [e for e in read_events(both / "events.jsonl") if e["kind"] == "block_stop"]
    assert block["loss"] == pytest.approx(losses(alone), rel=1e-4)
    assert accuracies(both) == pytest.approx(accuracies(alone), abs=1e-4)
    summary = summarize(read_events(both / "events.jsonl"))
    assert summary["trained_samples"] == 32 * (120 if command == CLICK_LOGS else 1024)
    assert summary["p_core"] >= summary["p_train"] >= summary["p_whole"]


def test_an_evaluation_is_of_the_area_under_the_curve_after_each_epoch(tmp_path):
    output = tmp_path / "out"
    assert here(arguments("wide_deep", output, "--eval-batch-size", "1000")) == 1
    events = read_events(output / "events.jsonl")
    evaluations = [e for e in events if e["kind"] == "eval_stop"]
    assert [(e["epoch"], e["step"]) for e in evaluations] == [(1, 32), (2, 64)]
    for evaluation in evaluations:
        assert evaluation["quality"] == {"auc": evaluation["accuracy"]}
        assert 0.8 < evaluation["accuracy"] < 0.99
        assert not {"correct", "counted"} & evaluation.keys()
    (data,) = [e for e in events if e["kind"] == "data"]
    assert (data["train_samples"], data["eval_samples"]) == (NUM_TRAIN, NUM_HELD_OUT)
    assert "UCI Adult" in data["source"]
    (config,) = [e for e in events if e["kind"] == "run_config"]
    assert (config["benchmark"], config["unit"], config["target"]) == ("wide_deep", "samples", 0.99)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data", "/none"],
            "--data: must be a directory that `python -m airank_fast.prepare criteo` made, got /none,",
        ),
        (["--hidden", "64,32"], "--hidden: must be widths of at least 1, as 400-400-400, got '64,32'"),
        (["--hidden", "64-0"], "--hidden: must be widths of at least 1, as 400-400-400, got '64-0'"),
        (["--hidden", ""], "--hidden: must be widths of at least 1, as 400-400-400, got ''"),
        (["--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["--embedding-dim", "0"], "--embedding-dim: must be at least 1, got 0"),
        (["--embedding-std", "-1"], "--embedding-std: must be at least 0, got -1.0"),
        (["--beta2", "1"], "--beta2: must be in [0, 1), got 1.0"),
        (["--epsilon", "0"], "--epsilon: must be above 0, got 0.0"),
        (["--batch-size", "0"], "--batch-size: must be at least 1, got 0"),
        (["--batch-size", "40000"], "batch size: must be at most the 32561 training samples"),
        (["--target", "1.5"], "--target: must be a fraction in (0, 1], got 1.5"),
        (["--target", "top1=0.9"], "--target: must be of auc, got top1"),
        (["--cuda-graphs", "--no-fused"], "--cuda-graphs: must be left out with --no-fused"),
        (["--cuda-graphs", "--sparse"], "--cuda-graphs: must be left out with sparse tables"),
        (["--cuda-graphs", "--device", "cpu"], "--cuda-graphs: must have one CUDA device, got 1 of type cpu"),
    ],
)
def test_bad_options_are_refused_in_one_line(command, options, message, tmp_path, capsys):
    argv = ["train", command, *options, "--output", str(tmp_path / "out")]
    with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit) as stop:
        run_command(main)
    stderr = capsys.readouterr().err
    assert stop.value.code == 2
    assert [line for line in stderr.splitlines() if line.startswith("error: ")] == [
        line for line in stderr.splitlines() if message in line
    ]
    assert f"error: {message}" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cross-buckets", "-1"], "--cross-buckets: must be at least 0, got -1"),
        (["--ftrl-l1", "-1"], "--ftrl-l1: must be at least 0, got -1.0"),
        (["--ftrl-l2", "-1"], "--ftrl-l2: must be at least 0, got -1.0"),
        (["--wide-optimizer", "ftrl", "--ftrl-learning-rate", "0"], "--ftrl-learning-rate: must be above 0, got 0.0"),
        (["--wide-optimizer", "ftrl", "--learning-rate", "0"], "--learning-rate: must be above 0, got 0.0"),
        (["--wide-optimizer", "ftrl", "--no-fused"], "--wide-optimizer: must be adam with --no-fused"),
    ],
)
def test_bad_options_of_the_wide_part(options, message, tmp_path, capsys):
    argv = ["train", "wide_deep", *options, "--output", str(tmp_path / "out")]
    with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit):
        run_command(main)
    assert f"error: {message}" in capsys.readouterr().err


def test_wide_deep_trains_without_crosses(tmp_path):
    output = tmp_path / "out"
    assert here(arguments("wide_deep", output, "--cross-buckets", "0", "--epochs", "1")) == 1
    assert accuracies(output)[0] > 0.8
