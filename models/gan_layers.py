"""What the networks of pix2pix and CycleGAN share: normalisation with its activation, first weights, and the PatchGAN.

Parameter names are those of junyanz/pytorch-CycleGAN-and-pix2pix: an `nn.Sequential` has an `nn.Identity` where an
activation is part of the normalisation before it, so that the numbers of its layers are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn import BatchNormAct2d, Conv2d, ConvTranspose2d, InstanceNormAct2d
from airank_fast.nn.choices import contiguous_network_is_faster

Norm = Literal["batch", "instance"]
AdversarialLoss = Literal["bce", "least_squares"]
SLOPE = 0.2  # of leaky ReLUs


class PlainBatchNormAct(nn.BatchNorm2d):
    """`BatchNormAct2d` in torch's own operators. activation: "relu", "leaky_relu" or None."""

    def __init__(self, channels: int, activation: str | None) -> None:
        super().__init__(channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return _activated(super().forward(x), self.activation)


class PlainInstanceNormAct(nn.InstanceNorm2d):
    """`InstanceNormAct2d` in torch's own operators. activation: "relu", "leaky_relu" or None."""

    def __init__(self, channels: int, activation: str | None) -> None:
        super().__init__(channels)
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        if x.requires_grad:  # of one picture torch 2.13's gradient is wrong on a CPU where that of x is channels_last
            x.register_hook(lambda gradient: gradient.contiguous())
        return _activated(x if residual is None else x + residual, self.activation)


def _activated(x: Tensor, activation: str | None) -> Tensor:
    if activation is None:
        return x
    return F.relu(x) if activation == "relu" else F.leaky_relu(x, SLOPE)


def normalisation(norm: Norm, channels: int, activation: str | None, *, fused: bool) -> nn.Module:
    """Batch norm, or instance norm without parameters, and the activation behind it: relu, leaky_relu (0.2) or none.

    fused: airank_fast.nn's modules; else torch's own.
    """
    if norm == "instance":
        if fused:
            return InstanceNormAct2d(channels, activation=activation, negative_slope=SLOPE)
        return PlainInstanceNormAct(channels, activation)
    if fused:
        return BatchNormAct2d(channels, activation=activation, negative_slope=SLOPE)
    return PlainBatchNormAct(channels, activation)


class PreferredLayout:
    """The layout in which a network of 4x4 convolutions and batch norms is fastest on a device; channels: its narrowest
    width. The engine asks for it before it places the weights; until then pictures stay as they are."""

    def __init__(self, channels: int) -> None:
        self._channels, self._is_contiguous = channels, False

    def choose(self, device: torch.device) -> torch.memory_format:
        """Contiguous or channels_last."""
        self._is_contiguous = contiguous_network_is_faster(device, self._channels)
        return torch.contiguous_format if self._is_contiguous else torch.channels_last

    def of(self, pictures: Tensor) -> Tensor:
        """The pictures in that layout."""
        return pictures.contiguous() if self._is_contiguous else pictures


def convolutions(fused: bool) -> tuple[type[nn.Conv2d], type[nn.ConvTranspose2d]]:
    """The classes of convolutions: airank_fast.nn's, or torch's own."""
    return (Conv2d, ConvTranspose2d) if fused else (nn.Conv2d, nn.ConvTranspose2d)


def initialise(network: nn.Module) -> None:
    """The first weights of both papers: of convolutions from N(0, 0.02), of batch norms from N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@contextlib.contextmanager
def own_statistics(network: nn.Module) -> Iterator[None]:
    """Have batch norms in evaluation take the statistics of their batch, on this rank alone, and keep none of them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(norm.running_mean, norm.running_var, getattr(norm, "group", None)) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = norm.group = None
    try:
        yield
    finally:
        for norm, statistics in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var, norm.group = statistics


def adversarial_loss(logits: Tensor, is_real: bool, kind: AdversarialLoss) -> Tensor:
    """The mean over patches of a discriminator's loss where it must say `is_real`, float32 scalar.

    logits: [N, 1, h, w]. kind: "bce", the cross entropy of the patch's probability (Goodfellow et al., 2014), or
    "least_squares", its square distance from 1 or 0 (Mao et al., 2017).
    """
    logits = logits.float()
    if kind == "least_squares":
        return ((logits - 1) if is_real else logits).square().mean()
    return F.softplus(-logits if is_real else logits).mean()


class PatchGAN(nn.Module):
    """The discriminator: whether overlapping patches are of a real picture (70 x 70 pixels with 3 layers).

    Args:
        in_channels: of the picture; in pix2pix of both pictures.
        width: channels of the first convolution; later ones have 2, 4 and at most 8 times as many.
        layers: convolutions of stride 2.
        norm: behind all convolutions but the first and the last.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.

    2,764,737 parameters with 3 channels and instance norm, 2,768,705 with 6 and batch norm.

    Input: float [N, in_channels, H, W]. Output: logits [N, 1, h, w], h = H / 2**layers - 2.
    """

    def __init__(self, in_channels: int, width: int = 64, layers: int = 3, *, norm: Norm, fused: bool = True) -> None:
        super().__init__()
        bias, (conv, _) = norm == "instance", convolutions(fused)  # batch norm has a bias of its own
        modules: list[nn.Module] = [conv(in_channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)]
        before = width
        for number in range(1, layers + 1):
            channels = width * min(2**number, 8)
            stride = 2 if number < layers else 1
            modules += [
                conv(before, channels, 4, stride, 1, bias=bias),
                normalisation(norm, channels, "leaky_relu", fused=fused),
                nn.Identity(),
            ]
            before = channels
        modules.append(conv(before, 1, 4, 1, 1))
        self.model = nn.Sequential(*modules)
        self._layout = PreferredLayout(width if fused and norm == "batch" else 0)  # instance norm's is channels_last
        initialise(self)

    def layout(self, device: torch.device) -> torch.memory_format:
        """See `PreferredLayout`."""
        return self._layout.choose(device)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(self._layout.of(pictures))
