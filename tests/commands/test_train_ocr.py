"""OCR as a user trains it, on a list of lines and on the embedded ones: interrupted runs, two ranks, bad input."""

from __future__ import annotations

import shutil

import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run
from data.line_files import write_lmdb
from PIL import Image

from airank_fast.data.images import digit_scenes
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A folder of 48 lines of digits and their list; tests must not change it."""
    root = tmp_path_factory.mktemp("lines")
    rows = []
    for index in range(48):
        scene = digit_scenes.line(3, index, held_out=False)
        Image.fromarray(scene.picture).save(root / f"{index}.png")
        rows.append(f"{index}.png\t{scene.text}\n")
    (root / "gt.txt").write_text("".join(rows))
    return root


def arguments(data, output, *more: str, held_out: bool = True) -> list[str]:
    """A run of a second: 3 epochs of 6 steps, to the end."""
    small = ["--image-width", "64", "--width", "4", "--hidden", "8", "--batch-size", "8"]
    small += ["--epochs", "3", "--learning-rate", "0.01", "--eval-batch-size", "20", "--workers", "1"]
    small += ["--examples"]
    small += [] if "--alphabet-file" in more else ["--alphabet", "0123456789"]
    aim = ["--target", "1.0", "--no-stop-at-target"]
    small += ["--eval-data", str(data)] if held_out else []
    return ["ocr", "--data", str(data), "--output", str(output), *small, *aim, *more]


@pytest.fixture(scope="module")
def uninterrupted(lines, tmp_path_factory):
    output = tmp_path_factory.mktemp("ocr") / "out"
    assert here(arguments(lines, output, "--checkpoint-steps", "4")) in (0, 1)
    return output


def test_a_run_learns_and_reports_its_metrics(uninterrupted):
    found = events_of(uninterrupted, "eval_stop")
    assert [set(event["quality"]) for event in found] == [{"exact_match", "one_minus_ned"}] * 3
    assert [event["counted"] for event in found] == [48] * 3
    assert losses(uninterrupted)[-1] < losses(uninterrupted)[0] / 1.5
    (data,) = events_of(uninterrupted, "data")
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (48, 48, 11)


@pytest.mark.parametrize("moment", ["checkpoint", "eval_start"])
def test_killed_and_resumed_is_the_same_run_bit_for_bit(moment, lines, uninterrupted, tmp_path):
    output = tmp_path / "out"
    kill_and_resume(arguments(lines, output, "--checkpoint-steps", "4"), output, moment)
    assert_same_run(output, uninterrupted)
    ours, theirs = ([event["quality"] for event in events_of(each, "eval_stop")] for each in (output, uninterrupted))
    assert ours == theirs


def test_two_ranks_learn_what_one_does(lines, tmp_path):
    """One rank in two micro-batches has the batch norms of two ranks."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(lines, alone, "--epochs", "2", "--gradient-accumulation-steps", "2")) in (0, 1)
    process = train_on_two_ranks(arguments(lines, both, "--epochs", "2"))
    assert process.returncode in (0, 1), process.stderr
    assert len(losses(both)) == 12
    assert losses(both) == pytest.approx(losses(alone), rel=1e-4)
    assert [event["counted"] for event in events_of(both, "eval_stop")] == [48, 48]


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "文字识别", tmp_path)
    pictures = sorted((tmp_path / "report" / "report.zh").glob("examples-1-*.png"))
    kept = sorted((uninterrupted / "examples").iterdir())
    assert [picture.read_bytes() for picture in pictures] == [picture.read_bytes() for picture in kept]
    assert len(list((tmp_path / "package").rglob("examples-1-*.png"))) == 2 * len(kept)


def test_a_run_leaves_lines_with_what_it_read(uninterrupted, lines):
    (event,) = events_of(uninterrupted, "examples")
    texts = [row.split("\t")[1] for row in (lines / "gt.txt").read_text().splitlines()]
    assert event["truth"] == texts[:12]
    assert len(event["predicted"]) == len(event["files"]) == 12
    last = events_of(uninterrupted, "eval_stop")[-1]["quality"]["exact_match"]
    assert last == 0 or "" not in event["predicted"]
    for index, name in enumerate(event["files"]):
        picture, original = Image.open(uninterrupted / name), Image.open(lines / f"{index}.png")
        assert picture.tobytes() == original.tobytes()


