"""CycleGAN's generator (Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
2017): a residual network.

Parameter names are those of junyanz/pytorch-CycleGAN-and-pix2pix, so that its checkpoints load with `load_state_dict`:
model.1.weight, model.10.conv_block.1.bias. The discriminator is `gan_layers.PatchGAN` with instance norm.
"""

from __future__ import annotations

from torch import Tensor, nn

from airank_fast.models.gan_layers import convolutions, initialise, normalisation

_HALVINGS = 2


class ResNetGenerator(nn.Module):
    """The generator: two convolutions of stride 2, residual blocks, and two transposed convolutions.

    Args:
        in_channels, out_channels: of the pictures.
        width: channels of the first convolution; the blocks have 4 times as many.
        blocks: residual blocks: 9 for pictures of 256 pixels, 6 for 128.
        dropout: share of the features that is dropped inside a block; with one, later layers of a block have another
            number in their names.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.

    11,378,179 parameters with 3 channels and 9 blocks. Instance norms have none, so that convolutions have biases.

    Input: float [N, in_channels, H, W] from -1 to 1, H and W multiples of 4, at least 8. Output: [N, out_channels,
    H, W], from -1 to 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 9,
        *,
        dropout: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        conv, transposed = convolutions(fused)

        def norm(channels: int) -> list[nn.Module]:
            return [normalisation("instance", channels, "relu", fused=fused), nn.Identity()]

        modules: list[nn.Module] = [nn.ReflectionPad2d(3), conv(in_channels, width, 7), *norm(width)]
        for _ in range(_HALVINGS):
            modules += [conv(width, 2 * width, 3, 2, 1), *norm(2 * width)]
            width *= 2
        modules += [ResNetBlock(width, dropout, fused=fused) for _ in range(blocks)]
        for _ in range(_HALVINGS):
            up = transposed(width, width // 2, 3, 2, 1, output_padding=1)
            width //= 2
            modules += [up, *norm(width)]
        modules += [nn.ReflectionPad2d(3), conv(width, out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*modules)
        initialise(self)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pictures)


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions with instance norm, a ReLU behind the first, and the input added."""

    def __init__(self, width: int, dropout: float, *, fused: bool) -> None:
        super().__init__()
        conv, _ = convolutions(fused)
        modules: list[nn.Module] = [nn.ReflectionPad2d(1), conv(width, width, 3)]
        modules += [normalisation("instance", width, "relu", fused=fused), nn.Identity()]
        modules += [nn.Dropout(dropout)] if dropout else []
        modules += [nn.ReflectionPad2d(1), conv(width, width, 3)]
        modules += [normalisation("instance", width, None, fused=fused)]
        self.conv_block = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        *layers, last = self.conv_block
        y = x
        for layer in layers:
            y = layer(y)
        return last(y, x)
