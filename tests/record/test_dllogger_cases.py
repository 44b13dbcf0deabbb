"""DLLogger logs as NVIDIA's scripts leave them: what they say is taken, what they do not say is absent and named."""

import json
import zoneinfo
from pathlib import Path

import pytest
from commands.inprocess import run

from airank_fast import convert, score
from airank_fast.errors import UserError
from airank_fast.record.foreign.read import read_run
from airank_fast.record.formats.dllogger import parse
from airank_fast.reports import plots, reading
from airank_fast.reports.groups import grouped
from airank_fast.reports.texts import Texts

CASES = Path(__file__).parents[1] / "cases/dllogger"


def accuracies(path):
    return [event["accuracy"] for event in read_run(path).events if event["kind"] == "eval_stop"]


def to_airank(name, *settings):
    """(lines without their times, notes and losses)"""
    words = [word for setting in settings for word in ("--set", setting)]
    done = run(convert, CASES / name, "--to", "airank", "--incomplete", *words)
    assert done.returncode == 0, done.stderr
    return [line.split(" ", 3)[3] for line in done.stdout.splitlines()], done.stderr.splitlines()


def test_bert_has_neither_epochs_nor_evaluations():
    lines, notes = to_airank("bert.log")
    assert lines == ["test_begin", "test_finish", "total_use_time:241.000sec", "avg_ips:136.500samples/sec"]
    assert {"note: avg_ips: as the log states it", "note: accuracy: left out, the log has no evaluation"} <= set(notes)
    found = read_run(CASES / "bert.log")
    assert found.first("run_config")["seed"] == 42
    assert [found.summary[name] for name in ("avg_ips", "p_whole", "final_accuracy", "steps", "epochs")] == [None] * 5
    report = reading.read(CASES / "bert.log")
    assert report.figure("avg_ips", "avg_ips") == (136.5, True)
    assert {"samples", "evaluations"} <= set(report.missing)
    assert read_run(CASES / "bert.log", {"target": 0.72}).summary["status"] is None  # not missed: nobody evaluated


def test_mxnet_has_an_accuracy_of_its_own_and_the_size_of_its_data():
    lines, _ = to_airank("mxnet.log", "target=0.759", "unit=images")
    assert lines[1:3] == ["eval_accuracy:0.3012, total_epoch_cnt:1", "eval_accuracy:0.6012, total_epoch_cnt:2"]
    assert accuracies(CASES / "mxnet.log") == [0.3012, 0.6012, 0.7612]
    assert read_run(CASES / "mxnet.log").summary["trained_samples"] == 3 * 1_281_167
    assert lines[-1] == f"avg_ips:{3 * 1_281_167 / 3619.599:.3f}images/sec"
    assert read_run(CASES / "mxnet.log", {"benchmark": "resnet50"}).summary["benchmark"] == "resnet50"


def test_a_report_calls_no_time_the_evaluations_that_nobody_timed():
    report = reading.read(CASES / "mxnet.log")
    assert (report.seconds, report.summary["evaluation_s"]) == ({}, None)
    picture = next(
        p for p in plots.pictures(grouped([report])[0], "m", {0: "-"}, Texts("en")) if "throughput" in p.name
    )
    assert picture.title == "Throughput (samples/s, evaluations included)"


def test_json_without_a_unit_is_in_per_cent():
    assert accuracies(CASES / "json.log") == [0.3, 0.761]  # the record that sums up states the last one again
    _, notes = to_airank("json.log", "target=0.759", "unit=images")
    assert any("accuracies above 1 are read as per cent" in note for note in notes)
    assert any(note.startswith("note: avg_ips: left out, the log does not state how many samples") for note in notes)


def test_tensorflow_evaluates_at_the_end():
    lines, notes = to_airank("tf.log", "target=0.759")
    assert lines[1:3] == ["eval_accuracy:0.7612, total_epoch_cnt:2", "target_quality_time:1238.913sec"]
    assert lines[-1] == "avg_ips:2880.100images/sec"
    assert "note: avg_ips: as the log states it" in notes
    lines, _ = to_airank("tf.log", "target=0.759", "samples_per_epoch=1281167")
    assert lines[-1] == f"avg_ips:{2 * 1281167 / 1238.91337:.3f}images/sec"


def test_an_accuracy_of_another_name_is_named():
    lost = []
    line = "DLL 2021-01-23 12:00:38.913372 - () eval_acc : 0.7612 top5_accuracy : 0.93 val.top_k_accuracy_5 : 0.9"
    list(parse([line], lost=lambda *what: lost.append(what)))
    assert lost == [(1, "values of eval_acc, which --accuracy-metric makes the accuracy")]


