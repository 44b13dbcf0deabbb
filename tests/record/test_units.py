"""Logs in other units than ours: accuracies in per cent, epochs in place of samples, counts as floats."""

import json
from pathlib import Path

import pytest

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.events import to_line
from airank_fast.record.foreign.read import read_run
from airank_fast.record.settings import parse_settings
from airank_fast.tasks import Metric, fraction

CASES = Path(__file__).parents[1] / "cases"


def accuracies(run):
    return [event["accuracy"] for event in run.events if event["kind"] == "eval_stop"]


def warnings(run):
    return [event["message"] for event in run.events if event["kind"] == "warning"]


@pytest.mark.parametrize("given", [{}, {"benchmark": "tsm"}, {"benchmark": "tsm", "target": 0.711}])
def test_accuracies_in_per_cent_become_fractions_with_a_warning(given):
    run = read_run(CASES / "percent" / "GPUx8.log", given)
    assert accuracies(run) == [0.3125, 0.584, 0.761]
    assert run.summary["best_accuracy"] == 0.761
    assert run.summary["time2train"] == (3000 if "target" in given else None)
    assert len(warnings(run)) == 1
    assert "per cent" in warnings(run)[0]


def test_a_target_in_per_cent_too():
    run = read_run(CASES / "percent" / "GPUx8.log", {"benchmark": "tsm", "target": 71.1})
    assert (run.summary["target"], run.summary["time2train"]) == (0.711, 3000)
    assert len(warnings(run)) == 2


def airank(path, *values):
    lines = [
        f"AI-Rank-log {1000 + n}.000 eval_accuracy:{value}, total_epoch_cnt:{n}" for n, value in enumerate(values, 1)
    ]
    path.write_text("\n".join(["AI-Rank-log 1000.000 test_begin", *lines, "AI-Rank-log 2000.000 test_finish"]) + "\n")
    return path


def test_one_above_1_puts_all_of_a_log_in_per_cent(tmp_path):
    assert accuracies(read_run(airank(tmp_path / "log", 0.1, 0.9, 5.5))) == [0.001, 0.009, 0.055]
    assert accuracies(read_run(airank(tmp_path / "log", 0.1, 1.0, "nan")))[:2] == [0.1, 1.0]


def test_what_no_unit_explains_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"top1: must be from 0 to 1, or to 100 in per cent, got 7610"):
        read_run(airank(tmp_path / "log", 0.5, 7610), {"benchmark": "tsm"})
    with pytest.raises(UserError, match=r"bleu: must be at most 100, got 250"):
        read_run(airank(tmp_path / "log", 250), {"benchmark": "transformer"})


@pytest.mark.parametrize("benchmark", ["transformer", "pix2pix", "log_perplexity"])
def test_metrics_that_may_be_above_1_are_read_as_they_are(tmp_path, benchmark):
    run = read_run(airank(tmp_path / "log", 27.5, 0.9), {"benchmark": benchmark})
    assert (accuracies(run), warnings(run)) == ([27.5, 0.9], [])


def test_our_own_events_are_in_the_unit_of_their_metric(tmp_path):
    def read(accuracy, **config):
        events = [
            {"t": 1.0, "kind": "run_config", **config},
            {"t": 2.0, "kind": "run_start"},
            {"t": 3.0, "kind": "eval_stop", "epoch": 1, "step": 1, "samples": 1, "accuracy": accuracy},
        ]
        (tmp_path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in events))
        return accuracies(read_run(tmp_path))

    with pytest.raises(UserError, match="accuracy must be from 0 to 1, got 51"):
        read(51.0, benchmark="resnet50")
    assert read(0.51, benchmark="resnet50") == [0.51]
    assert read(51.0, benchmark="transformer") == [51.0]
    points = tasks.Task(name="points", model="Points", title={}, metrics=(Metric("points", ".1f", maximum=60.0),))
    assert read(51.0, benchmark="points", task=points.facts()) == [51.0]


@pytest.mark.parametrize("per_cent", [76.1, 75.9, 71.2, 58.4, 31.25, 100.0, 0.07])
def test_a_fraction_is_the_number_one_would_write(per_cent):
    assert str(fraction(per_cent)) == f"{per_cent / 100:.10f}".rstrip("0").replace("1.", "1.0")


def bert(path, points, batch=448, train_samples=2_400_000, accuracy=0.721):
    def line(time_ms, key, value=None, **metadata):
        fields = {"namespace": "", "time_ms": time_ms, "event_type": "POINT_IN_TIME", "key": key, "value": value}
        return ":::MLLOG " + json.dumps(fields | {"metadata": metadata})

    evaluations = [
        line(1_600_000_010_000 + n, "eval_accuracy", accuracy if n + 1 == len(points) else 0.5, epoch_num=point)
        for n, point in enumerate(points)
    ]
    lines = [
        line(1_600_000_000_000, "submission_benchmark", "bert"),
        line(1_600_000_000_000, "global_batch_size", batch),
        line(1_600_000_000_000, "run_start"),
        line(1_600_000_000_000, "block_start", first_epoch_num=1, epoch_count=1),
        *evaluations,
        line(1_600_000_600_000, "run_stop", status="success"),
        *([line(1_600_000_600_001, "train_samples", train_samples)] if train_samples else []),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def samples_of(run):
    return [event.get("samples") for event in run.events if event["kind"] == "eval_stop"]


def test_bert_logs_that_count_epochs(tmp_path):
    run = read_run(bert(tmp_path / "log", [1, 1, 2]))
    assert samples_of(run) == [None, None, 2_400_000]
    assert "epoch_num counts epochs" in warnings(run)[0]
    assert run.summary["trained_samples"] != 2


def test_without_the_samples_trained_evaluations_have_none(tmp_path):
    for train_samples in (None, 156_725_653, 100):
        run = read_run(bert(tmp_path / "log", [1, 1], train_samples=train_samples))
        assert samples_of(run) == [None, None]
        assert "the samples trained are not in the log" in warnings(run)[0]


def test_bert_logs_that_count_samples_are_read_as_before(tmp_path):
    run = read_run(bert(tmp_path / "log", [1_200_000, 2_400_000]))
    assert (samples_of(run), warnings(run)) == ([1_200_000, 2_400_000], [])
    run = read_run(bert(tmp_path / "log", [0]))  # one evaluation, before training
    assert (samples_of(run), warnings(run)) == ([0], [])
    run = read_run(bert(tmp_path / "log", [448], batch=448))
    assert (samples_of(run), warnings(run)) == ([448], [])


def test_whole_counts_may_be_written_as_floats(tmp_path):
    run = read_run(bert(tmp_path / "log", [1_200_000], batch=448.0, train_samples=3001600.0))
    config = run.first("run_config")
    assert [(config[name], type(config[name])) for name in ("global_batch_size", "train_samples")] == [
        (448, int),
        (3001600, int),
    ]
    assert parse_settings(["samples_per_epoch=1281167.0"]) == {"samples_per_epoch": 1281167}
    with pytest.raises(UserError, match=r"train_samples: must be a whole number above 0, got 3001600\.5"):
        read_run(bert(tmp_path / "log", [1_200_000], train_samples=3001600.5))
