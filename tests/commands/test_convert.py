"""python -m airank_fast.convert: any format to any other; missing facts are required, never guessed."""

import json
import subprocess
import sys

import pytest
from commands.inprocess import run, run_without_torch
from record.conftest import SGD, tell
from rules.mlperf_runs import write as write_mlperf

from airank_fast import convert as command
from airank_fast.record.events import read_events, to_line
from airank_fast.record.foreign.read import read_run
from airank_fast.record.formats import airank, dllogger, mlperf, perflog

DLL = """\
DLL 2021-03-23 09:24:42.127408 - PARAMETER arch : resnet50  batch_size : 256  amp : True  world_size : 8
DLL 2021-03-23 09:25:16.500000 - Epoch: 0 Iteration: 100  train.loss : 7.65124  train.total_ips : 848.12 img/s
DLL 2021-03-23 09:49:52.071000 - Epoch: 0 Iteration: 5005 Validation Iteration: 100  val.top1 : 76.50 %
DLL 2021-03-23 09:50:02.127408 - Epoch: 0  train.loss : 6.55774  val.top1 : 75.50 %
DLL 2021-03-23 10:15:02.127408 - Epoch: 1  train.loss : 6.2  val.top1 : 75.97 %
Experiment ended
DLL 2021-03-23 10:15:03.127408 - Summary: val.top1 : 75.97 %
"""
AIRANK = ["--set", "target=0.759", "--set", "samples_per_epoch=1281167"]
MLPERF = [
    "submission_org=X",
    "submission_platform=Y",
    "submission_division=closed",
    "submission_status=onprem",
    "seed=1",
    "cache_clear=true",
    "init_s=8",
    "eval_s=5.5",
    "target=0.759",
    "train_samples=1281167",
    "eval_samples=50000",
    *(f"{name}={value}" for name, value in SGD.items()),
]


def convert(*arguments):
    return run(command, *arguments)


@pytest.fixture(name="dll")
def dll_fixture(tmp_path):
    path = tmp_path / "dll.log"
    path.write_text(DLL)
    return path


def test_dllogger_to_airank(dll):
    done = convert(dll, "--to", "airank", *AIRANK)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "- AI-Rank-log 1616491482.127 test_begin",
        "- AI-Rank-log 1616493002.127 eval_accuracy:0.755, total_epoch_cnt:1",
        "- AI-Rank-log 1616494502.127 eval_accuracy:0.7597, total_epoch_cnt:2",
        "- AI-Rank-log 1616494502.127 target_quality_time:3020.000sec",
        "- AI-Rank-log 1616494503.127 test_finish",
        "- AI-Rank-log 1616494503.127 total_use_time:3021.000sec",
        f"- AI-Rank-log 1616494503.127 avg_ips:{2 * 1281167 / 3021:.3f}images/sec",
    ]
    assert done.stderr.splitlines() == [
        "note: run_start is the first record: what came before it is not in the log",
        "note: times without a zone are taken as UTC (--time-zone)",
        "note: the running accuracy of an unfinished evaluation reaches the target at 1509.944 s; that does not count, "
        "the first whole evaluation to reach it is at 3020.000 s",
        "lost: 1 lines of other output, first in line 6",
        "lost: 5 events reading: airank has no line for them",
    ]


def test_it_runs_without_torch_in_a_plain_locale(dll):
    done = run_without_torch(command, dll, "--to", "airank", *AIRANK)
    assert (done.returncode, done.stdout) == (0, convert(dll, "--to", "airank", *AIRANK).stdout)


def test_missing_facts_are_required_by_name(dll):
    done = convert(dll, "--to", "airank")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: --to airank: must have --set target=, --set samples_per_epoch= or --incomplete, got none of them\n"
    )
    done = convert(dll, "--to", "airank", "--incomplete")
    assert done.returncode == 0
    assert "target_quality_time" not in done.stdout
    assert "note: samples_per_epoch: not in the log, left out" in done.stderr
    assert convert(dll, "--to", "airank", "--set", "target=none", "--set", "samples_per_epoch=9").returncode == 0


