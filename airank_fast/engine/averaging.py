"""The mean of a run's weights now and at its last checkpoints, for an evaluation: fairseq's averaged checkpoints.

A recipe that has the field `average_checkpoints` is evaluated so; training goes on with the weights as they are.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from airank_fast.engine import checkpoint, weights
from airank_fast.engine.state import State
from airank_fast.job import Networks

PREFIX = "averaged_"  # of the files of mean weights, beside those of a checkpoint's networks


def number_of(recipe: object) -> int:
    """Of how many checkpoints the mean is; 1: there is none."""
    return getattr(recipe, "average_checkpoints", 1)


def averaged(state: State, directory: Path) -> Networks:
    """Copies of the networks with mean weights, of the last ``average_checkpoints`` or as many as there are.

    Weights as they are count as the newest checkpoint; the others are read by rank 0 from below ``directory``. Integers
    are not averaged. ``state.averaged`` has the weights for the next checkpoint, which keeps them in files of their
    own. A collective. UserError for a checkpoint that cannot be read.
    """
    state.average_buffers()
    step, number = state.progress["step"], number_of(state.job.recipe)
    own = {name: weights.full_state(network, state.optimizers) for name, network in state.networks.items()}
    earlier = [path for path in checkpoint.find(directory / "checkpoints") if checkpoint.step_of(path) < step]
    paths = earlier[-(number - 1) :] if state.world.rank == 0 else []
    count = 1 + int(state.world.sum(torch.tensor(len(paths), device=state.device)))
    sums = {
        name: {key: torch.zeros_like(tensor) for key, tensor in found.items() if tensor.is_floating_point()}
        for name, found in own.items()
    }
    for path in paths:
        of_networks = checkpoint.load_weights(path, own)
        for name, found in sums.items():
            for key, total in found.items():
                total += of_networks[name][key].to(total.device)
    networks = {name: copy.deepcopy(network).eval() for name, network in state.networks.items()}
    state.averaged = (step, {})
    for name, found in sums.items():
        mean = {key: (state.world.sum(total) + own[name][key]) / count for key, total in found.items()}
        state.averaged[1][PREFIX + name] = mean = own[name] | mean
        networks[name].load_state_dict(mean)
    return networks
