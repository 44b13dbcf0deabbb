"""A feature pyramid (FPN) over a ResNet: features of five resolutions with the same number of channels.

Lin et al., "Feature Pyramid Networks for Object Detection", 2017. Parameters have the names, shapes and first values of
torchvision's ``resnet_fpn_backbone``: ``body.*``, ``fpn.inner_blocks.N.0.*``, ``fpn.layer_blocks.N.0.*``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.models.resnet import ResNet
from airank_fast.nn import PatchConv2d, UpsampleAddAct


class PlainUpsampleAdd(nn.Module):
    """`UpsampleAddAct` of two pictures, without a ReLU, in torch's own operators."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x + F.interpolate(other, x.shape[2:], mode="nearest")


def upsample_add(*, fused: bool) -> nn.Module:
    """The step of a pyramid from one level to the next: the sum of a picture and a smaller one, enlarged by nearest."""
    return UpsampleAddAct(relu=False, mode="nearest") if fused else PlainUpsampleAdd()


class FeaturePyramid(nn.Module):
    """From the outputs of a backbone's stages to one level each and a last one of half the size.

    Features [N, widths[i], H_i, W_i], the largest first -> levels [N, channels, H_i, W_i] and every second pixel of the
    last of them, which is torchvision's ``LastLevelMaxPool``.
    """

    def __init__(self, widths: list[int], channels: int, *, fused: bool = True) -> None:
        super().__init__()
        convolution = PatchConv2d if fused else nn.Conv2d
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(width, channels, 1)) for width in widths)
        self.layer_blocks = nn.ModuleList(nn.Sequential(convolution(channels, channels, 3, 1, 1)) for _ in widths)
        self.sum = upsample_add(fused=fused)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        inner = self.inner_blocks[-1](features[-1])
        levels = [self.layer_blocks[-1](inner)]
        for feature, lateral, output in list(zip(features, self.inner_blocks, self.layer_blocks, strict=True))[-2::-1]:
            inner = self.sum(lateral(feature), inner)
            levels.insert(0, output(inner))
        return [*levels, levels[-1][:, :, ::2, ::2]]


class PyramidBackbone(nn.Module):
    """A ResNet and its feature pyramid: pictures [N, 3, H, W] -> levels of stride 4, 8, 16, 32 and 64."""

    def __init__(self, body: ResNet, channels: int, *, fused: bool = True) -> None:
        super().__init__()
        self.body = body
        widths = [body.out_channels // 2**stage for stage in (3, 2, 1, 0)]
        self.fpn = FeaturePyramid(widths, channels, fused=fused)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.fpn(self.body.stages(images))
