"""pix2pix as a user trains it, on files of A | B: interrupted runs, two ranks, first weights, bad input, its target."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run
from PIL import Image

from airank_fast.data.images import fashion
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs in colour, 40 x 36 pixels each, 8 to train on and 3 to evaluate on; tests must not change them."""
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for side, number in (("train", 8), ("val", 3)):
        (root / side).mkdir()
        for index in range(number):
            a = np.repeat(rng.integers(0, 256, (9, 10, 1)).repeat(4, 0).repeat(4, 1), 3, 2)
            Image.fromarray(np.hstack([a, 255 - a]).astype(np.uint8)).save(root / side / f"{index}.png")
    return root


def arguments(data, output, *more: str) -> list[str]:
    """A run of a second: 4 epochs of 2 steps of 4 pairs, with dropout and a pool, to the end."""
    network = ["--recipe", "edges", "--channels", "3", "--width", "4", "--discriminator-width", "4", "--levels", "6"]
    sizes = ["--image-size", "64", "--load-size", "72", "--flip", "--batch-size", "4", "--eval-batch-size", "2"]
    run = ["--epochs", "4", "--constant-epochs", "2", "--eval-every", "2", "--workers", "1", "--dropout", "0.5"]
    aim = ["--pool-size", "6", "--examples", "--target", "l1=0.0", "--learning-rate", "0.002"]
    return ["pix2pix", "--data", str(data), "--output", str(output), *network, *sizes, *run, *aim, *more]


@pytest.fixture(scope="module")
def uninterrupted(pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("pix2pix") / "out"
    assert here(arguments(pairs, output, "--checkpoint-steps", "3")) in (0, 1)
    return output


def test_a_run_learns_and_reports_losses_by_name(uninterrupted):
    found = events_of(uninterrupted, "eval_stop")
    assert [set(event["quality"]) for event in found] == [{"l1"}] * 2
    assert found[-1]["accuracy"] == found[-1]["quality"]["l1"]
    assert losses(uninterrupted)[-1] < 0.9 * losses(uninterrupted)[0]
    assert all(set(event["losses"]) == {"G", "D"} for event in events_of(uninterrupted, "steps"))
    (config,) = events_of(uninterrupted, "run_config")
    assert [metric["name"] for metric in config["task"]["metrics"]] == ["l1"]


def test_a_run_leaves_pictures(uninterrupted):
    (event,) = events_of(uninterrupted, "examples")
    picture = np.array(Image.open(uninterrupted / event["files"][0]))
    source, _, true = np.hsplit(picture, 3)
    assert np.abs(255 - source.astype(int) - true).mean() < 8


def test_killed_and_resumed_is_the_same_run_bit_for_bit(pairs, uninterrupted, tmp_path):
    """With the pool, both optimizers and dropout."""
    output = tmp_path / "out"
    kill_and_resume(arguments(pairs, output, "--checkpoint-steps", "3"), output, "checkpoint")
    assert_same_run(output, uninterrupted)


def test_two_ranks_learn_what_one_does(pairs, tmp_path):
    """Batch norms take the statistics of both; pools are each rank's own, and dropout too: so without them."""
    more = ("--pool-size", "0", "--dropout", "0", "--epochs", "2")
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(pairs, alone, *more)) in (0, 1)
    process = train_on_two_ranks(arguments(pairs, both, *more))
    assert process.returncode in (0, 1), process.stderr
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    ours, theirs = ([event["accuracy"] for event in events_of(each, "eval_stop")] for each in (both, alone))
    assert ours == pytest.approx(theirs, rel=0.01)


def test_a_checkpoint_begins_another_run(uninterrupted, pairs, tmp_path):
    checkpoint = max((uninterrupted / "checkpoints").iterdir())
    output = tmp_path / "out"
    more = ("--epochs", "1", "--constant-epochs", "1", "--eval-every", "1", "--init-checkpoint", str(checkpoint))
    assert here(arguments(pairs, output, *more)) in (0, 1)
    (data,) = events_of(output, "data")
    assert {name: len(each["sha256"]) for name, each in data["init_checkpoint"].items()} == {"G": 64, "D": 64}
    assert losses(output)[0] < 0.95 * losses(uninterrupted)[0]


def test_bad_input(pairs, tmp_path, capsys):
    odd = shutil.copytree(pairs, tmp_path / "odd")
    Image.new("RGB", (81, 36)).save(odd / "train" / "5.png")
    refused(arguments(odd, tmp_path / "a"), capsys, "A and B side by side, of an even width", "5.png (81 x 36)")
    assert summarize(read_events(tmp_path / "a" / "events.jsonl"))["reason"] == "bad_data"
    assert here(arguments(odd, tmp_path / "b", "--skip-corrupt", "--epochs", "1", "--constant-epochs", "1")) in (0, 1)
    (data,) = events_of(tmp_path / "b", "data")
    assert (data["train_samples"], len(data["corrupt_files"])) == (7, 1)
    refused(arguments(tmp_path / "nowhere", tmp_path / "c"), capsys, "nowhere: must be a folder with train/")
    inception = arguments(pairs, tmp_path / "d", "--inception", str(tmp_path / "gone.pt"))
    refused(inception, capsys, "gone.pt: must be NVIDIA's inception-2015-12-05.pt")


def test_the_main_job_reaches_a_lower_target(tmp_path, capsys):
    """One epoch instead of four, to a target that the mean picture (0.22) and an untrained generator miss."""
    output = tmp_path / "out"
    shorter = ("--epochs", "1", "--constant-epochs", "0.5", "--target", "l1=0.13")
    assert here(["pix2pix", *shorter, "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(fashion.NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    (data,) = events_of(output, "data")
    assert (data["train_samples"], data["eval_samples"]) == (2400, 600)
