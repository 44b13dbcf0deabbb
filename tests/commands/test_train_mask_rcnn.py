"""Mask R-CNN as a user trains it, on data in the form of COCO and on embedded scenes: killed runs, ranks, bad input."""

from __future__ import annotations

import json
import shutil

import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run

from airank_fast.data.images import digit_coco
from airank_fast.data.images.coco import ANNOTATIONS, PICTURES
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A data set of 12 scenes to train on and 3 to evaluate on; tests must not change it."""
    root = tmp_path_factory.mktemp("scenes")
    for side, number in (("train", 12), ("val", 3)):
        digit_coco.write(root, side, number)
    return root


def arguments(data, output, *more: str) -> list[str]:
    """A run of two seconds: 9 steps of 4 scenes, to the end."""
    network = ["--width", "4", "--neck-width", "8", "--box-width", "16", "--mask-width", "8", "--candidates", "40"]
    sizes = ["--proposals", "20", "--region-samples", "16", "--batch-size", "4", "--eval-batch-size", "2"]
    run = ["--steps", "9", "--eval-every", "6", "--warmup-steps", "0", "--decay-steps", "8", "--workers", "1"]
    run += ["--learning-rate", "0.01"]
    aim = ["--target", "box_ap=1.0,mask_ap=1.0", "--no-stop-at-target", "--examples"]
    recipe = ["mask_rcnn", "--recipe", "digit_scenes", "--data", str(data), "--output", str(output)]
    return [*recipe, *network, *sizes, *run, *aim, *more]


@pytest.fixture(scope="module")
def uninterrupted(scenes, tmp_path_factory):
    output = tmp_path_factory.mktemp("mask_rcnn") / "out"
    assert here(arguments(scenes, output, "--checkpoint-steps", "4")) in (0, 1)
    return output


def test_a_run_learns_and_reports_its_metrics(uninterrupted):
    found = events_of(uninterrupted, "eval_stop")
    assert len(found) == 2
    assert all({"box_ap", "mask_ap", "box_ap50", "mask_ap75"} <= event["quality"].keys() for event in found)
    assert sum(losses(uninterrupted)[-3:]) < 0.9 * sum(losses(uninterrupted)[:3])
    (data,) = events_of(uninterrupted, "data")
    assert (data["train_samples"], data["eval_samples"]) == (12, 3)


def test_killed_and_resumed_is_the_same_run_bit_for_bit(scenes, uninterrupted, tmp_path):
    output = tmp_path / "out"
    kill_and_resume(arguments(scenes, output, "--checkpoint-steps", "4"), output, "checkpoint")
    assert_same_run(output, uninterrupted)


def test_two_ranks_learn_what_one_does(scenes, tmp_path):
    """In the first step, whose means are over as many anchors and regions on each rank."""
    more = ("--steps", "2", "--eval-every", "2", "--learning-rate", "1e-4")
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(scenes, alone, *more)) in (0, 1)
    process = train_on_two_ranks(arguments(scenes, both, *more))
    assert process.returncode in (0, 1), process.stderr
    assert len(losses(both)) == 2
    assert losses(both) == pytest.approx(losses(alone), rel=0.05)


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "目标检测", tmp_path, errors=["mlperf.cache_clear", "mlperf.status"])
    lines = (uninterrupted / "mlperf.log").read_text().splitlines()
    values = [json.loads(line.split(" ", 1)[1]) for line in lines if '"eval_accuracy"' in line]
    assert all({"BBOX", "SEGM"} <= each["value"].keys() for each in values)


@pytest.fixture
def broken(scenes, tmp_path):
    """A copy of the scenes to damage."""
    return shutil.copytree(scenes, tmp_path / "scenes")


def test_a_bad_annotation_is_named_and_the_log_is_closed(broken, tmp_path, capsys):
    path = broken / ANNOTATIONS["train"]
    content = json.loads(path.read_text())
    content["annotations"][3]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    output = tmp_path / "out"
    refused(arguments(broken, output), capsys, "instances_train2017.json, annotation 4: must be a box", "with an area")
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()


def test_skip_corrupt_counts_and_reports_pictures(broken, tmp_path, capsys):
    name = sorted(path.name for path in (broken / PICTURES["train"]).iterdir())[5]
    (broken / PICTURES["train"] / name).write_bytes(b"no picture")
    args = arguments(broken, tmp_path / "out", "--skip-corrupt", "--steps", "1", "--decay-steps", "1")
    assert here(args) in (0, 1)
    assert name in capsys.readouterr().err
    (data,) = events_of(tmp_path / "out", "data")
    assert (data["train_samples"], data["eval_samples"], len(data["corrupt_files"])) == (11, 3, 1)


def test_other_bad_input(scenes, tmp_path, capsys):
    refused(arguments(tmp_path / "nowhere", tmp_path / "a"), capsys, "nowhere: must be a folder with train2017/")
    large = arguments(scenes, tmp_path / "b", "--batch-size", "32")
    refused(large, capsys, "batch size: must be at most the 12")
    weights = arguments(scenes, tmp_path / "c", "--init-checkpoint", str(tmp_path / "gone"))
    refused(weights, capsys, "gone: must be a readable file of weights")


def test_the_main_job_reaches_a_lower_target(tmp_path, capsys):
    """In 200 steps, where an untrained network has 0; bench/convergence.py trains to the recipe's, 0.4 of each."""
    output, lower = tmp_path / "out", ["--eval-every", "100", "--target", "box_ap=0.1,mask_ap=0.1"]
    assert here(["mask_rcnn", *lower, "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(digit_coco.NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    (config,) = events_of(output, "run_config")
    target, quality = config["task"]["target"], events_of(output, "eval_stop")[-1]["quality"]
    assert target.keys() == {"box_ap", "mask_ap"}
    assert all(quality[name] >= value for name, value in target.items())
