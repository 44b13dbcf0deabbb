"""ResNet-50 v1.5: the stride of a down-sampling block sits on its 3x3 convolution.

Parameter names and initialisation are torchvision's, so its checkpoints (and timm's ``resnet50``) load with
``load_state_dict`` as they are. Architecture: He et al., "Deep Residual Learning for Image Recognition", 2015,
table 1; the v1.5 stride as in torchvision and MLPerf.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from airank_fast.nn import PointwiseConv2d

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, each with batch norm, around an identity or projected shortcut.

    ``in_channels -> width -> width -> 4 * width``; ``stride`` applies to the 3x3 and to the projection.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = PointwiseConv2d(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = PointwiseConv2d(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            projection = PointwiseConv2d(in_channels, out_channels, stride=stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """A bottleneck ResNet. ``blocks`` holds the number of blocks of each of the four stages.

    Args:
        blocks: blocks per stage, (3, 4, 6, 3) for ResNet-50.
        num_classes: width of the last layer.
        base_width: channels of the first stage, 64 for ResNet-50; smaller ones make small networks for tests.
        zero_init_last_bn: start the scale of each block's last batch norm at zero (Goyal et al., 2017),
            so that every block begins as its shortcut.

    Input: float ``[N, 3, H, W]``, best in channels_last; H and W at least 32 for the last stage to have a pixel.
    Output: logits ``[N, num_classes]`` in the dtype of the last layer's weight.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        num_classes: int = 1000,
        *,
        base_width: int = 64,
        zero_init_last_bn: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, base_width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = base_width
        for stage, num_blocks in enumerate(blocks):
            width = base_width * 2**stage
            layer = []
            for index in range(num_blocks):
                layer.append(Bottleneck(channels, width, stride=2 if stage > 0 and index == 0 else 1))
                channels = width * EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init_last_bn)

    def _initialise(self, zero_init_last_bn: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_last_bn and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet50(num_classes: int = 1000, *, zero_init_last_bn: bool = False) -> ResNet:
    """ResNet-50 v1.5; 25,557,032 parameters at 1000 classes."""
    return ResNet((3, 4, 6, 3), num_classes, zero_init_last_bn=zero_init_last_bn)
