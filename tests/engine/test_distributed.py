"""The ranks of a run: averages over them, and gathering from them."""

from __future__ import annotations

import pytest
import torch
from ranks import on_two_ranks
from torch import nn

from airank_fast.engine.distributed import World


class Network(nn.Module):
    """Two kinds of normalisation, and a buffer that is not a statistic."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.norm, self.instance = nn.BatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True)
        self.register_buffer("anchors", torch.full((3,), float(rank)))
        for statistic in (self.norm.running_mean, self.norm.running_var, self.instance.running_mean):
            statistic.fill_(float(rank))
        self.norm.num_batches_tracked.fill_(rank)


def average(rank: int) -> dict:
    network = Network(rank)
    World(rank, 2, rank, 2, torch.device("cpu")).average_buffers(network)
    return {name: tensor.tolist() for name, tensor in network.state_dict().items()}


def test_batch_norm_statistics_are_averaged_and_no_other_buffer():
    for rank, state in enumerate(on_two_ranks(average)):
        assert state["norm.running_mean"] == state["norm.running_var"] == [0.5, 0.5]
        assert state["instance.running_mean"] == [0.5, 0.5]
        assert state["anchors"] == [rank] * 3
        assert state["norm.num_batches_tracked"] == rank


@pytest.mark.parametrize("network", [Network(3), nn.Linear(2, 2)])
def test_one_rank_averages_nothing(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    World(0, 1, 0, 1, torch.device("cpu")).average_buffers(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