def test_an_lmdb_with_held_out_lines_and_one_that_is_too_long(tmp_path, capsys):
    texts = [str(10**6 + number) for number in range(60)] + ["1" * 40]
    data = write_lmdb(tmp_path / "lmdb", texts)
    args = arguments(data, tmp_path / "out", "--epochs", "1", "--workers", "2", held_out=False)
    assert here(args) in (0, 1)
    (event,) = events_of(tmp_path / "out", "data")
    assert event["train_samples"] + event["eval_samples"] == 61
    assert "need more than the network's 17 steps and are wrong" in capsys.readouterr().err


@pytest.fixture
def broken(lines, tmp_path):
    """A copy of the lines to damage."""
    return shutil.copytree(lines, tmp_path / "lines")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0.png\t12a", "got 'a' (U+0061) in '12a'"),
        ("0.png\t", "must be a line with a text, got an empty one"),
        ("gone.png\t12", "which is no file"),
    ],
)
def test_a_bad_line_is_named_and_the_log_closed(row, message, broken, tmp_path, capsys):
    with open(broken / "gt.txt", "a") as file:
        file.write(f"{row}\n")
    output = tmp_path / "out"
    refused(arguments(broken, output), capsys, "gt.txt, line 49: ", message)
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()


def test_a_broken_picture_is_named(broken, tmp_path, capsys):
    (broken / "7.png").write_bytes(b"no picture")
    refused(arguments(broken, tmp_path / "out"), capsys, "gt.txt, line 8", "--skip-corrupt")


def test_skip_corrupt_counts_and_reports_lines(broken, tmp_path, capsys):
    (broken / "7.png").write_bytes(b"no picture")
    with open(broken / "gt.txt", "a") as file:
        file.write("0.png\tx\n")
    assert here(arguments(broken, tmp_path / "out", "--skip-corrupt", "--epochs", "1")) in (0, 1)
    printed = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert printed[0] == "data: 4 of 98 lines cannot be read and are left out"  # the same two of each side
    assert [line.split(" (")[0] for line in printed[1:3]] == [
        f"data: left out {broken}/gt.txt, line {number}" for number in (49, 8)
    ]
    (data,) = events_of(tmp_path / "out", "data")
    assert (data["train_samples"], len(data["corrupt_files"])) == (47, 4)


def test_other_bad_input(lines, tmp_path, capsys):
    characters = tmp_path / "characters.txt"
    characters.write_text("0\n1\n0\n")
    args = arguments(lines, tmp_path / "a", "--alphabet-file", str(characters))
    refused(args, capsys, "characters.txt: must be of different characters, got '0' as characters 1 and 3")
    refused(arguments(tmp_path / "nowhere", tmp_path / "b"), capsys, "nowhere: must be a list of lines PATH TAB TEXT")
    schema = write_lmdb(tmp_path / "lmdb", ["1"], num_samples=None)
    refused(
        arguments(schema, tmp_path / "c"), capsys, "must be an LMDB with the keys num-samples", "got image-000000001"
    )
    refused(arguments(lines, tmp_path / "d", "--batch-size", "64"), capsys, "batch size: must be at most the 48")


def test_the_main_job_reaches_a_lower_target(tmp_path, capsys):
    """Lines that are read whole; bench/convergence.py trains to the recipe's, 0.88."""
    output = tmp_path / "out"
    assert here(["ocr", "--seed", "5", "--target", "0.3", "--output", str(output)], num_threads=1) == 0
    assert capsys.readouterr().err.count(digit_scenes.NAME) == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["best_accuracy"] >= summary["target"] == 0.3
    (data,) = events_of(output, "data")
    assert (data["train_samples"], data["eval_samples"]) == (6000, 1000)
