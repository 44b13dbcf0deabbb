"""ResNet-50 v1.5, in which the 3x3 convolution of a down-sampling block has the stride.

Parameter names and initialisation are torchvision's, so that its checkpoints (and timm's ``resnet50``) load with
``load_state_dict`` unchanged. Architecture: He et al., "Deep Residual Learning for Image Recognition", 2015,
table 1; the v1.5 stride as in torchvision and MLPerf.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn import BatchNormAct2d, PatchConv2d, PointwiseConv2d
from airank_fast.nn.tracing import one_call

EXPANSION = 4


class PlainBatchNormAct2d(nn.BatchNorm2d):
    """BatchNormAct2d in torch's own operators."""

    def __init__(self, num_features: int, *, relu: bool = False) -> None:
        super().__init__(num_features)
        self.relu = relu

    @one_call
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        if residual is not None:
            x = x + residual
        return F.relu(x, inplace=True) if self.relu else x


def plain_pointwise_conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """PointwiseConv2d in torch's own operators."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an identity or projected shortcut, as of ResNet-18.

    ``in_channels -> width -> width``; ``stride`` applies to the first convolution and to the projection, ``dilation``
    to the first convolution.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1, *, fused: bool = True) -> None:
        super().__init__()
        convolution, norm = (PatchConv2d, BatchNormAct2d) if fused else (nn.Conv2d, PlainBatchNormAct2d)
        self.conv1 = convolution(in_channels, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = norm(width, relu=True)
        self.conv2 = convolution(width, width, 3, 1, 1, bias=False)
        self.bn2 = norm(width, relu=True)
        self.downsample = None
        if stride != 1 or in_channels != width:
            pointwise_conv = PointwiseConv2d if fused else plain_pointwise_conv
            self.downsample = nn.Sequential(pointwise_conv(in_channels, width, stride=stride), norm(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), shortcut)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, each with batch norm, around an identity or projected shortcut.

    ``in_channels -> width -> width -> 4 * width``; ``stride`` applies to the 3x3 and to the projection. Each batch
    norm ends with a ReLU, the last one after it has added the shortcut; the projection's has none. ``dilation`` is that
    of the 3x3.
    """

    expansion = EXPANSION

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1, *, fused: bool = True) -> None:
        super().__init__()
        pointwise_conv = PointwiseConv2d if fused else plain_pointwise_conv
        batch_norm_act = BatchNormAct2d if fused else PlainBatchNormAct2d
        out_channels = width * EXPANSION
        self.conv1 = pointwise_conv(in_channels, width)
        self.bn1 = batch_norm_act(width, relu=True)
        self.conv2 = (PatchConv2d if fused else nn.Conv2d)(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = batch_norm_act(width, relu=True)
        self.conv3 = pointwise_conv(width, out_channels)
        self.bn3 = batch_norm_act(out_channels, relu=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            projection = pointwise_conv(in_channels, out_channels, stride=stride)
            self.downsample = nn.Sequential(projection, batch_norm_act(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x))
        x = self.bn2(self.conv2(x))
        return self.bn3(self.conv3(x), shortcut)


class ResNet(nn.Module):
    """A ResNet. ``blocks`` holds the number of blocks of each of the four stages.

    Args:
        blocks: blocks per stage, (3, 4, 6, 3) for ResNet-50, (2, 2, 2, 2) for ResNet-18.
        block: Bottleneck, or BasicBlock for ResNet-18.
        num_classes: width of the last layer; None leaves it out, as for a backbone, which has no forward pass.
        base_width: channels of the first stage, 64 for ResNet-50; smaller ones make small networks for tests.
        zero_init_last_bn: start the scale of each block's last batch norm at zero (Goyal et al., 2017),
            so that every block begins as its shortcut.
        output_stride: pixels of the input for one of the last stage: 32, or, with dilated convolutions in place of the
            last strides as in torchvision's ``replace_stride_with_dilation``, 16 or 8.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.

    Input: float ``[N, 3, H, W]``, fastest in channels_last; H and W at least 32 for the last stage to have a pixel.
    Output: logits ``[N, num_classes]`` in the dtype of the last layer's weight.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        num_classes: int | None = 1000,
        *,
        block: type[BasicBlock | Bottleneck] = Bottleneck,
        base_width: int = 64,
        zero_init_last_bn: bool = False,
        output_stride: int = 32,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = (PatchConv2d if fused else nn.Conv2d)(3, base_width, 7, stride=2, padding=3, bias=False)
        self.bn1 = (BatchNormAct2d if fused else PlainBatchNormAct2d)(base_width, relu=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, dilation = base_width, 1
        for stage, num_blocks in enumerate(blocks):
            width = base_width * 2**stage
            is_dilated = 4 * 2**stage > output_stride
            layer = []
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 and not is_dilated else 1
                layer.append(block(channels, width, stride, dilation, fused=fused))
                channels = width * block.expansion
                if is_dilated and index == 0:
                    dilation *= 2
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.out_channels = channels
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init_last_bn)

    def _initialise(self, zero_init_last_bn: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_last_bn and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
            elif zero_init_last_bn and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def stages(self, x: Tensor) -> list[Tensor]:
        """The outputs of the four stages, for a feature pyramid."""
        x = self.maxpool(self.bn1(self.conv1(x)))
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet50(num_classes: int = 1000, *, zero_init_last_bn: bool = False, fused: bool = True) -> ResNet:
    """ResNet-50 v1.5; 25,557,032 parameters at 1000 classes."""
    return ResNet((3, 4, 6, 3), num_classes, zero_init_last_bn=zero_init_last_bn, fused=fused)