def test_a_complete_mlperf_log_passes_the_official_checker(dll, tmp_path):
    settings = [part for setting in MLPERF for part in ("--set", setting)]
    output = tmp_path / "result_0.txt"
    assert convert(dll, "--to", "mlperf", *settings, "--output", output).returncode == 0
    checker = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "4.0.0"]
    done = subprocess.run([*checker, "--log_output", tmp_path / "check.log", output], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_run(output).summary["total_time"] == pytest.approx(3021)
    error = convert(dll, "--to", "mlperf").stderr
    assert all(f"--set {setting.partition('=')[0]}=" in error for setting in MLPERF)


def test_flagperfs_figures(dll, tmp_path):
    settings = [
        *AIRANK,
        "--set",
        "init_s=9",
        "--set",
        "eval_s=10",
        "--set",
        "number_of_nodes=1",
        "--set",
        "accelerator_name=V100",
    ]
    run = json.loads(convert(dll, "--to", "flagperf", *settings).stdout)
    samples = 2 * 1281167
    assert run["e2e_time"] == pytest.approx(3030)
    assert (run["p_whole"], run["p_train"]) == pytest.approx((samples / 3021, samples / 3001))
    assert (run["p_core"], run["acc"], run["config"], run["precision"]) == (None, 0.7597, "1x8", "amp")
    assert convert(dll, "--to", "flagperf", *settings, "--output", tmp_path / "table.md").returncode == 0
    row = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[2]
    assert row == "| V100单机8卡（1x8） | amp | bs=256 | 3030 | 848.2 | 853.8 |  | 76.0% |  |"


def test_perflogs_own_figures_are_taken_where_its_events_give_none(tmp_path):
    path = tmp_path / "rank0.out.log"
    finished = {
        "e2e_time": 62.0,
        "train_time": 50.0,
        "throughput(ips)_raw": 10.0,
        "throughput(ips)_no_eval": 12.0,
        "throughput(ips)_pure_compute": 13.0,
        "converged": True,
        "final_acc1": 75.95,
    }
    lines = [("TRAIN_START", None, 1000), ("TRAIN_END", None, 51_000), ("FINISHED", finished, 52_000)]
    path.write_text(
        "".join(
            "[PerfLog] " + json.dumps({"event": name, "value": value, "metadata": {"time_ms": t, "rank": 0}}) + "\n"
            for name, value, t in lines
        )
    )
    settings = [
        f"--set={name}" for name in ("precision=fp16", "world_size=1", "benchmark=resnet50", "global_batch_size=64")
    ]
    run = json.loads(convert(path, "--to", "flagperf", *settings).stdout)
    figures = {name: run[name] for name in ("e2e_time", "p_whole", "p_train", "p_core", "acc", "status")}
    assert figures == {
        "e2e_time": 62.0,
        "p_whole": 10.0,
        "p_train": 12.0,
        "p_core": 13.0,
        "acc": 0.7595,
        "status": "success",
    }


PARSERS = {"airank": airank.parse, "mlperf": mlperf.parse, "dllogger": dllogger.parse, "perflog": perflog.parse}


@pytest.mark.parametrize("to", [*PARSERS, "events"])
@pytest.mark.parametrize("source", [*PARSERS, "events"])
def test_from_any_to_any(tmp_path, source, to):
    """The evaluations come through every pair of formats, to the millisecond."""
    events = tell("target", reported=SGD).events
    facts = ["global_batch_size=64", "gradient_accumulation_steps=1", "benchmark=resnet50", "unit=images"]
    settings = [f"--set={name}" for name in (*MLPERF, *facts, "samples_per_epoch=1000")]
    first = tmp_path / "events.jsonl"
    first.write_text("".join(to_line(event) + "\n" for event in events))
    log, output = tmp_path / "first.log", tmp_path / "second.log"
    assert convert(first, "--to", source, "--output", log, "--incomplete").returncode == 0
    done = convert(log, "--to", to, "--output", output, *settings)
    assert done.returncode == 0, done.stderr
    read = read_events(output) if to == "events" else list(PARSERS[to](output.read_text().splitlines()))
    expected = [(round(e["t"], 3), e["accuracy"]) for e in events if e["kind"] == "eval_stop"]
    assert [(pytest.approx(e["t"], abs=0.0011), e["accuracy"]) for e in read if e["kind"] == "eval_stop"] == expected
    assert [event["kind"] for event in read].count("run_stop") == 1


def test_keys_that_are_lost_are_named(tmp_path):
    path = write_mlperf(tmp_path / "result_0.txt", "resnet50")
    line = path.read_text().splitlines()[-1]
    path.write_text(path.read_text() + line.replace('"run_stop"', '"throughput"') + "\n")
    done = convert(path, "--to", "airank", *AIRANK)
    assert done.returncode == 0
    assert "lost: 1 lines of :::MLLOG that give no event (throughput), first in line" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.log", "--to", "airank"], "none.log: must be a run directory with events.jsonl or a log file"),
        (["{dll}", "--to", "events", "--source", "mlperf"], "a log of format mlperf, got dllogger"),
        (["{dll}", "--to", "events", "--output", "{dll}"], "--output: must be another file than the log"),
        (["{dll}", "--to", "events", "--output", "none/x"], "--output: must be a file that can be written"),
        (["{dll}", "--to", "events", "--time-zone", "None/At all"], "--time-zone: must be +HH:MM, -HH:MM or the name"),
        (["{dll}", "--to", "events", "--time-zone", "+25:00"], "--time-zone: must be +HH:MM, -HH:MM or the name"),
        (["{dll}", "--to", "events", "--set", "x=1"], "--set: must be NAME=VALUE with a NAME of"),
    ],
)
def test_bad_input_is_one_line(dll, arguments, message):
    done = convert(*[str(argument).format(dll=dll) for argument in arguments])
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert dll.read_text() == DLL


def test_a_torn_log_is_read_as_far_as_it_goes(dll):
    dll.write_bytes(b"\xff\x00\x01 binary\n" + DLL.encode()[:-30])
    done = convert(dll, "--to", "airank", *AIRANK)
    assert done.returncode == 0
    assert "test_finish" in done.stdout
