"""Weights and pictures by rule, the same for a network here and for the reference that has its names."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


def uniform(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Numbers from -1 to 1 that depend on the name."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) - 1


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """The network with known weights and batch-norm statistics."""
    for name, tensor in network.state_dict().items():
        values = uniform(name, tensor.shape)
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_((1 + values / 2) * (1 if name.endswith("var") else 0.5))
        elif tensor.ndim > 1:
            tensor.copy_(values * (6 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(values / 5)
    return network.eval()


def picture(height: int = 64, width: int = 96) -> Tensor:
    """[1, 3, H, W], from -2 to 2."""
    return 2 * uniform("picture", (1, 3, height, width))
