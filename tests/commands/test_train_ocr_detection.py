"""Text detection as a user trains it, on pictures with lists and on embedded strings: killed runs, ranks, bad input."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run
from data.scene_files import write_strings
from PIL import Image

from airank_fast.data.images import digit_strings
from airank_fast.data.images.text_scenes import FOLDERS
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

pytest.importorskip("shapely")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A data set of 24 pictures to train on and 5 to evaluate on; tests must not change it."""
    return write_strings(tmp_path_factory.mktemp("pictures"), 24, 5)


def arguments(data, output, *more: str) -> list[str]:
    """A run of two seconds: 4 epochs of 3 steps of 8 crops of 64 x 64 pixels, to the end."""
    network = ["--backbone", "resnet18", "--blocks", "1-1-1-1", "--width", "8", "--neck-width", "16"]
    sizes = ["--crop-height", "64", "--crop-width", "64", "--eval-height", "96", "--eval-width", "128"]
    scales = ["--min-scale", "0.7", "--max-scale", "1.5", "--batch-size", "8", "--eval-batch-size", "2"]
    run = ["--epochs", "4", "--eval-every", "2", "--learning-rate", "0.01", "--workers", "1", "--examples"]
    aim = ["--target", "1.0", "--no-stop-at-target"]
    return ["ocr_detection", "--data", str(data), "--output", str(output), *network, *sizes, *scales, *run, *aim, *more]


@pytest.fixture(scope="module")
def uninterrupted(pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("detection") / "out"
    assert here(arguments(pictures, output, "--checkpoint-steps", "4")) in (0, 1)
    return output


def test_a_run_learns_and_reports_its_metrics(uninterrupted):
    found = events_of(uninterrupted, "eval_stop")
    assert [set(event["quality"]) for event in found] == [{"h_mean", "precision", "recall"}] * 2
    assert sum(losses(uninterrupted)[-4:]) < 0.9 * sum(losses(uninterrupted)[:4])
    (data,) = events_of(uninterrupted, "data")
    assert (data["train_samples"], data["eval_samples"]) == (24, 5)


def test_killed_and_resumed_is_the_same_run_bit_for_bit(pictures, uninterrupted, tmp_path):
    output = tmp_path / "out"
    kill_and_resume(arguments(pictures, output, "--checkpoint-steps", "4"), output, "checkpoint")
    assert_same_run(output, uninterrupted)


def test_two_ranks_learn_what_one_does(pictures, tmp_path):
    """Batch norm takes the statistics of both, and the loss is of each picture alone."""
    more = ("--epochs", "2", "--learning-rate", "0.002")
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(pictures, alone, *more)) in (0, 1)
    process = train_on_two_ranks(arguments(pictures, both, *more))
    assert process.returncode in (0, 1), process.stderr
    assert len(losses(both)) == 6
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "文字检测", tmp_path)
    assert "由左至右" in (tmp_path / "report" / "report.zh.md").read_text(encoding="utf-8")


def test_a_run_leaves_pictures_with_outlines(uninterrupted, pictures):
    (event,) = events_of(uninterrupted, "examples")
    shown = np.hsplit(np.array(Image.open(uninterrupted / event["files"][0])), 3)
    original = np.array(Image.open(pictures / FOLDERS["val"][0] / "img_1.png"))
    assert np.array_equal(shown[0], original)
    changed = (shown[2] != original).any(2)
    assert {tuple(colour) for colour in shown[2][changed]} <= {(0, 255, 90), (170, 170, 170)}
    assert 40 < changed.sum() < 800


@pytest.fixture
def broken(pictures, tmp_path):
    """A copy of the pictures to damage."""
    return shutil.copytree(pictures, tmp_path / "pictures")


def test_a_bad_line_is_named_and_the_log_is_closed(broken, tmp_path, capsys):
    path = broken / FOLDERS["train"][1] / "gt_img_7.txt"
    path.write_text("1,2,3,4,5,6,7,8\n")
    output = tmp_path / "out"
    refused(arguments(broken, output), capsys, "gt_img_7.txt, line 1: must be a line X1,Y1,", "got 8 columns")
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()


def test_a_text_outside_of_its_picture_is_named(broken, tmp_path, capsys):
    path = broken / FOLDERS["val"][1] / "gt_img_2.txt"
    path.write_text("1,2,30,2,30,20,1,20,ab\n201,2,230,2,230,20,201,20,ab\n")
    fragments = ("gt_img_2.txt, line 2", "must be a quadrilateral in its picture of 128 x 96 pixels")
    refused(arguments(broken, tmp_path / "out"), capsys, *fragments, "--skip-corrupt")


def test_skip_corrupt_counts_and_reports_pictures(broken, tmp_path, capsys):
    (broken / FOLDERS["train"][0] / "img_3.png").write_bytes(b"no picture")
    (broken / FOLDERS["train"][1] / "gt_img_7.txt").write_text("1,2,3\n")
    (broken / FOLDERS["val"][0] / "img_4.png").unlink()
    args = arguments(broken, tmp_path / "out", "--skip-corrupt", "--epochs", "1", "--eval-every", "1")
    assert here(args) in (0, 1)
    printed = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert printed[0] == "data: 3 of 29 pictures cannot be read and are left out"
    assert [line.split(" (")[0].rpartition("/")[2] for line in printed[1:]] == [
        "gt_img_7.txt, line 1",
        "img_3.png",
        "gt_img_4.txt",
    ]
    (data,) = events_of(tmp_path / "out", "data")
    assert (data["train_samples"], data["eval_samples"], len(data["corrupt_files"])) == (22, 4, 3)


@pytest.mark.parametrize("package", ["shapely", "scipy"])
def test_a_package_that_is_missing_is_named_before_training(package, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = f"text detection: must have the package {package}, got none (pip install {package})"
    refused(arguments(pictures, tmp_path / "out"), capsys, message)


def test_other_bad_input(pictures, tmp_path, capsys):
    nowhere = arguments(tmp_path / "nowhere", tmp_path / "a")
    refused(nowhere, capsys, "nowhere: must be a folder with ICDAR 2015's folders", "got no such path")
    large = arguments(pictures, tmp_path / "b", "--batch-size", "32")
    refused(large, capsys, "batch size: must be at most the 24")
    weights = arguments(pictures, tmp_path / "c", "--init-checkpoint", str(tmp_path / "gone"))
    refused(weights, capsys, "gone: must be a readable file of weights")


def test_the_main_job_reaches_a_lower_target(tmp_path, capsys):
    """Which no untrained network has (0); bench/convergence.py trains to the recipe's, 0.9."""
    output = tmp_path / "out"
    assert here(["ocr_detection", "--target", "0.1", "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(digit_strings.NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["best_accuracy"] >= summary["target"] == 0.1
    (data,) = events_of(output, "data")
    assert (data["train_samples"], data["eval_samples"]) == (1000, 200)
