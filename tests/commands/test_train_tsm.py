"""TSM as a user trains it, on folders of frames, on videos and on moving digits: interrupted runs, ranks, bad input."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run
from data.clip_files import write_video
from PIL import Image

from airank_fast.data.images import digit_scenes
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

NUM_CLIPS = 24


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folders of frames of moving digits, and lists; tests must not change them."""
    root = tmp_path_factory.mktemp("clips")
    rows = []
    for index in range(NUM_CLIPS):
        clip = digit_scenes.clip(3, index, held_out=False)
        (root / str(index)).mkdir()
        for number, frame in enumerate(clip.frames, 1):
            Image.fromarray(frame).save(root / str(index) / f"img_{number:05d}.jpg", "PNG")
        rows.append(f"{index} {len(clip.frames)} {clip.label}\n")
    (root / "train.txt").write_text("".join(rows))
    (root / "val.txt").write_text("".join(rows[:10]))
    return root


def arguments(data, output, *more: str) -> list[str]:
    """A run of seconds: 3 epochs of 3 steps, to the end."""
    small = ["--image-size", "32", "--num-classes", "8", "--blocks", "1", "1", "1", "1", "--width", "4"]
    small += ["--batch-size", "8", "--epochs", "3", "--decay-epochs", "2", "--learning-rate", "0.02", "--workers", "1"]
    aim = ["--examples", "--eval-batch-size", "4", "--target", "1.0", "--no-stop-at-target"]
    return ["tsm", "--data", str(data), "--output", str(output), *small, *aim, *more]


@pytest.fixture(scope="module")
def uninterrupted(clips, tmp_path_factory):
    output = tmp_path_factory.mktemp("tsm") / "out"
    assert here(arguments(clips, output, "--checkpoint-steps", "2")) in (0, 1)
    return output


def test_a_run_reports_its_metric_and_counts_videos(uninterrupted):
    found = events_of(uninterrupted, "eval_stop")
    assert [(set(event["quality"]), event["counted"]) for event in found] == [({"top1"}, 10)] * 3
    (data,) = events_of(uninterrupted, "data")
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (NUM_CLIPS, 10, 8)
    assert len(losses(uninterrupted)) == 9
    (config,) = events_of(uninterrupted, "run_config")
    assert config["task"]["unit"] == "videos"


@pytest.mark.parametrize("moment", ["checkpoint", "eval_start"])
def test_killed_and_resumed_is_the_same_run_bit_for_bit(moment, clips, uninterrupted, tmp_path):
    """With dropout and random frames, windows and flips."""
    output = tmp_path / "out"
    kill_and_resume(arguments(clips, output, "--checkpoint-steps", "2"), output, moment)
    assert_same_run(output, uninterrupted)


def test_two_ranks_learn_what_one_does(clips, tmp_path):
    """One rank in two micro-batches has the batch norms of two ranks."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    more = ("--epochs", "2", "--dropout", "0")
    assert here(arguments(clips, alone, *more, "--gradient-accumulation-steps", "2")) in (0, 1)
    process = train_on_two_ranks(arguments(clips, both, *more))
    assert process.returncode in (0, 1), process.stderr
    assert len(losses(both)) == 6
    assert losses(both) == pytest.approx(losses(alone), rel=1e-4)
    assert [event["counted"] for event in events_of(both, "eval_stop")] == [10, 10]


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "视频分类", tmp_path)
    assert len(list((tmp_path / "report").rglob("examples-1-*.png"))) == 4


def test_a_run_leaves_clips_with_their_classes(uninterrupted, clips):
    (event,) = events_of(uninterrupted, "examples")
    assert event["truth"] == [row.split()[2] for row in (clips / "val.txt").read_text().splitlines()][:4]
    assert set(event["predicted"]) <= set(map(str, range(8)))
    frames = np.hsplit(np.array(Image.open(uninterrupted / event["files"][1])), 8)
    assert {frame.shape for frame in frames} == {(32, 32, 3)}
    assert len({frame.tobytes() for frame in frames}) == 8


@pytest.fixture
def videos(tmp_path):
    """Eight videos of two classes, one with a variable frame rate, and their list."""
    pytest.importorskip("av")
    rows = []
    for number in range(8):
        durations = (20, 100, 7) if number == 3 else (40,)
        name = write_video(tmp_path / f"{number}.mp4", "libx264", number=12 + number, durations=durations)
        rows.append(f"{name.rpartition('/')[2]} {number % 2}\n")
    (tmp_path / "list.txt").write_text("".join(rows))
    return tmp_path / "list.txt"


def test_videos_are_read_by_workers(videos, tmp_path):
    more = ("--eval-data", str(videos), "--num-classes", "2", "--epochs", "1", "--workers", "2")
    assert here(arguments(videos, tmp_path / "out", *more)) in (0, 1)
    (event,) = events_of(tmp_path / "out", "eval_stop")
    assert event["counted"] == 8


def test_a_video_that_breaks_off_is_named_or_skipped(videos, tmp_path, capsys):
    path = videos.parent / "5.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    more = ("--eval-data", str(videos), "--num-classes", "2", "--epochs", "1", "--batch-size", "7")
    output = tmp_path / "out"
    refused(arguments(videos, output, *more), capsys, "list.txt, line 6, 5.mp4 (", "--skip-corrupt")
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()
    assert here(arguments(videos, tmp_path / "skipped", *more, "--skip-corrupt")) in (0, 1)
    printed = capsys.readouterr().err
    assert "data: 2 of 16 clips cannot be read and are left out" in printed
    assert f"data: left out {videos}, line 6, 5.mp4 (" in printed
    (data,) = events_of(tmp_path / "skipped", "data")
    assert (data["train_samples"], data["eval_samples"], len(data["corrupt_files"])) == (7, 7, 2)


@pytest.fixture
def broken(clips, tmp_path):
    """A copy of the folders of frames to damage."""
    return shutil.copytree(clips, tmp_path / "clips")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0 1", "must be a row of a clip with frames, got 0"),
        ("0 8 8", "must be a row with a label below 8, got 8"),
        ("gone 8 1", "img_00008.jpg, which is no file"),
        ("0 7", "0, which is no file"),
    ],
)
def test_a_bad_row_is_named_and_the_log_closed(row, message, broken, tmp_path, capsys):
    with open(broken / "train.txt", "a") as file:
        file.write(f"{row}\n")
    output = tmp_path / "out"
    refused(arguments(broken, output), capsys, f"train.txt, line {NUM_CLIPS + 1}: ", message)
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"


def test_other_bad_input(clips, tmp_path, capsys):
    refused(arguments(tmp_path / "nowhere", tmp_path / "a"), capsys, "--data: must be a list of clips, or a directory")
    refused(arguments(tmp_path, tmp_path / "b"), capsys, "train.txt: must be a list, each line a row PATH LABEL")
    refused(arguments(clips, tmp_path / "c", "--batch-size", "64"), capsys, "batch size: must be at most the 24")


def test_the_main_job_reaches_its_target(tmp_path, capsys):
    output = tmp_path / "out"
    assert here(["tsm", "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(digit_scenes.CLIPS_NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["best_accuracy"] >= summary["target"] == 0.95
    (data,) = events_of(output, "data")
    assert (data["train_samples"], data["eval_samples"]) == (2400, 600)
