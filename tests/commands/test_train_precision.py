"""The precision of --amp and --precision on a CPU, and where it is reported."""

from __future__ import annotations

import json
import math

import pytest
import torch
from commands.test_train_bert import arguments, here

from airank_fast import processor
from airank_fast import train as command
from airank_fast.engine import precision
from airank_fast.engine.distributed import World
from airank_fast.recipes.command_line import parse
from airank_fast.record.events import read_events


@pytest.fixture
def older_processor(monkeypatch):
    """A processor that emulates 16-bit products, 26 times as slow as float32."""
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(precision, "relative_speed", lambda dtype: 1 / 26)


def of_kind(output, kind: str) -> list[dict]:
    return [event for event in read_events(output / "events.jsonl") if event["kind"] == kind]


@pytest.mark.usefixtures("older_processor")
def test_amp_is_fp32_where_16_bits_are_emulated_and_the_run_reports_it(tmp_path, capsys):
    output = tmp_path / "out"
    assert here(arguments(output, "--amp", "--steps", "2")) == 1
    assert json.loads((output / "recipe.json").read_text())["precision"] == "fp32"
    (config,) = of_kind(output, "run_config")
    assert (config["precision"], config["precision_reason"]) == ("fp32", "--amp: AVX2 has no bf16 instructions")
    assert of_kind(output, "warning") == []
    lines = [line for line in capsys.readouterr().err.splitlines() if "--amp" in line]
    assert lines == ["precision: fp32 (--amp: AVX2 has no bf16 instructions)"]


@pytest.mark.usefixtures("older_processor")
def test_a_requested_precision_runs_and_warns_once_with_the_factor(tmp_path, capsys):
    output = tmp_path / "out"
    more = ["--precision", "bf16", "--steps", "2", "--eval-every-samples", "8"]
    assert here(arguments(output, *more, "--checkpoint-steps", "1")) == 1
    assert here(arguments(output, *more, "--checkpoint-steps", "1", "--resume")) == 1
    assert [config["precision"] for config in of_kind(output, "run_config")] == ["bf16"]
    (warning,) = of_kind(output, "warning")
    assert "26.0 times as slow as fp32 on this processor (AVX2)" in warning["message"]
    assert capsys.readouterr().err.count("26.0 times") == 1


@pytest.mark.usefixtures("older_processor")
def test_fp16_trains_with_a_scaled_loss(tmp_path):
    output = tmp_path / "out"
    assert here(arguments(output, "--precision", "fp16", "--steps", "3", "--dropout", "0")) == 1
    (steps,) = (event["loss"] for event in of_kind(output, "steps") if event["first_step"] == 1)
    assert all(map(math.isfinite, steps))
    state = torch.load(max((output / "checkpoints").iterdir()) / "state.pt", weights_only=True)
    assert state["scaler"]["scale"] > 1


def test_every_rank_takes_the_choice_of_rank_0(monkeypatch):
    """Processors may differ from rank to rank, and so may measurements."""
    request = parse(["bert-tiny", "--amp"])
    choices = {0: precision.Choice("fp32", "of rank 0"), 1: precision.Choice("bf16", "of rank 1")}
    sent = []

    class Ranks(World):
        def broadcast(self, objects: list) -> list:
            if self.rank == 0:
                sent[:] = objects
            return sent

    for rank in (0, 1):
        monkeypatch.setattr(precision, "choose", lambda *_, rank=rank: choices[rank])
        world = Ranks(rank, 2, rank, 2, torch.device("cpu"))
        assert command.choose_precision(request, world) == choices[0]
