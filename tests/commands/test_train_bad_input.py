"""Bad input to the train command: one clear line, exit status 2, nothing lost."""

from __future__ import annotations

import resource
import shutil
import sys
from unittest import mock

import pytest
from commands.runs import arguments, here, narrow_resnet, train

from airank_fast.cli import run_command
from airank_fast.data import images as data
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize
from airank_fast.train import main

needs_dali = pytest.mark.skipif(not data.has_dali(), reason="DALI is not installed")


@pytest.fixture
def broken(tree, tmp_path):
    """A copy of the tree to damage."""
    return shutil.copytree(tree, tmp_path / "pictures")


@pytest.fixture
def refused(capsys):
    """Run the command here; it must end with status 2 and one line on stderr that holds every fragment."""

    def run(args, *fragments):
        with narrow_resnet(), mock.patch.object(sys, "argv", ["train", *args]), pytest.raises(SystemExit) as stop:
            run_command(main)
        check_refusal(stop.value.code, capsys.readouterr().err, *fragments)

    return run


def check_refusal(status, stderr, *fragments):
    assert status == 2, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    for fragment in fragments:
        assert fragment in lines[0]


def reason(output):
    return summarize(read_events(output / "events.jsonl"))["reason"]


def test_no_such_directory(tmp_path, refused):
    refused(arguments(tmp_path / "nowhere", tmp_path / "out"), "nowhere", "directory")


def test_a_tree_without_val(broken, tmp_path, refused):
    shutil.rmtree(broken / "val")
    refused(arguments(broken, tmp_path / "out"), "val")


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_class_on_one_side_only(side, broken, tmp_path, refused):
    shutil.rmtree(broken / side / "class2")
    refused(arguments(broken, tmp_path / "out"), "class2", side)


def test_an_empty_class(broken, tmp_path, refused):
    for picture in (broken / "train" / "class1").iterdir():
        picture.unlink()
    refused(arguments(broken, tmp_path / "out"), "class1")


def test_another_number_of_classes(tree, tmp_path, refused):
    refused(arguments(tree, tmp_path / "out", "--num-classes", "7"), "7 classes", "--num-classes 4")


@pytest.mark.parametrize("reader", [pytest.param("dali", marks=needs_dali), "torch"])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_a_broken_picture_is_named_and_the_log_closed(damage, reader, broken, tmp_path, refused):
    picture = broken / "train" / "class3" / "005.JPEG"
    picture.write_bytes(picture.read_bytes()[:600] if damage == "truncated" else b"not a picture at all\n" * 40)
    output = tmp_path / "out"
    refused(arguments(broken, output, "--reader", reader), str(picture))
    assert reason(output) == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()


def test_skip_corrupt_counts_and_reports(broken, tmp_path, capsys):
    for side, name in (("train", "005.JPEG"), ("val", "001.JPEG")):
        picture = broken / side / "class3" / name
        picture.write_bytes(picture.read_bytes()[:600])
    output = tmp_path / "out"
    assert here(arguments(broken, output, "--skip-corrupt", "--amp", "--epochs", "1")) in (0, 1)
    data = next(e for e in read_events(output / "events.jsonl") if e["kind"] == "data")
    assert (data["train_samples"], data["eval_samples"]) == (4 * 24 - 1, 4 * 5 - 1)
    assert [path.rsplit("/", 1)[1] for path, _ in data["corrupt_files"]] == ["005.JPEG", "001.JPEG"]
    reported = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("data: ") and "left out" in line
    ]
    assert reported[0] == "data: 2 of 116 pictures cannot be read and are left out"
    assert reported[1:] == [f"data: left out {path} ({why})" for path, why in data["corrupt_files"]]


def test_a_batch_larger_than_the_data_set(tree, tmp_path, refused):
    refused(arguments(tree, tmp_path / "out", "--batch-size", "128"), "96", "128")


def test_a_directory_that_holds_a_run(tree, tmp_path, refused):
    output = tmp_path / "out"
    assert here(arguments(tree, output, "--amp", "--epochs", "1")) in (0, 1)
    before = (output / "events.jsonl").read_bytes()
    refused(arguments(tree, output, "--amp", "--epochs", "1"), "--output", "--resume")
    assert (output / "events.jsonl").read_bytes() == before
    refused(arguments(tree, output, "--amp", "--epochs", "2", "--resume"), "epochs", "1", "2")


