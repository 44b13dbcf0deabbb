"""DeepLabv3+: a ResNet with dilated convolutions, pyramid pooling, and a decoder at a quarter of the picture's size.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", 2018, with plain
convolutions. Parameters have the names and shapes of VainF/DeepLabV3Plus-Pytorch's deeplabv3plus_resnet50, whose
backbone has torchvision's, so that checkpoints of both load with ``load_state_dict``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.models.resnet import EXPANSION, PlainBatchNormAct2d, ResNet, plain_pointwise_conv
from airank_fast.nn import BatchNormAct2d, PatchConv2d, PointwiseConv2d


class PyramidPooling(nn.Module):
    """ASPP: a 1x1 and three dilated 3x3 convolutions and the mean over the picture, side by side, projected by a 1x1.

    [N, in_channels, H, W] -> [N, channels, H, W].
    """

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...], dropout: float, *, fused: bool) -> None:
        super().__init__()
        pointwise = nn.Sequential(*_conv_norm(in_channels, channels, fused=fused))
        dilated = [nn.Sequential(*_conv_norm(in_channels, channels, rate, fused=fused)) for rate in rates]
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv_norm(in_channels, channels, fused=fused))
        self.convs = nn.ModuleList([pointwise, *dilated, pooled])
        self.project = nn.Sequential(*_conv_norm(5 * channels, channels, fused=fused), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        parts = [conv(x).expand(-1, -1, *x.shape[2:]) for conv in self.convs]  # the mean's is one pixel
        return self.project(torch.cat(parts, 1))


class Decoder(nn.Module):
    """From the backbone's first and last stage to logits of the first one's size: [N, num_classes, H / 4, W / 4]."""

    def __init__(
        self,
        in_channels: int,
        first_channels: int,
        low_level: int,
        channels: int,
        num_classes: int,
        rates: tuple[int, ...],
        dropout: float,
        *,
        fused: bool,
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(*_conv_norm(first_channels, low_level, fused=fused))
        self.aspp = PyramidPooling(in_channels, channels, rates, dropout, fused=fused)
        self.classifier = nn.Sequential(
            *_conv_norm(low_level + channels, channels, 1, fused=fused),
            nn.Identity(),  # VainF's ReLU, which is in the batch norm here
            (PatchConv2d if fused else nn.Conv2d)(channels, num_classes, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        pyramid = F.interpolate(self.aspp(last), first.shape[2:], mode="bilinear", align_corners=False)
        return self.classifier(torch.cat([self.project(first), pyramid], 1))


class DeepLabV3Plus(nn.Module):
    """Input: float [N, 3, H, W], fastest in channels_last. Output: logits [N, num_classes, ceil(H / 4), ceil(W / 4)].

    VainF's network enlarges them to [H, W], bilinearly with align_corners False; here the loss and the prediction do
    (`pixel_classes`).

    Args:
        num_classes: 19 for Cityscapes.
        blocks: per stage of the backbone; (3, 4, 6, 3) is ResNet-50's.
        base_width: channels of its first stage's 3x3 convolutions.
        channels: of the pyramid and the decoder.
        low_level: channels of the first stage's projection, which go to the decoder besides.
        output_stride: 16, or 8, which has twice the resolution in the last stages.
        rates: dilations of the pyramid's 3x3 convolutions; (12, 24, 36) at output stride 8.
        dropout: of the pyramid's output, in training.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        base_width: int = 64,
        channels: int = 256,
        low_level: int = 48,
        output_stride: int = 16,
        rates: tuple[int, ...] = (6, 12, 18),
        dropout: float = 0.1,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone = ResNet(blocks, None, base_width=base_width, output_stride=output_stride, fused=fused)
        self.classifier = Decoder(
            backbone.out_channels, base_width * EXPANSION, low_level, channels, num_classes, rates, dropout, fused=fused
        )

    def forward(self, images: Tensor) -> Tensor:
        backbone = self.backbone
        first = backbone.layer1(backbone.maxpool(backbone.bn1(backbone.conv1(images))))
        last = backbone.layer4(backbone.layer3(backbone.layer2(first)))
        return self.classifier(first, last)


def _conv_norm(in_channels: int, channels: int, rate: int | None = None, *, fused: bool) -> tuple[nn.Module, nn.Module]:
    """A convolution, 1x1 or with a rate 3x3 and dilated by it, and a batch norm with a ReLU."""
    norm = (BatchNormAct2d if fused else PlainBatchNormAct2d)(channels, relu=True)
    if rate is None:
        return (PointwiseConv2d if fused else plain_pointwise_conv)(in_channels, channels), norm
    return (PatchConv2d if fused else nn.Conv2d)(in_channels, channels, 3, 1, rate, rate, bias=False), norm
