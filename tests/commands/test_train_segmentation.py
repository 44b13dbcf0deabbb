"""Segmentation as a user trains it, on lists and on scenes of digits: interrupted runs, two ranks, bad input."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run
from data.label_files import write_list, write_tree
from PIL import Image
from recipes.test_segmentation import TINY

from airank_fast.data.images import digit_objects
from airank_fast.data.images.label_images import label_colours
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

NAMES = pytest.mark.parametrize("name", TINY)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 24 pictures to train on and 5 to evaluate on, with their lists; tests must not change it."""
    root = tmp_path_factory.mktemp("pictures")
    write_list(root, 24)
    write_list(root, 5, "val", first=100)
    return root


def arguments(name, root, output, *more: str) -> list[str]:
    """A run of a second: 12 steps of 8 crops of 32 x 48 pixels, evaluated every 4, to the end."""
    data = ["--data", str(root / "train.txt"), "--eval-data", str(root / "val.txt"), "--num-classes", "5"]
    crops = ["--crop-height", "32", "--crop-width", "48", "--batch-size", "8", "--steps", "12", "--eval-every", "4"]
    rate = ["--learning-rate", "0.1", "--eval-batch-size", "2", "--workers", "1"]
    aim = ["--examples", "--target", "1.0", "--no-stop-at-target"]
    return [name, *data, "--output", str(output), *crops, *rate, *aim, *TINY[name], *more]


@pytest.fixture(scope="module")
def uninterrupted(pictures, tmp_path_factory):
    """Runs to their end, by task."""
    root = tmp_path_factory.mktemp("segmentation")
    for name in TINY:
        assert here(arguments(name, pictures, root / name, "--checkpoint-steps", "3")) in (0, 1)
    return root


@NAMES
def test_a_run_learns_and_reports_its_metric(name, uninterrupted):
    output = uninterrupted / name
    found = events_of(output, "eval_stop")
    assert [set(event["quality"]) for event in found] == [{"mean_iou"}] * 3
    assert sum(losses(output)[-4:]) < 0.95 * sum(losses(output)[:4])
    (data,) = events_of(output, "data")
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (24, 5, 5)


def test_killed_and_resumed_is_the_same_run_bit_for_bit(pictures, uninterrupted, tmp_path):
    output = tmp_path / "out"
    kill_and_resume(arguments("deeplabv3plus", pictures, output, "--checkpoint-steps", "3"), output, "checkpoint")
    assert_same_run(output, uninterrupted / "deeplabv3plus")


@NAMES
def test_two_ranks_learn_what_one_does(name, pictures, tmp_path):
    """Batch norm takes the statistics of both."""
    more = ("--steps", "4", "--learning-rate", "0.003", *(("--dropout", "0") if name == "deeplabv3plus" else ()))
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(name, pictures, alone, *more)) in (0, 1)
    process = train_on_two_ranks(arguments(name, pictures, both, *more))
    assert process.returncode in (0, 1), process.stderr
    assert len(losses(both)) == 4
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    ours, theirs = ([event["accuracy"] for event in events_of(each, "eval_stop")] for each in (both, alone))
    assert ours == pytest.approx(theirs, abs=0.01)


@NAMES
def test_a_finished_run_is_verified_scored_reported_and_packaged(name, uninterrupted, tmp_path):
    assert_handed_in(uninterrupted / name, "图像分割", tmp_path)
    assert "由左至右" in (tmp_path / "report" / "report.zh.md").read_text(encoding="utf-8")


def test_a_run_leaves_pictures_beside_predicted_and_true_labels(uninterrupted, pictures):
    (event,) = events_of(uninterrupted / "hrnet", "examples")
    picture, label = (pictures / name for name in (pictures / "val.txt").read_text().splitlines()[0].split("\t"))
    shown = np.hsplit(np.array(Image.open(uninterrupted / "hrnet" / event["files"][0])), 3)
    assert np.array_equal(shown[0], np.array(Image.open(picture)))
    assert np.array_equal(shown[2], label_colours(5)[np.array(Image.open(label))])
    assert {tuple(colour) for colour in shown[1].reshape(-1, 3)} <= {tuple(colour) for colour in label_colours(5)}


def test_cityscapes_tree(tmp_path):
    write_tree(tmp_path / "data", height=40, width=60)
    args = arguments("deeplabv3plus", tmp_path, tmp_path / "out", "--steps", "2", "--batch-size", "4")
    args = [part for part in args if part not in ("--eval-data", str(tmp_path / "val.txt"))]
    args[args.index("--data") + 1] = str(tmp_path / "data")
    assert here([*args, "--num-classes", "19"]) in (0, 1)
    (data,) = events_of(tmp_path / "out", "data")
    assert (data["train_samples"], data["eval_samples"], data["source"]) == (5, 2, str(tmp_path / "data"))


@pytest.fixture
def broken(pictures, tmp_path):
    """A copy of the pictures to damage."""
    return shutil.copytree(pictures, tmp_path / "pictures")


def test_bad_labels_are_named_and_the_log_is_closed(broken, tmp_path, capsys):
    labels = Image.open(broken / "train/7_labels.png")
    labels.putpixel((3, 2), 77)
    labels.save(broken / "train/7_labels.png")
    output = tmp_path / "out"
    message = "must be a label image of ids 0 to 4 or 255", "(77 in row 2, column 3); --skip-corrupt leaves"
    refused(arguments("deeplabv3plus", broken, output), capsys, *message)
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()


def test_skip_corrupt_counts_and_reports_pictures(broken, tmp_path, capsys):
    (broken / "train/3.png").write_bytes(b"no picture")
    Image.open(broken / "train/7_labels.png").convert("P").save(broken / "train/7_labels.png")
    (broken / "val/4_labels.png").unlink()
    args = arguments("deeplabv3plus", broken, tmp_path / "out", "--skip-corrupt", "--steps", "2")
    assert here(args) in (0, 1)
    printed = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert printed[0] == "data: 3 of 29 pictures cannot be read and are left out"
    assert [line.split(" (")[0].removeprefix(f"data: left out {broken}/") for line in printed[1:]] == [
        "train/3.png",
        "train/7_labels.png",
        "val.txt, line 5",
    ]
    (data,) = events_of(tmp_path / "out", "data")
    assert (data["train_samples"], data["eval_samples"], len(data["corrupt_files"])) == (22, 4, 3)


def test_other_bad_input(pictures, tmp_path, capsys):
    nowhere = arguments("deeplabv3plus", tmp_path / "nowhere", tmp_path / "a")
    del nowhere[3:5]  # --eval-data
    refused(nowhere, capsys, "train.txt: must be Cityscapes' tree with leftImg8bit/ and gtFine/", "got no such path")
    large = arguments("deeplabv3plus", pictures, tmp_path / "b", "--batch-size", "32")
    refused(large, capsys, "batch size: must be at most the 24")
    weights = arguments("deeplabv3plus", pictures, tmp_path / "c", "--init-checkpoint", str(tmp_path / "gone"))
    refused(weights, capsys, "gone: must be a readable file of weights")


def test_the_main_job_reaches_a_lower_target(tmp_path, capsys):
    """Which background alone (0.084) misses; bench/convergence.py trains to the recipe's, 0.6."""
    output = tmp_path / "out"
    assert here(["deeplabv3plus", "--target", "0.2", "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(digit_objects.NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["best_accuracy"] >= summary["target"] == 0.2
    (data,) = events_of(output, "data")
    assert (data["train_samples"], data["eval_samples"]) == (2000, 300)
