"""CycleGAN as a user trains it, on two folders: interrupted runs, two ranks, NaN, bad input, its target."""

from __future__ import annotations

import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run
from PIL import Image

from airank_fast.data.images import fashion
from airank_fast.recipes import cyclegan
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

FOLDERS = {"trainA": 8, "trainB": 6, "testA": 3, "testB": 3}


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """Dark pictures and light ones, 40 x 36 pixels; tests must not change them."""
    root, rng = tmp_path_factory.mktemp("domains"), np.random.default_rng(0)
    for name, number in FOLDERS.items():
        (root / name).mkdir()
        level = 60 if name.endswith("A") else 190
        for index in range(number):
            pixels = level + rng.integers(-50, 50, (9, 10, 3)).repeat(4, 0).repeat(4, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def arguments(data, output, *more: str) -> list[str]:
    """A run of a second: 4 epochs of 2 steps of 4 pictures of each domain, with pools, to the end."""
    network = ["--recipe", "shoes", "--channels", "3", "--width", "4", "--discriminator-width", "4", "--blocks", "1"]
    sizes = ["--image-size", "32", "--load-size", "36", "--flip", "--batch-size", "4", "--eval-batch-size", "2"]
    run = ["--epochs", "4", "--constant-epochs", "2", "--eval-every", "2", "--workers", "1", "--partners"]
    aim = ["--pool-size", "6", "--examples", "--target", "cycle_l1=0.0", "--learning-rate", "0.002"]
    return ["cyclegan", "--data", str(data), "--output", str(output), *network, *sizes, *run, *aim, *more]


@pytest.fixture(scope="module")
def uninterrupted(domains, tmp_path_factory):
    output = tmp_path_factory.mktemp("cyclegan") / "out"
    assert here(arguments(domains, output, "--checkpoint-steps", "3")) in (0, 1)
    return output


def test_a_run_learns_and_reports_losses_and_metrics_by_name(uninterrupted):
    found = events_of(uninterrupted, "eval_stop")
    assert [set(event["quality"]) for event in found] == [{"translated", "to_a", "to_b", "l1", "cycle_l1"}] * 2
    assert losses(uninterrupted)[-1] < 0.9 * losses(uninterrupted)[0]
    assert all(set(event["losses"]) == {"G", "D_A", "D_B"} for event in events_of(uninterrupted, "steps"))
    (data,) = events_of(uninterrupted, "data")
    assert (data["train_samples"], data["eval_samples"], data["classifier"].keys()) == (8, 3, {"a", "b"})
    names = {file.stem for file in max((uninterrupted / "checkpoints").iterdir()).glob("*.safetensors")}
    assert names == {"G_A", "G_B", "D_A", "D_B"}


def test_killed_and_resumed_is_the_same_run_bit_for_bit(domains, uninterrupted, tmp_path):
    """With both pools and the three optimizers."""
    output = tmp_path / "out"
    kill_and_resume(arguments(domains, output, "--checkpoint-steps", "3"), output, "checkpoint")
    assert_same_run(output, uninterrupted)


def test_two_ranks_learn_what_one_does(domains, tmp_path):
    """Pools are each rank's own: so without them."""
    more = ("--pool-size", "0", "--epochs", "2")
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(domains, alone, *more)) in (0, 1)
    process = train_on_two_ranks(arguments(domains, both, *more))
    assert process.returncode in (0, 1), process.stderr
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    ours, theirs = ([event["quality"]["cycle_l1"] for event in events_of(each, "eval_stop")] for each in (both, alone))
    assert ours == pytest.approx(theirs, rel=0.01)


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "图像生成", tmp_path)


def test_nan_in_one_loss_stops_the_run_by_its_name(domains, tmp_path, capsys):
    telling = cyclegan.Job.telling_loss

    def spoiled(job, discriminator, real, made):
        loss = telling(job, discriminator, real, made)
        return loss * torch.nan if real.mean() < 0 else loss  # of domain A

    output = tmp_path / "out"
    with mock.patch.object(cyclegan.Job, "telling_loss", spoiled):
        refused(arguments(domains, output), capsys, "loss of D_B: must be a finite number, got nan at step 1")
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "nan_loss"


def test_bad_input(domains, tmp_path, capsys):
    broken = shutil.copytree(domains, tmp_path / "broken")
    (broken / "trainB" / "2.png").write_bytes(b"no picture")
    refused(arguments(broken, tmp_path / "a"), capsys, "trainB/2.png", "--skip-corrupt")
    for number in range(1, 6):
        (broken / "trainB" / f"{number}.png").unlink()
    refused(arguments(broken, tmp_path / "b"), capsys, "trainB: must be a folder with 2 pictures or more, got 1")
    shutil.rmtree(broken / "trainB")
    refused(arguments(broken, tmp_path / "c"), capsys, "trainB: must be a folder of pictures, got no such folder")
    weights = arguments(domains, tmp_path / "d", "--init-checkpoint", str(tmp_path / "gone"))
    refused(weights, capsys, "gone: must be a directory with latest_net_G.pth and so on, got no directory")


def test_the_main_job_reaches_a_lower_target(tmp_path, capsys):
    """Two epochs instead of eight, to a lower target, which untrained, idle and collapsed generators miss too."""
    output = tmp_path / "out"
    shorter = ("--epochs", "2", "--constant-epochs", "1", "--target", "to_a=0.6,to_b=0.6,cycle_l1=0.1")
    assert here(["cyclegan", *shorter, "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(fashion.NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
