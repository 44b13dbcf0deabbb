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


def assert_same_run(resumed, uninterrupted):
    """Weights, optimizer state, losses and accuracies have the same bits."""
    ours, theirs = (max((output / "checkpoints").iterdir()) for output in (resumed, uninterrupted))
    assert ours.name == theirs.name
    weights, expected = (load_file(path / "model.safetensors") for path in (ours, theirs))
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []
    states = [torch.load(path / "state.pt", weights_only=True) for path in (ours, theirs)]
    for one, other in zip(*(_parts(state["optimizers"]["model"]) for state in states), strict=True):
        assert one.keys() == other.keys()
        for number, state in one.items():
            assert all(torch.equal(tensor, other[number][name]) for name, tensor in state.items())
    assert losses(resumed) == losses(uninterrupted)
    assert accuracies(resumed) == accuracies(uninterrupted)
