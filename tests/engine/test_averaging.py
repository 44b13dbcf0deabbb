"""Evaluation with the mean of the last checkpoints' weights: the values, what is kept, resuming, another rank."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from engine import toy
from safetensors.torch import load_file

from airank_fast.engine import averaging
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.engine.training import evaluate
from airank_fast.record.events import effective, read_events


@dataclass(frozen=True)
class Recipe(toy.Recipe):
    """With checkpoints after 3, 5, 6, 9, 10 and 12 steps, of which those of 5, 10 and 12 are evaluated."""

    average_checkpoints: int = 3


def qualities(directory) -> list[dict]:
    return [e["quality"] for e in effective(read_events(directory / "events.jsonl")) if e["kind"] == "eval_stop"]


def mean_of(directory, name: str) -> dict[str, torch.Tensor]:
    """Of a network's weights in the checkpoints that are kept."""
    paths = sorted((directory / "checkpoints").iterdir())
    assert [path.name for path in paths] == ["step-00000009", "step-00000010", "step-00000012"]
    found = [load_file(path / f"{name}.safetensors") for path in paths]
    return {key: sum(each[key] for each in found) / 3 for key in found[0]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run."""
    directory = tmp_path_factory.mktemp("averaging") / "whole"
    assert toy.run(toy.Job(Recipe()), directory) == 0
    return directory


def test_the_mean_is_evaluated_and_kept(whole):
    job = toy.Job(Recipe())
    job.open_data(toy.ALONE, torch.device("cpu"), torch.float32)
    state = State(job, toy.ALONE)
    for name, network in state.networks.items():
        mean = mean_of(whole, name)
        kept = load_file(whole / "checkpoints" / "step-00000012" / f"averaged_{name}.safetensors")
        torch.testing.assert_close(kept, mean)
        network.load_state_dict(kept)
    assert evaluate(state)[0] == qualities(whole)[-1]


def test_training_goes_on_with_the_weights_as_they_are(whole, tmp_path):
    assert toy.run(toy.Job(), tmp_path / "plain") == 0
    for name in ("generator", "discriminator"):
        files = [path / "checkpoints" / "step-00000012" / f"{name}.safetensors" for path in (whole, tmp_path / "plain")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert qualities(whole) != qualities(tmp_path / "plain")
    assert not list((tmp_path / "plain" / "checkpoints").glob("*/averaged*"))


def test_a_resumed_run_averages_the_same(whole, tmp_path):
    with pytest.raises(RuntimeError, match="the data has ended"):
        toy.run(toy.Job(Recipe(), break_at=7), tmp_path / "broken")
    assert toy.run(toy.Job(Recipe()), tmp_path / "broken", resume=True) == 0
    assert qualities(tmp_path / "broken") == qualities(whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_rank_gets_what_rank_0_has_read(whole, monkeypatch, precision):
    state = State(toy.Job(Recipe(precision=precision)), toy.ALONE)
    state.progress["step"] = 11
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(World, "sum", lambda world, tensor: sent.append(tensor.clone()) or tensor)
    first = averaging.averaged(state, whole)
    state.world = World(1, 2, 1, 2, torch.device("cpu"))
    monkeypatch.setattr(World, "sum", lambda world, tensor: tensor.add_(sent.pop(0)))
    second = averaging.averaged(state, whole)
    for name, network in first.items():
        torch.testing.assert_close(second[name].state_dict(), network.state_dict(), rtol=0, atol=0)
        own = state.networks[name].state_dict()
        assert any(not torch.equal(tensor, own[key]) for key, tensor in network.state_dict().items())
