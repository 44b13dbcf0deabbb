"""A small network and its training, for the tests of the optimizers."""

from __future__ import annotations

import torch
from torch import nn


def network(dtype=torch.float32, seed=0):
    """Convolutions in channels_last, batch norm and a linear layer; no parameter whose gradient is only rounding."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(36, 5)
    ).to(dtype)
    return model.to(memory_format=torch.channels_last)


def run_steps(model, optimizer, num_steps, scaler=None, first=0):
    """Steps `first` and on; every step has its own batch."""
    dtype = next(model.parameters()).dtype
    for step in range(first, first + num_steps):
        x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step)).to(dtype)
        loss = model(x.to(memory_format=torch.channels_last)).float().square().mean()
        optimizer.zero_grad()
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()


def assert_same(model, other, exact=True, **tolerances):
    """Equal parameters."""
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        if exact:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, **tolerances)
