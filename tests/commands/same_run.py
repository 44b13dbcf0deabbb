"""Whether a run that was interrupted is the same as one that was not."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from airank_fast.record.events import effective, read_events


def losses(output):
    return [loss for e in effective(read_events(output / "events.jsonl")) if e["kind"] == "steps" for loss in e["loss"]]


def accuracies(output):
    return [e["accuracy"] for e in effective(read_events(output / "events.jsonl")) if e["kind"] == "eval_stop"]


def _parts(optimizer):
    """The state of each part of a CombinedOptimizer, or of the one optimizer."""
    return [part["state"] for part in optimizer.get("optimizers", [optimizer])]


def _are_equal(one, other) -> bool:
    """Whether nested values are the same, their tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return one == other


def assert_same_run(resumed, uninterrupted):
    """Weights of every network, state of every optimizer and of the job, losses and accuracies have the same bits."""
    ours, theirs = (max((output / "checkpoints").iterdir()) for output in (resumed, uninterrupted))
    assert ours.name == theirs.name
    files = sorted(file.name for file in ours.glob("*.safetensors"))
    assert files == sorted(file.name for file in theirs.glob("*.safetensors"))
    for file in files:
        weights, expected = (load_file(path / file) for path in (ours, theirs))
        assert weights.keys() == expected.keys()
        assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []
    states = [torch.load(path / "state.pt", weights_only=True) for path in (ours, theirs)]
    assert states[0]["optimizers"].keys() == states[1]["optimizers"].keys()
    for name, optimizer in states[0]["optimizers"].items():
        for one, other in zip(_parts(optimizer), _parts(states[1]["optimizers"][name]), strict=True):
            assert one.keys() == other.keys()
            for number, state in one.items():
                assert all(torch.equal(tensor, other[number][key]) for key, tensor in state.items())
    jobs = [[rank["job"] for rank in state["ranks"]] for state in states]
    assert _are_equal(*jobs)
    assert losses(resumed) == losses(uninterrupted)
    assert accuracies(resumed) == accuracies(uninterrupted)
