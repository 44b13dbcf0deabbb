"""pix2pix's generator, a U-Net: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017.

Parameter names are those of junyanz/pytorch-CycleGAN-and-pix2pix, so that its checkpoints load with `load_state_dict`:
model.model.0.weight, model.model.1.model.1.weight. The discriminator is `gan_layers.PatchGAN` over both pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.models.gan_layers import SLOPE, PreferredLayout, convolutions, initialise, normalisation
from airank_fast.nn import PatchConv2d

_FIRST_DROPOUT = 4  # the level, from 0: those that keep 8 times the width on both sides


class UNet(nn.Module):
    """The generator: convolutions of stride 2 down to few pixels and up again, each level with a way past the next.

    Args:
        in_channels, out_channels: of the pictures.
        width: channels of the first level; later ones have 2, 4 and at most 8 times as many.
        levels: 8 for pictures of 256 pixels, 7 for 128; the last one has H / 2**levels pixels a side.
        dropout: share of the features that is dropped in levels behind the fourth, but for the last.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.

    54,413,955 parameters with 3 channels and 8 levels.

    Input: float [N, in_channels, H, W] from -1 to 1, H and W multiples of 2**levels. Output: [N, out_channels, H, W],
    from -1 to 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        levels: int = 8,
        *,
        dropout: float = 0.5,
        fused: bool = True,
    ) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        inner: nn.Module | None = None
        for level in range(levels - 1, 0, -1):
            dropped = dropout if _FIRST_DROPOUT <= level < levels - 1 else 0.0
            inner = _Level(widths[level - 1], widths[level], inner, dropped, fused=fused)
        assert inner is not None, "a U-Net has at least 2 levels"
        self.model = _FirstLevel(in_channels, out_channels, width, inner, fused=fused)
        self._layout = PreferredLayout(width if fused else 0)
        initialise(self)

    def layout(self, device: torch.device) -> torch.memory_format:
        """See `PreferredLayout`."""
        return self._layout.choose(device)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(self._layout.of(pictures))


class _FirstLevel(nn.Module):
    """The level of the pictures themselves."""

    def __init__(self, in_channels: int, out_channels: int, width: int, inner: nn.Module, *, fused: bool) -> None:
        super().__init__()
        conv, transposed = convolutions(fused)
        down = conv(in_channels, width, 4, 2, 1, bias=False)
        up = transposed(2 * width, out_channels, 4, 2, 1)
        self.model = nn.Sequential(down, inner, nn.Identity(), up)

    def forward(self, pictures: Tensor) -> Tensor:
        down, inner, _, up = self.model
        return torch.tanh(up(inner(F.leaky_relu(down(pictures), SLOPE))))


class _Level(nn.Module):
    """A deeper level; `inner` is the next one, None for the last.

    Input: [N, outer, h, w], behind a leaky ReLU. Output: the input and what the deeper levels make of it, both behind a
    ReLU: [N, 2 * outer, h, w].
    """

    def __init__(self, outer: int, width: int, inner: nn.Module | None, dropout: float, *, fused: bool) -> None:
        super().__init__()
        down = (PatchConv2d if fused else nn.Conv2d)(outer, width, 4, 2, 1, bias=False)
        up = convolutions(fused)[1](width if inner is None else 2 * width, outer, 4, 2, 1, bias=False)
        last = normalisation("batch", outer, "relu", fused=fused)
        self.is_last = inner is None
        if inner is None:
            self.model = nn.Sequential(nn.Identity(), down, nn.Identity(), up, last)
        else:
            first = normalisation("batch", width, "leaky_relu", fused=fused)
            dropped = [nn.Dropout(dropout)] if dropout else []
            self.model = nn.Sequential(nn.Identity(), down, first, inner, nn.Identity(), up, last, *dropped)
        self.turn = 3 if inner is None else 4  # layers before the way up

    def forward(self, x: Tensor) -> Tensor:
        # A ReLU of a leaky ReLU is that of its input; one behind a dropout is one before it.
        y, layers = x, [*self.model]
        for layer in layers[: self.turn]:
            y = layer(y)
        y = F.relu(y) if self.is_last else y
        for layer in layers[self.turn :]:
            y = layer(y)
        return torch.cat([F.relu(x), y], 1)