@pytest.mark.parametrize("options", [["--output", "{}/typo"], []])
def test_resume_requires_the_directory_of_a_run(options, tmp_path, refused):
    got = "typo" if options else "none"
    options = [option.format(tmp_path) for option in options]
    refused(["bert-tiny", "--resume", *options], "--output: must be the directory of a run to resume, got", got)
    assert not list(tmp_path.iterdir())


BERT = ["bert-tiny", "--steps", "2", "--warmup-steps", "1", "--eval-samples", "20", "--sequence-length", "32"]


@pytest.mark.parametrize(
    ("name", "target", "got"),
    [
        ("events.jsonl", "nowhere/events.jsonl", "No such file or directory"),
        ("airank.log", "/dev/full", "No space left on device"),
        ("mlperf.log", "/", "Is a directory"),
    ],
)
def test_a_log_that_cannot_be_written_is_refused_and_the_run_can_be_resumed(
    name, target, got, tmp_path, refused, monkeypatch
):
    log = tmp_path / "out" / name
    log.parent.mkdir()
    log.symlink_to(target)
    line = f"{log}: must be readable and writable, got: {got}"
    refused([*BERT, "--output", str(tmp_path / "out")], line)
    log.unlink()
    monkeypatch.setattr(sys, "argv", ["train", "bert-tiny", "--resume", "--output", str(tmp_path / "out")])
    assert main() == 1
    assert summarize(read_events(tmp_path / "out" / "events.jsonl"))["steps"] == 2


def test_an_output_that_is_a_file(tmp_path, refused):
    (tmp_path / "out").write_text("")
    refused([*BERT, "--output", str(tmp_path / "out")], "--output: must be a directory that can be written, got")


def test_a_checkpoint_of_another_model(tree, tmp_path, refused):
    output = tmp_path / "out"
    args = arguments(tree, output, "--amp", "--epochs", "1", "--checkpoint-steps", "3")
    assert here(args) in (0, 1)
    lines = (output / "events.jsonl").read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"kind":"run_stop"' in line)
    (output / "events.jsonl").write_text("".join(lines[:cut]))
    recipe = (output / "recipe.json").read_text()
    (output / "recipe.json").write_text(recipe.replace('"num_classes": 4', '"num_classes": 5'))
    refused([*args[:4], "5", *args[5:], "--resume"], "fc.", "[5", "[4")


def test_a_full_disk_stops_the_run_with_its_log_closed(tree, tmp_path):
    output = tmp_path / "out"

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50 * 2**20, resource.RLIM_INFINITY))

    process = train(arguments(tree, output, "--amp"), preexec_fn=little_room)
    check_refusal(process.returncode, process.stderr, "out: must be readable and writable, got:", "File too large")
    assert reason(output) == "disk_full"
    assert "avg_ips" in (output / "airank.log").read_text().splitlines()[-1]
    assert not list((output / "checkpoints").iterdir())


def test_a_nan_loss_stops_the_run_and_names_the_step(tree, tmp_path, refused):
    output = tmp_path / "out"
    refused(arguments(tree, output, "--amp", "--learning-rate", "1e38"), "nan", "step")
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("aborted", "nan_loss")


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--device", "cuda"), ("--device: must be cpu or auto", "no CUDA device")),
        (("--precision", "tf32"), ("tf32", "CUDA")),
        (("--amp", "--precision", "fp16"), ("--amp", "fp16")),
        (("--batch-size", "0"), ("--batch-size", "at least 1", "0")),
        (("--gradient-accumulation-steps", "3"), ("--batch-size", "multiple", "16")),
        (("--target", "75.9"), ("--target", "fraction", "75.9")),
        (("--eval-offset", "4"), ("--eval-offset", "4")),
        (("--epochs", "0"), ("--epochs", "0")),
        (("--image-size", "8"), ("--image-size", "32", "8")),
        (("--learning-rate", "-1"), ("--learning-rate", "-1")),
        (("--warmup-epochs", "9"), ("--warmup-epochs", "9")),
        (("--label-smoothing", "1"), ("--label-smoothing", "1")),
        (("--num-classes", "1"), ("--num-classes", "1")),
        (("--workers", "-1"), ("--workers", "-1")),
        (("--checkpoint-every", "0"), ("--checkpoint-every", "0")),
        (("--checkpoint-steps", "0"), ("--checkpoint-steps", "0")),
        (("--airank-warmup-epochs", "-1"), ("--airank-warmup-epochs", "-1")),
    ],
)
def test_options_out_of_range(options, fragments, tree, tmp_path, refused):
    refused(arguments(tree, tmp_path / "out", *options), *fragments)
    assert not (tmp_path / "out").exists()
