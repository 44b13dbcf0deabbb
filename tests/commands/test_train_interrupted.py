"""Runs that are killed, terminated or lose a rank: nothing is lost, and resuming changes no bit."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from commands.forks import Run
from commands.runs import arguments, end_of, here, kinds_of, start, wait_until
from commands.same_run import assert_same_run

from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

BERT = ["bert-tiny", "--sequence-length", "32", "--batch-size", "8", "--warmup-steps", "2"]
FULL_RUN = [*BERT, "--steps", "12", "--eval-every-samples", "32", "--eval-samples", "64", "--eval-batch-size", "8"]
FULL_RUN += ["--target", "0.9", "--learning-rate", "0.01", "--amp", "--checkpoint-steps", "3"]


def bert(output, *more: str) -> list[str]:
    """A run of a second: 12 steps of 8 samples, an evaluation after every 4, out of reach of its target."""
    return [*FULL_RUN, "--output", str(output), *more]


def resnet(tree, output, *more: str) -> list[str]:
    """The same of pictures and batch norms, of which BERT has none: 6 steps of 16 pictures."""
    return arguments(tree, output, "--amp", "--epochs", "1", "--checkpoint-steps", "2", *more)


def uninterrupted_run(output, args) -> Path:
    assert here(args) in (0, 1)
    return output


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out"
    return uninterrupted_run(output, bert(output))


MOMENTS = {
    "before anything is saved": lambda out: "block_start" in kinds_of(out),
    "after a checkpoint": lambda out: kinds_of(out).count("checkpoint") >= 2,
    "while a checkpoint is written": lambda out: (
        kinds_of(out).count("checkpoint") >= 1
        and any(p.name.endswith(".tmp") for p in (out / "checkpoints").glob(".*"))
    ),
    "in an evaluation": lambda out: kinds_of(out).count("eval_start") >= 2,
    "at the last moment": lambda out: "run_stop" in kinds_of(out),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_the_same_run_bit_for_bit(moment, uninterrupted, tmp_path):
    for attempt in range(5):
        output = tmp_path / f"out{attempt}"
        process = Run(bert(output))
        wait_until(lambda: MOMENTS[moment](output), process)  # noqa: B023
        process.kill()
        process.communicate()
        if "process_stop" not in kinds_of(output):  # else it ended before the signal came
            break
    assert here(["bert-tiny", "--resume", "--output", str(output)]) in (0, 1)  # recipe and data are those of the run
    assert_same_run(output, uninterrupted)
    summary = summarize(read_events(output / "events.jsonl"))
    assert not summary["comparable"]
    assert summary["trained_samples"] == 12 * 8
    assert summary["p_core"] >= summary["p_train"] >= summary["p_whole"]


def assert_airank_log_is_closed(output, reason):
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("aborted", reason)
    lines = [line.split(" ", 3)[-1].split(":")[0] for line in (output / "airank.log").read_text().splitlines()]
    assert lines[0] == "test_begin"
    assert lines[-3:] == ["test_finish", "total_use_time", "avg_ips"]


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the process", "its group"])
def test_sigterm_saves_closes_and_resumes(send, tree, tmp_path):
    """torchrun and batch systems send it to the group, and so to the processes that read pictures."""
    reader = ("--reader", "torch", "--workers", "2")
    uninterrupted = uninterrupted_run(tmp_path / "whole", resnet(tree, tmp_path / "whole", *reader))
    output = tmp_path / "out"
    process = Run(resnet(tree, output, *reader))
    wait_until(lambda: "checkpoint" in kinds_of(output), process)
    send(process.pid, signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 143, stderr
    assert_airank_log_is_closed(output, "sigterm")
    assert "Traceback" not in stderr
    assert here(resnet(tree, output, "--reader", "torch", "--workers", "1", "--resume")) in (0, 1)
    assert_same_run(output, uninterrupted)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_ctrl_c_and_a_lost_terminal_save_and_close_as_well(number, status, tmp_path):
    output = tmp_path / "out"
    process = Run([*BERT, "--eval-samples", "20", "--output", str(output)])
    wait_until(lambda: "steps" in kinds_of(output), process)
    os.killpg(process.pid, number)  # as a terminal does
    _, stderr = process.communicate()
    assert process.returncode == status, stderr
    assert "Traceback" not in stderr
    assert_airank_log_is_closed(output, number.name.lower())
    (saved,) = (output / "checkpoints").iterdir()
    steps = [e for e in read_events(output / "events.jsonl") if e["kind"] == "steps"]
    assert saved.name == f"step-{steps[-1]['first_step'] + steps[-1]['num_steps'] - 1:08d}"


def test_a_second_ctrl_c_leaves_without_a_traceback_and_with_the_log_closed(tmp_path):
    """The first comes in the warm-up, which ignores it; that of a larger network takes seconds."""
    output = tmp_path / "out"
    large = ["bert-base", *BERT[1:], "--batch-size", "64", "--sequence-length", "64"]
    process = Run([*large, "--output", str(output)])
    wait_until(lambda: "init_start" in kinds_of(output), process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    signalled_at = time.monotonic()
    _, stderr = process.communicate()
    assert time.monotonic() - signalled_at < 10
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert kinds_of(output)[-3:] == ["memory", "run_stop", "process_stop"]
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "sigint"


def rank_processes(launcher):
    found = {}
    for child in psutil.Process(launcher.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may have ended
            rank = child.environ().get("RANK")
            if rank is not None:
                found.setdefault(int(rank), child)
    return found


def test_a_lost_rank_closes_the_log(tmp_path):
    output = tmp_path / "out"
    launcher = start([*BERT, "--steps", "100000", "--output", str(output)], ranks=2)
    wait_until(lambda: "steps" in kinds_of(output), launcher)
    os.kill(rank_processes(launcher)[1].pid, signal.SIGKILL)
    end_of(launcher)
    assert launcher.returncode != 0
    deadline = time.monotonic() + 120
    while "process_stop" not in kinds_of(output) and time.monotonic() < deadline:
        time.sleep(0.1)
    reason = summarize(read_events(output / "events.jsonl"))["reason"]
    assert reason in ("rank_lost", "sigterm")  # the broken connection or torchrun's signal, which comes first
    assert_airank_log_is_closed(output, reason)


def test_a_finished_run_is_not_resumed(uninterrupted):
    before = (uninterrupted / "events.jsonl").read_bytes()
    process = Run(bert(uninterrupted, "--resume"))
    printed = "".join(process.communicate())
    assert process.returncode in (0, 1)
    assert "finished" in printed
    assert (uninterrupted / "events.jsonl").read_bytes() == before
