"""From raw text to a trained network, as a user goes: prepare, verify, train on it with evaluations, stop, resume."""

from __future__ import annotations

import bz2
import sys
from pathlib import Path
from pydoc_data.topics import topics
from unittest import mock

import pytest

pytest.importorskip("h5py")
pytest.importorskip("mwparserfromhell")
pytest.importorskip("tokenizers")

from commands.runs import kinds_of, start, wait_until
from safetensors.torch import load_file

from airank_fast import prepare, train
from airank_fast.record.events import effective, read_events

EXPORT = Path(__file__).parents[1] / "sources/export.xml"


def run(command, *arguments) -> int:
    """The command in this process; its exit status."""
    with mock.patch.object(sys, "argv", ["command", *map(str, arguments)]):
        return command.main()


def raw(source: str, folder: Path) -> Path:
    """What a user starts from: a dump, or a directory of text files."""
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
        "bert-tiny", "--amp", "--data", data, "--vocab-size", PREPARE[source][1], "--sequence-length", 64,
        "--batch-size", 8, "--steps", 6, "--warmup-steps", 2, "--eval-every-samples", 24, "--target", 0.99,
        "--learning-rate", 0.01, "--checkpoint-steps", 2,
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(train, *command, "--output", whole) == 1  # 0.99 is out of reach
    evaluations = [e for e in read_events(whole / "events.jsonl") if e["kind"] == "eval_stop"]
    assert [e["samples"] for e in evaluations] == [24, 48]
    assert all(e["counted"] > e["correct"] for e in evaluations)
    assert len(losses(whole)) == 6

    process = start([*map(str, command), "--output", str(killed)])
    wait_until(lambda: "checkpoint" in kinds_of(killed), process)
    process.kill()
    process.communicate()
    assert run(train, *command, "--output", killed, "--resume") == 1
    assert losses(killed) == losses(whole)
    ends = [load_file(max((output / "checkpoints").iterdir()) / "model.safetensors") for output in (whole, killed)]
    assert all((ends[0][name] == tensor).all() for name, tensor in ends[1].items())
