"""YOLOv3 (Redmon and Farhadi, 2018): Darknet-53, and predictions at three strides for three anchors each.

Layers and their order are those of darknet's yolov3.cfg, so that its .weights files load
(`airank_fast.recipes.darknet_weights`); module names are this project's own. Pictures are RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn import BatchNormAct2d, PatchConv2d, PointwiseConv2d

WIDTHS = (32, 64, 128, 256, 512, 1024)
BLOCKS = (1, 2, 8, 8, 4)
STRIDES = (32, 16, 8)  # of the outputs, in their order
ANCHORS_OF_CELL = 3
SLOPE = 0.1  # of the leaky ReLUs
_FIRST_OBJECT = (
    -4.6
)  # the object's first logit, a probability of 0.01: thousands of cells without one are right at once


class YOLOv3(nn.Module):
    """Input: float [N, 3, H, W], H and W multiples of 32, fastest in channels_last.

    Output: logits [N, cells, 5 + num_classes] of x, y, width, height, object and classes. Cells of stride 32 come
    first, then of 16, of 8; those of a stride by row, column and anchor. `yolo_boxes.Grid` has their places.

    Args:
        num_classes: 80 for COCO.
        widths: channels of the first convolution and of the five stages; the last three are even.
        blocks: residual blocks of each stage.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.
    """

    def __init__(
        self,
        num_classes: int = 80,
        *,
        widths: Sequence[int] = WIDTHS,
        blocks: Sequence[int] = BLOCKS,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.num_outputs = 5 + num_classes
        self.backbone = DarkNet53(widths, blocks, fused=fused)
        coarse, middle, fine = widths[5], widths[4], widths[3]
        outputs = ANCHORS_OF_CELL * self.num_outputs
        self.coarse = Level(coarse, coarse, None, outputs, fused=fused)
        self.middle = Level(middle, middle, coarse // 2, outputs, fused=fused)
        self.fine = Level(fine, fine, middle // 2, outputs, fused=fused)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
        for level in (self.coarse, self.middle, self.fine):
            nn.init.normal_(level.output.weight, std=0.01)
            nn.init.zeros_(level.output.bias)
            nn.init.constant_(level.output.bias.view(ANCHORS_OF_CELL, -1)[:, 4], _FIRST_OBJECT)

    def forward(self, images: Tensor) -> Tensor:
        fine, middle, coarse = self.backbone(images)
        found, above = self.coarse(coarse, None)
        outputs = [found]
        for level, features in ((self.middle, middle), (self.fine, fine)):
            found, above = level(features, above)
            outputs.append(found)
        return torch.cat([o.permute(0, 2, 3, 1).reshape(len(images), -1, self.num_outputs) for o in outputs], 1)


class DarkNet53(nn.Module):
    """The backbone: [N, 3, H, W] -> the last three stages' features, at strides 8, 16 and 32."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], *, fused: bool = True) -> None:
        super().__init__()
        self.first = Convolution(3, widths[0], 3, fused=fused)
        stages = []
        for before, width, number in zip(widths, widths[1:], blocks, strict=False):
            halve = Convolution(before, width, 3, stride=2, fused=fused)
            stages.append(nn.Sequential(halve, *(Residual(width, fused=fused) for _ in range(number))))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.first(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[2:]


class Convolution(nn.Module):
    """A convolution of 1 or 3 x 3 pixels without bias, batch norm, and leaky ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, *, stride: int = 1, fused: bool) -> None:
        super().__init__()
        if fused and kernel == 1:
            self.conv: nn.Conv2d = PointwiseConv2d(in_channels, channels, stride)
        else:
            made = PatchConv2d if fused else nn.Conv2d
            self.conv = made(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        norm = BatchNormAct2d(channels, activation="leaky_relu", negative_slope=SLOPE) if fused else None
        self.norm = norm or PlainBatchNormLeakyReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class PlainBatchNormLeakyReLU(nn.BatchNorm2d):
    """BatchNormAct2d with a leaky ReLU in torch's own operators."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), SLOPE, inplace=True)


class Residual(nn.Module):
    """1x1 to half the channels, 3x3 back, and the input, which darknet adds behind the activation."""

    def __init__(self, width: int, *, fused: bool) -> None:
        super().__init__()
        self.reduce = Convolution(width, width // 2, 1, fused=fused)
        self.expand = Convolution(width // 2, width, 3, fused=fused)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.reduce(x))


class Level(nn.Module):
    """The head of one stride.

    features: of the backbone, [N, channels, h, w]. above: of the coarser level, [N, above, h / 2, w / 2]; None for the
    coarsest. Returns logits [N, outputs, h, w], and the features for the finer level, [N, width / 2, h, w].
    """

    def __init__(self, channels: int, width: int, above: int | None, outputs: int, *, fused: bool) -> None:
        super().__init__()
        half = width // 2
        if above is not None:
            self.above = Convolution(above, half, 1, fused=fused)
            channels += half
        narrow, wide = (half, 1), (width, 3)
        trunk = []
        for made, kernel in (narrow, wide, narrow, wide, narrow):
            trunk.append(Convolution(channels, made, kernel, fused=fused))
            channels = made
        self.trunk = nn.Sequential(*trunk)
        self.expand = Convolution(half, width, 3, fused=fused)
        self.output = nn.Conv2d(width, outputs, 1)

    def forward(self, features: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
        if above is not None:
            enlarged = F.interpolate(self.above(above), scale_factor=2, mode="nearest")
            features = torch.cat([enlarged, features], 1)
        x = self.trunk(features)
        return self.output(self.expand(x)), x
