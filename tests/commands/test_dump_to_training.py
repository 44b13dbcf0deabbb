"""From raw text to a trained network, as a user does it: prepare, verify, train with evaluations, stop, resume."""

from __future__ import annotations

import bz2
import shutil
import sys
from pathlib import Path
from pydoc_data.topics import topics
from unittest import mock

import pytest

pytest.importorskip("h5py")
pytest.importorskip("mwparserfromhell")
pytest.importorskip("tokenizers")

from commands.forks import Run
from commands.runs import kinds_of, wait_until
from safetensors.torch import load_file

from airank_fast import prepare, train
from airank_fast.cli import run_command
from airank_fast.record.events import effective, read_events

EXPORT = Path(__file__).parents[1] / "sources/export.xml"


def run(command, *arguments) -> int:
    """Run the command in this process; returns its exit status."""
    with mock.patch.object(sys, "argv", ["command", *map(str, arguments)]):
        return command.main()


def raw(source: str, folder: Path) -> Path:
    """A user's input: a dump, or a directory of text files."""
    if source == "dump":
        path = folder / "enwiki-pages-articles.xml.bz2"
        path.write_bytes(bz2.compress(EXPORT.read_bytes()))
        return path
    for name, text in topics.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


PREPARE = {
    "dump": ["--train-vocab", 300, "--eval-fraction", 0.3, "--part-mb", 0.001, "--duplicates", 5],
    "text": ["--train-vocab", 1000, "--eval-fraction", 0.1, "--part-mb", 0.2, "--duplicates", 1, "--eval-samples", 50],
}


def losses(output: Path) -> list[float]:
    return [loss for e in effective(read_events(output / "events.jsonl")) if e["kind"] == "steps" for loss in e["loss"]]


@pytest.mark.parametrize(("source", "form"), [("dump", "padded"), ("text", "variable")])
def test_from_raw_text_to_a_network_and_on_after_a_kill(source, form, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    data = tmp_path / "data"
    where = ["--input", raw(source, tmp_path / "raw"), "--output", data, "--form", form, "--max-seq-length", 64]
    assert run(prepare, "wikicorpus", *where, *PREPARE[source], "--workers", 2) == 0
    assert run(prepare, "--verify", data) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{data}: sound"

    command = [
        "bert-tiny",
        "--amp",
        "--data",
        data,
        "--vocab-size",
        PREPARE[source][1],
        "--sequence-length",
        64,
        "--batch-size",
        8,
        "--steps",
        6,
        "--warmup-steps",
        2,
        "--eval-every-samples",
        24,
        "--target",
        0.99,
        "--learning-rate",
        0.01,
        "--checkpoint-steps",
        2,
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(train, *command, "--output", whole) == 1  # 0.99 is out of reach
    evaluations = [e for e in read_events(whole / "events.jsonl") if e["kind"] == "eval_stop"]
    assert [e["samples"] for e in evaluations] == [24, 48]
    assert all(e["counted"] > e["correct"] for e in evaluations)
    assert len(losses(whole)) == 6

    process = Run([*map(str, command), "--output", str(killed)])
    wait_until(lambda: "checkpoint" in kinds_of(killed), process)
    process.kill()
    process.communicate()
    assert run(train, *command, "--output", killed, "--resume") == 1
    assert losses(killed) == losses(whole)
    ends = [load_file(max((output / "checkpoints").iterdir()) / "model.safetensors") for output in (whole, killed)]
    assert all((ends[0][name] == tensor).all() for name, tensor in ends[1].items())


def refused(capsys, command, *arguments) -> str:
    """The one line on stderr with which the command ends, at status 2."""
    capsys.readouterr()
    with mock.patch.object(sys, "argv", ["command", *map(str, arguments)]), pytest.raises(SystemExit) as stop:
        run_command(command.main)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The export fragment as shards."""
    folder = tmp_path_factory.mktemp("fragment")
    where = ["--input", raw("dump", folder), "--output", folder / "data", "--max-seq-length", 64, "--workers", 1]
    assert run(prepare, "wikicorpus", *where, *PREPARE["dump"]) == 0
    return folder / "data"


def test_data_that_cannot_be_trained_on_gets_one_line(prepared, tmp_path, capsys):
    data = shutil.copytree(prepared, tmp_path / "data")
    outputs = (tmp_path / f"out{number}" for number in range(9))

    def train_on(*more) -> str:
        sizes = ["--vocab-size", 300, "--sequence-length", 64, "--batch-size", 8, "--steps", 2, "--warmup-steps", 0]
        return refused(capsys, train, "bert-tiny", "--data", data, *sizes, *more, "--output", next(outputs))

    line = train_on("--vocab-size", 30522)
    assert line == f"error: data: must have a vocabulary of 30522 tokens, got 300 in {data / 'vocab.txt'}"
    assert "samples of at most 32 tokens, got 64" in train_on("--sequence-length", 32)

    shard = data / "train/part-00000.hdf5"
    content = shard.read_bytes()
    shard.unlink()
    assert "the shards of the manifest" in (line := train_on())
    assert line.endswith("train/part-00000.hdf5 is missing")
    shard.write_bytes(content)
    (extra := data / "train/part-99999.hdf5").write_bytes(content)
    assert train_on().endswith("train/part-99999.hdf5 is not in the manifest")
    extra.unlink()
    shard.write_bytes(content[: len(content) // 2])
    assert train_on().startswith(f"error: data: must be a whole HDF5 file, got {shard}")
    shard.write_bytes(content)
    import h5py

    with h5py.File(shard, "a") as file:
        ids = file["input_ids"][0]
        ids[1] = 300
        file["input_ids"][0] = ids
    assert train_on() == f"error: data: must have input_ids of 0 ... 299, got 300 in row 0 of {shard}"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dump_that_breaks_off_or_is_damaged_gets_one_line(workers, tmp_path, capsys):
    """In the middle of a bz2 stream, between two streams of a multistream dump, and with bytes flipped."""
    text = EXPORT.read_bytes()
    whole = bz2.compress(text)
    first = bz2.compress(text[: text.index(b"<page>")])
    broken = {
        "cut": whole[: len(whole) // 2],
        "between": first,
        "flipped": whole[:2000] + bytes(byte ^ 0xFF for byte in whole[2000:2010]) + whole[2010:],
    }
    for name, content in broken.items():
        (path := tmp_path / f"{name}.xml.bz2").write_bytes(content)
        where = ["--input", path, "--output", tmp_path / name, "--workers", workers]
        line = refused(capsys, prepare, "wikicorpus", *where, *PREPARE["dump"])
        assert line.startswith(f"error: input: must be a whole MediaWiki export, {path} is truncated after 0 pages, ")
        assert not list((tmp_path / name).rglob("*.hdf5"))
    both = bz2.compress(text[: text.index(b"<page>")]) + bz2.compress(text[text.index(b"<page>") :])
    (tmp_path / "multistream.xml.bz2").write_bytes(both)
    where = ["--input", tmp_path / "multistream.xml.bz2", "--output", tmp_path / "fine", "--workers", workers]
    assert run(prepare, "wikicorpus", *where, *PREPARE["dump"]) == 0
