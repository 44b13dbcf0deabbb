"""Events of a task with several metrics, of one where less is better, and of one that no file here describes."""

import json

import pytest
from commands.inprocess import run

from airank_fast import convert, report, tasks
from airank_fast.record.console import final_table
from airank_fast.record.events import effective
from airank_fast.record.foreign.read import read_run
from airank_fast.record.formats import mlperf
from airank_fast.record.formats.airank import AIRankLog
from airank_fast.record.formats.mlperf import MLPerfLog
from airank_fast.record.metrics import reaches, summarize
from airank_fast.record.tensorboard import TensorBoard
from airank_fast.reports import reading

AP = {"box_ap": 0.377, "mask_ap": 0.339}
BOXES = {"benchmark": "mask_rcnn", "target": 0.377, "task": tasks.find("mask_rcnn").facts(AP), "unit": "images"}
NOISE = {
    "name": "denoising",
    "model": "Denoiser",
    "title": {"zh": "去噪", "en": "denoising"},
    "unit": "tokens",
    "counted_in": "steps",
    "metrics": [{"name": "perplexity", "direction": "down", "format": ".3f"}],
    "target": {"perplexity": 12.5},
}
OWN_TASK = {"benchmark": "denoising_small", "target": 12.5, "task": NOISE, "unit": "tokens"}


def evaluations(story, config, *qualities):
    """A run of one epoch before each evaluation, that ends with the last."""
    run = story(**config).begin()
    for epoch, quality in enumerate(qualities, 1):
        run.block(epoch)
        where = {"epoch": epoch, "step": run.step, "samples": run.samples}
        run.emit("eval_start", **where)
        run.pause(0.4)
        run.emit("eval_stop", **where, accuracy=next(iter(quality.values())), quality=quality)
    return run.stop()


def lines(log, run):
    return [line for event in effective(run.events) for line in log.feed(event)] + log.close()


@pytest.fixture(name="boxes")
def boxes_fixture(story):
    qualities = [(0.37, 0.35), (0.38, 0.33), (0.379, 0.340), (0.36, 0.36)]
    return evaluations(story, BOXES, *({"box_ap": box, "mask_ap": mask} for box, mask in qualities))


@pytest.fixture(name="noise")
def noise_fixture(story):
    return evaluations(story, OWN_TASK, *({"perplexity": value} for value in (80.0, 12.5, 13.0)))


def test_a_target_is_reached_by_an_evaluation_that_has_all_of_it(boxes):
    stops = [event for event in boxes.events if event["kind"] == "eval_stop"]
    config = next(event for event in boxes.events if event["kind"] == "run_config")
    assert [reaches(config, stop) for stop in stops] == [False, False, True, False]
    summary, start = summarize(boxes.events), next(e for e in boxes.events if e["kind"] == "run_start")
    assert summary["time2train"] == stops[2]["t"] - start["t"]
    assert (summary["best_accuracy"], summary["quality"]) == (0.38, {"box_ap": 0.36, "mask_ap": 0.36})


def test_airank_has_the_headline_and_the_time_of_the_whole_target(boxes):
    found = lines(AIRankLog(), boxes)
    assert [line.split()[3] for line in found if "eval_acc" in line] == [
        f"eval_accuracy:{value}," for value in (0.37, 0.38, 0.379, 0.36)
    ]
    reached = next(index for index, line in enumerate(found) if "target_quality_time" in line)
    assert "eval_accuracy:0.379," in found[reached - 1]


def test_mlperf_has_an_object_and_reads_it_back(boxes, tmp_path):
    found = lines(MLPerfLog(), boxes)
    values = [json.loads(line.partition(" ")[2])["value"] for line in found if '"eval_accuracy"' in line]
    assert values[2] == {"BBOX": 0.379, "SEGM": 0.340}
    stops = [event for event in mlperf.parse(found) if event["kind"] == "eval_stop"]
    assert [stop["quality"]["mask_ap"] for stop in stops] == [0.35, 0.33, 0.34, 0.36]
    assert [stop["accuracy"] for stop in stops] == [0.37, 0.38, 0.379, 0.36]
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(found) + "\n")
    assert read_run(path, {"target": 0.377}).summary["quality"] == {"box_ap": 0.36, "mask_ap": 0.36}
    done = run(convert, path, "--to", "airank", "--incomplete")
    assert "lost: 4 evaluations with several metrics: airank has room for one" in done.stderr.splitlines()


def test_a_report_has_all_metrics(boxes, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in boxes.events))
    assert run(report, path, "--lang", "en", "--output", tmp_path).returncode == 0
    text = (tmp_path / "report.en.md").read_text(encoding="utf-8").replace("\\", "")
    assert "last evaluation: box_ap 36.00%, mask_ap 36.00%" in text


def test_tensorboard_draws_all_metrics_and_losses(boxes, tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path)
    for event in boxes.events:
        if event["kind"] == "steps":
            half = [value / 2 for value in event["loss"]]
            event["losses"] = {"boxes": half, "masks": half}
        board(event)
    board.close()
    drawn = loader.EventAccumulator(str(tmp_path)).Reload()
    assert {"eval/accuracy", "eval/box_ap", "eval/mask_ap", "train/loss/masks"} <= set(drawn.Tags()["scalars"])
    assert [round(point.value, 3) for point in drawn.Scalars("eval/mask_ap")] == [0.35, 0.33, 0.34, 0.36]


def test_less_may_be_better_in_a_task_that_nobody_here_knows(noise, tmp_path):
    summary = summarize(noise.events)
    assert (summary["best_accuracy"], summary["final_accuracy"]) == (12.5, 13.0)
    stops = [event["t"] for event in noise.events if event["kind"] == "eval_stop"]
    start = next(event["t"] for event in noise.events if event["kind"] == "run_start")
    assert summary["time2train"] == stops[1] - start
    table = final_table(summary)
    assert "target 12.500" in table
    assert "last 13.000" in table
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in noise.events))
    report = reading.read(path)
    assert list(report.evaluations.y) == [80.0, 12.5, 13.0]


def test_throughput_counts_tokens_where_the_task_does(noise):
    samples = summarize(noise.events)["p_whole"]
    for event in noise.events:
        if event["kind"] == "block_stop":
            event["units"] = [30 * event["samples"]]
    summary = summarize(noise.events)
    assert (summary["units_per_sample"], summary["trained_samples"]) == (30, noise.samples)
    assert summary["p_whole"] == pytest.approx(30 * samples)
    assert f"{summary['trained_samples']} samples" in final_table(summary)
    assert lines(AIRankLog(), noise)[-1].endswith("tokens/sec")