def test_all_evaluations_of_a_resumed_log_count_and_the_pause_is_stated():
    path = CASES / "pytorch_resumed.log"
    assert accuracies(path) == [0.3, 0.6, 0.61, 0.761]
    summary = read_run(path).summary
    assert (summary["num_resumes"], summary["comparable"], summary["evaluations"]) == (1, False, 4)
    lines, notes = to_airank(path.name, "target=0.759", "unit=images", "samples_per_epoch=1000")
    assert [line.partition(",")[0] for line in lines if "eval" in line] == [
        f"eval_accuracy:{value}" for value in (0.3, 0.6, 0.61, 0.761)
    ]
    assert "note: the run was resumed after 165600 s in which its clock went on: it is not comparable" in notes
    assert not reading.read(path).counts
    done = run(score, path, "--rules", "airank", "--set", "benchmark=resnet50", "--set", "world_size=8")
    assert "resumed: the clock went on while the run was down, so it is not comparable" in done.stdout
    assert done.returncode == 1  # no run that counts has reached its target
    assert "avg_ips: absent, the log does not state how many samples were trained" in done.stdout


def test_parameters_that_are_new_are_no_resume():
    lines = [
        "DLL 2021-01-01 00:00:00.000000 - PARAMETER batch_size : 256 ",
        "DLL 2021-01-01 00:00:01.000000 - PARAMETER train_start : True ",
        "DLL 2021-01-01 01:00:00.000000 - Epoch: 0  val.top1 : 30.00 %",
        "DLL 2021-01-01 01:00:00.000000 - PARAMETER checkpoint_step : 100 ",
        "DLL 2021-01-01 02:00:00.000000 - Epoch: 1  val.top1 : 30.00 %",
        "DLL 2021-01-01 02:00:00.000000 - PARAMETER checkpoint_step : 200 ",
    ]
    assert "resume" not in {event["kind"] for event in parse(lines)}
    again = [*lines, *(line.replace("2021-01-01", "2021-01-02") for line in lines)]
    assert [event["kind"] for event in parse(again)].count("resume") == 1


AUTUMN = [
    "DLL 2021-10-31 01:30:00.000000 - PARAMETER arch : resnet50 ",
    "DLL 2021-10-31 02:30:00.000000 - Epoch: 0  val.top1 : 30.00 %",
    "DLL 2021-10-31 02:10:00.000000 - Epoch: 1  val.top1 : 60.00 %",
    "DLL 2021-10-31 03:10:00.000000 - Epoch: 2  val.top1 : 76.00 %",
]


def test_local_time_over_the_end_of_daylight_saving(tmp_path):
    path = tmp_path / "log"
    path.write_text("\n".join(AUTUMN) + "\n")
    with pytest.raises(UserError, match=r"line 3: times must not run back, got 1200 s: .*--time-zone Europe/Berlin"):
        read_run(path)
    assert "times must not run back" in run(score, path, "--set", "benchmark=resnet50").stderr
    assert "times must not run back" in run(convert, path, "--to", "airank", "--incomplete").stderr
    done = run(convert, path, "--to", "events", "--time-zone", "Europe/Berlin", "--output", tmp_path / "events.jsonl")
    assert done.returncode == 0
    times = [event["t"] for event in parse(AUTUMN, zone=zoneinfo.ZoneInfo("Europe/Berlin"))]
    assert times[-1] - times[0] == 2 * 3600 + 2400
    summary = read_run(tmp_path / "events.jsonl", {"target": 0.759}).summary
    assert (summary["time2train"], summary["trained_samples"]) == (2 * 3600 + 2400, None)


def test_the_begin_of_daylight_saving_takes_no_hour():
    lines = ["DLL 2021-03-28 01:30:00 - Epoch: 0  a : 1", "DLL 2021-03-28 03:30:00 - Epoch: 1  a : 1"]
    times = [event["t"] for event in parse(lines, zone=zoneinfo.ZoneInfo("Europe/Berlin"))]
    assert times[-1] - times[0] == 3600


def test_flagperfs_figures_of_the_cases_have_no_0(tmp_path):
    for path in sorted(CASES.glob("*.log")):
        done = run(convert, path, "--to", "flagperf", "--incomplete", "--set", "target=0.759")
        figures = json.loads(done.stdout)
        assert [name for name, value in figures.items() if value == 0 and value is not False] == [], path.name
