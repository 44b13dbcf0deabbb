"""HRNet for segmentation: four resolutions side by side, from a quarter of the picture's on, that exchange features.

Sun et al., "High-Resolution Representations for Labeling Pixels and Regions", 2019 (HRNetV2). Parameters have the names
and shapes of the official HRNet-Semantic-Segmentation's seg_hrnet, so that its checkpoints load with
``load_state_dict``. Enlarging is bilinear with ALIGN_CORNERS false, as in its configurations for Cityscapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.models.resnet import EXPANSION, BasicBlock, Bottleneck, PlainBatchNormAct2d, plain_pointwise_conv
from airank_fast.nn import BatchNormAct2d, PatchConv2d, PointwiseConv2d, UpsampleAddAct


class HighResolutionModule(nn.Module):
    """Blocks at each resolution, and an exchange in which each gets the sum over all.

    Takes and returns a list of [N, channels[i], H / 2**i, W / 2**i].
    """

    def __init__(self, channels: Sequence[int], num_blocks: int, *, fused: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, fused=fused) for _ in range(num_blocks))) for width in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(source): _exchange(channels, source, target, fused=fused)
                    for source in range(len(channels))
                    if source != target
                }
            )
            for target in range(len(channels))
        )
        self.sum = UpsampleAddAct() if fused else PlainUpsampleAddAct()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [
            self.sum(features[target], *(layer(features[int(source)]) for source, layer in layers.items()))
            for target, layers in enumerate(self.fuse_layers)
        ]


class PlainUpsampleAddAct(nn.Module):
    """`UpsampleAddAct` in torch's own operators."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for each in others:
            same = each.shape == x.shape
            x = x + (each if same else F.interpolate(each, x.shape[2:], mode="bilinear", align_corners=False))
        return F.relu(x)


class HRNet(nn.Module):
    """Input: float [N, 3, H, W], fastest in channels_last. Output: logits [N, num_classes, ceil(H / 4), ceil(W / 4)].

    Enlarging them to [H, W] is up to the loss and the prediction (`pixel_classes`).

    Args:
        num_classes: 19 for Cityscapes.
        width: channels at the highest resolution, 18 or 48; each of the next three has twice as many.
        modules: of the stages with two, three and four resolutions.
        num_blocks: of each resolution in a module, and of the first stage, which has one resolution.
        stem: channels of the first two convolutions, and of the first stage's 3x3 ones.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 18,
        modules: tuple[int, int, int] = (1, 4, 3),
        num_blocks: int = 4,
        stem: int = 64,
        fused: bool = True,
    ) -> None:
        super().__init__()
        convolution, norm = (PatchConv2d, BatchNormAct2d) if fused else (nn.Conv2d, PlainBatchNormAct2d)
        self.conv1 = convolution(3, stem, 3, 2, 1, bias=False)
        self.bn1 = norm(stem, relu=True)
        self.conv2 = convolution(stem, stem, 3, 2, 1, bias=False)
        self.bn2 = norm(stem, relu=True)
        first = stem * EXPANSION
        blocks = [Bottleneck(stem if index == 0 else first, stem, fused=fused) for index in range(num_blocks)]
        self.layer1 = nn.Sequential(*blocks)
        channels = [width * 2**index for index in range(4)]
        self.transition1 = nn.ModuleDict(
            {
                "0": _conv_norm(first, channels[0], 1, fused=fused),
                "1": nn.Sequential(_conv_norm(first, channels[1], 2, fused=fused)),
            }
        )
        for stage, number in enumerate(modules, 2):
            if stage > 2:
                added = nn.Sequential(_conv_norm(channels[stage - 2], channels[stage - 1], 2, fused=fused))
                setattr(self, f"transition{stage - 1}", nn.ModuleDict({str(stage - 1): added}))
            made = [HighResolutionModule(channels[:stage], num_blocks, fused=fused) for _ in range(number)]
            setattr(self, f"stage{stage}", nn.Sequential(*made))
        total = sum(channels)
        self.sum = UpsampleAddAct(relu=False) if fused else None
        self.last_layer = nn.Sequential(
            convolution(total, total, 1),
            norm(total, relu=True),
            nn.Identity(),  # the official ReLU, which is in the batch norm here
            convolution(total, num_classes, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # The batch norm takes a constant out again: AdamW would make steps of its gradient's rounding errors.
        nn.init.zeros_(self.last_layer[0].bias)
        self.last_layer[0].bias.requires_grad_(False)
        nn.init.kaiming_normal_(self.last_layer[3].weight)  # of few classes' fan-out it would be large
        nn.init.zeros_(self.last_layer[3].bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer1(self.bn2(self.conv2(self.bn1(self.conv1(images)))))
        features = self.stage2([self.transition1["0"](x), self.transition1["1"](x)])
        features = self.stage3([*features, self.transition2["2"](features[-1])])
        return self._logits(self.stage4([*features, self.transition3["3"](features[-1])]))

    def _logits(self, features: list[Tensor]) -> Tensor:
        """Of the four resolutions, enlarged to the first one's and side by side.

        Enlarging and a 1x1 convolution can be exchanged: behind it, the convolution takes an eighth of the operations.
        """
        first, *others = features
        if self.sum is None:
            enlarged = [F.interpolate(x, first.shape[2:], mode="bilinear", align_corners=False) for x in others]
            return self.last_layer(torch.cat([first, *enlarged], 1))
        convolution, *rest = self.last_layer
        weights = convolution.weight.split([x.shape[1] for x in features], 1)
        small = [F.conv2d(x, weight) for x, weight in zip(others, weights[1:], strict=True)]
        y = self.sum(F.conv2d(first, weights[0], convolution.bias), *small)
        for module in rest:
            y = module(y)
        return y


def _conv_norm(in_channels: int, channels: int, stride: int, *, fused: bool, relu: bool = True) -> nn.Sequential:
    """A 3x3 convolution and a batch norm."""
    convolution, norm = (PatchConv2d, BatchNormAct2d) if fused else (nn.Conv2d, PlainBatchNormAct2d)
    return nn.Sequential(convolution(in_channels, channels, 3, stride, 1, bias=False), norm(channels, relu=relu))


def _exchange(channels: Sequence[int], source: int, target: int, *, fused: bool) -> nn.Sequential:
    """From one resolution's channels to another's: a 1x1 to a larger one, whose size is left to the exchange, else 3x3.

    Each 3x3 halves the size. Batch norm is behind each convolution, and a ReLU behind all but the last.
    """
    norm = BatchNormAct2d if fused else PlainBatchNormAct2d
    if source > target:
        pointwise_conv = PointwiseConv2d if fused else plain_pointwise_conv
        return nn.Sequential(pointwise_conv(channels[source], channels[target]), norm(channels[target]))
    halvings = [_conv_norm(channels[source], channels[source], 2, fused=fused) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, _conv_norm(channels[source], channels[target], 2, fused=fused, relu=False))
