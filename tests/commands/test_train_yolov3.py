"""YOLOv3 as a user trains it, on a data set in the form of COCO: interrupted runs, two ranks, bad input, its target."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run
from data.coco_files import change, write_digits
from PIL import Image

from airank_fast.data.images import digit_coco
from airank_fast.data.images.coco import PICTURES
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

METRICS = {"box_ap", "box_ap50", "box_ap75", "box_ap_small"}  # of the sizes that digits have


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A data set of 24 pictures to train on and 5 to evaluate on; tests must not change it."""
    return write_digits(tmp_path_factory.mktemp("scenes"), 24, 5)


def arguments(data, output, *more: str) -> list[str]:
    """A run of a second: 4 epochs of 3 steps of 8 images of 64 or 96 pixels, two of them mixed, to the end."""
    network = ["--recipe", "digit_scenes", "--widths", "4", "4", "8", "8", "8", "16"]
    sizes = ["--train-sizes", "64", "96", "--batch-size", "8", "--eval-batch-size", "2", "--workers", "1"]
    run = ["--epochs", "4", "--eval-every", "2", "--mixup", "--mixup-off-epochs", "2", "--warmup-epochs", "0"]
    aim = ["--examples", "--target", "1.0", "--no-stop-at-target"]
    return ["yolov3", "--data", str(data), "--output", str(output), *network, *sizes, *run, *aim, *more]


@pytest.fixture(scope="module")
def uninterrupted(scenes, tmp_path_factory):
    output = tmp_path_factory.mktemp("yolov3") / "out"
    weights = str(output.parent / "digits.weights")
    assert here(arguments(scenes, output, "--checkpoint-steps", "4", "--weights", weights)) in (0, 1)
    return output


def test_a_run_learns_and_reports_its_metrics(uninterrupted):
    found = events_of(uninterrupted, "eval_stop")
    assert [set(event["quality"]) for event in found] == [METRICS] * 2
    assert sum(losses(uninterrupted)[-4:]) < 0.9 * sum(losses(uninterrupted)[:4])
    (data,) = events_of(uninterrupted, "data")
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (24, 5, 10)


def test_its_weights_begin_another_run(uninterrupted, scenes, tmp_path):
    """A .weights file, with its origin in the log; a short one is named."""
    weights = uninterrupted.parent / "digits.weights"
    output = tmp_path / "out"
    more = ("--epochs", "1", "--eval-every", "1", "--mixup-off-epochs", "1", "--init-checkpoint")
    assert here(arguments(scenes, output, *more, str(weights))) in (0, 1)
    assert losses(output)[0] < 0.95 * losses(uninterrupted)[0]
    (data,) = events_of(output, "data")
    assert (data["init_checkpoint"]["file"], len(data["init_checkpoint"]["sha256"])) == (str(weights), 64)
    assert np.frombuffer(weights.read_bytes(), "<i8", 1, 12) == [4 * 24]


def test_a_short_file_of_weights_is_named(uninterrupted, scenes, tmp_path, capsys):
    short = tmp_path / "short.weights"
    short.write_bytes((uninterrupted.parent / "digits.weights").read_bytes()[:-400])
    args = arguments(scenes, tmp_path / "out", "--init-checkpoint", str(short))
    refused(args, capsys, "short.weights: must be a header and", "of the backbone alone, got")


def test_killed_and_resumed_is_the_same_run_bit_for_bit(scenes, uninterrupted, tmp_path):
    output = tmp_path / "out"
    kill_and_resume(arguments(scenes, output, "--checkpoint-steps", "4"), output, "checkpoint")
    assert_same_run(output, uninterrupted)


def test_two_ranks_learn_what_one_does(scenes, tmp_path):
    """Batch norm takes the statistics of both; images are mixed with those of their rank."""
    more = ("--epochs", "2", "--learning-rate", "0.002")
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(scenes, alone, *more)) in (0, 1)
    process = train_on_two_ranks(arguments(scenes, both, *more))
    assert process.returncode in (0, 1), process.stderr
    assert len(losses(both)) == 6
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    ours, theirs = ([event["accuracy"] for event in events_of(each, "eval_stop")] for each in (both, alone))
    assert ours == pytest.approx(theirs, abs=0.01)


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "目标检测", tmp_path)
    assert "由左至右" in (tmp_path / "report" / "report.zh.md").read_text(encoding="utf-8")


def test_a_run_leaves_pictures_with_boxes(uninterrupted):
    (event,) = events_of(uninterrupted, "examples")
    found, true = np.hsplit(np.array(Image.open(uninterrupted / event["files"][0])), 2)
    assert found.shape == (320, 320, 3)
    assert (true != found).any()


@pytest.fixture
def broken(scenes, tmp_path):
    """A copy of the data set to damage."""
    return shutil.copytree(scenes, tmp_path / "scenes")


def test_a_bad_box_is_named_and_the_log_is_closed(broken, tmp_path, capsys):
    change(broken, "train", lambda content: content["annotations"][6]["bbox"].__setitem__(2, 0))
    output = tmp_path / "out"
    refused(arguments(broken, output), capsys, "instances_train2017.json", "annotation 7", "--skip-corrupt")
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()


def test_skip_corrupt_counts_and_reports_pictures(broken, tmp_path, capsys):
    train, val = (sorted((broken / PICTURES[side]).iterdir()) for side in ("train", "val"))
    train[3].write_bytes(b"no picture")
    val[1].unlink()
    change(broken, "train", lambda content: content["annotations"][0].update(category_id=99))
    change(broken, "val", lambda content: content["images"][1].update(file_name="a\nb.png"))
    more = ("--skip-corrupt", "--epochs", "1", "--eval-every", "1", "--mixup-off-epochs", "1")
    assert here(arguments(broken, tmp_path / "out", *more)) in (0, 1)
    printed = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert printed[0] == "data: 2 of 29 pictures cannot be read and are left out"
    assert printed[3] == "data: 1 annotations are left out"
    assert "annotation 1 (must be of one of the file's 10 categories, got category_id 99)" in printed[4]
    (data,) = events_of(tmp_path / "out", "data")
    assert (data["train_samples"], data["eval_samples"], len(data["corrupt_files"])) == (23, 4, 3)


def test_other_bad_input(scenes, tmp_path, capsys):
    nowhere = arguments(tmp_path / "nowhere", tmp_path / "a")
    refused(nowhere, capsys, "nowhere: must be a folder with train2017/", "got no such path")
    large = arguments(scenes, tmp_path / "b", "--batch-size", "32")
    refused(large, capsys, "batch size: must be at most the 24")
    weights = arguments(scenes, tmp_path / "c", "--init-checkpoint", str(tmp_path / "gone.weights"))
    refused(weights, capsys, "gone.weights: must be a readable file of weights")
    nowhere = arguments(scenes, tmp_path / "d", "--weights", str(tmp_path / "gone" / "digits.weights"))
    refused(nowhere, capsys, "--weights: must be a file in a folder that is there, got")


def test_the_main_job_reaches_a_lower_target(tmp_path, capsys):
    """After one epoch; bench/convergence.py trains to the recipe's, 0.5."""
    output = tmp_path / "out"
    assert here(["yolov3", "--target", "0.1", "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(digit_coco.NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["best_accuracy"] >= summary["target"] == 0.1
    (data,) = events_of(output, "data")
    assert (data["train_samples"], data["eval_samples"]) == (2000, 300)
