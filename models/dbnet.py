"""DBNet: a ResNet, a feature pyramid, and two heads, for where texts are and for the threshold near their outlines.

Liao et al., "Real-time Scene Text Detection with Differentiable Binarization", 2020, without deformable convolutions.
Parameters have the names and shapes of MhLiao/DB's resnet18 and resnet50 with SegDetector(adaptive=True), so that its
checkpoints of these backbones load with ``load_state_dict``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.models.feature_pyramid import upsample_add
from airank_fast.models.resnet import BasicBlock, Bottleneck, PlainBatchNormAct2d, ResNet, plain_pointwise_conv
from airank_fast.nn import BatchNormAct2d, PatchConv2d, PointwiseConv2d

STRIDE = 32  # pixels of the picture for one of the last stage
SHARPNESS = 50.0  # the paper's k
TEXT_WEIGHT, THRESHOLD_WEIGHT = 5.0, 10.0  # of the parts of the loss; the binary map's is 1
NEGATIVES = 3  # pixels without text for one of text, the hardest ones
FEWEST = 0.01  # of the pixels of a picture without text
LOWEST, HIGHEST = 0.3, 0.7  # thresholds, of the levels 0 and 255
_WRAPPER = "model.module."
_UNUSED = ("backbone.fc.", "backbone.smooth.")


class DBNet(nn.Module):
    """Input: float [N, 3, H, W], H and W multiples of 32, fastest in channels_last.

    Output: logits [N, 2, H, W], of text and of the threshold; in evaluation those of text alone, [N, 1, H, W]. The
    probability of text is their sigmoid, where MhLiao's network ends.

    Args:
        block: BasicBlock, as of ResNet-18, or Bottleneck, as of ResNet-50.
        blocks: per stage of the backbone: (2, 2, 2, 2) or (3, 4, 6, 3).
        base_width: channels of its first stage.
        channels: of the pyramid; the heads have a quarter of them.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck] = Bottleneck,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        *,
        base_width: int = 64,
        channels: int = 256,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = ResNet(blocks, None, block=block, base_width=base_width, fused=fused)
        widths = [base_width * block.expansion * 2**stage for stage in range(4)]
        self.decoder = Decoder(widths, channels, fused=fused)
        self.register_load_state_dict_pre_hook(_rename)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.backbone.stages(images))


class Decoder(nn.Module):
    """From the features of four stages to logits at the picture's size; see `DBNet`."""

    def __init__(self, widths: list[int], channels: int, *, fused: bool) -> None:
        super().__init__()
        narrow = channels // 4
        for stage, width in enumerate(widths, 2):
            convolution = (PointwiseConv2d if fused else plain_pointwise_conv)(width, channels)
            setattr(self, f"in{stage}", convolution)
        for stage in (5, 4, 3):
            enlarge = nn.Upsample(scale_factor=2 ** (stage - 2), mode="nearest")
            setattr(self, f"out{stage}", nn.Sequential(_conv3x3(channels, narrow, fused=fused), enlarge))
        self.out2 = _conv3x3(channels, narrow, fused=fused)
        self.sum = upsample_add(fused=fused)
        self.binarize = _head(channels, narrow, fused=fused)
        self.thresh = _head(channels, narrow, fused=fused)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 1e-4)

    def forward(self, features: list[Tensor]) -> Tensor:
        c2, c3, c4, c5 = features
        p5 = self.in5(c5)
        p4 = self.sum(self.in4(c4), p5)
        p3 = self.sum(self.in3(c3), p4)
        p2 = self.sum(self.in2(c2), p3)
        fused = torch.cat([self.out5(p5), self.out4(p4), self.out3(p3), self.out2(p2)], 1)
        text = self.binarize(fused)
        return torch.cat([text, self.thresh(fused)], 1) if self.training else text


def _conv3x3(in_channels: int, channels: int, *, fused: bool) -> nn.Conv2d:
    return (PatchConv2d if fused else nn.Conv2d)(in_channels, channels, 3, 1, 1, bias=False)


def _head(channels: int, narrow: int, *, fused: bool) -> nn.Sequential:
    """A 3x3 convolution and two transposed ones that double the size each: [N, channels, h, w] -> [N, 1, 4 h, 4 w]."""
    norm = BatchNormAct2d if fused else PlainBatchNormAct2d
    enlarge = nn.ConvTranspose2d(narrow, narrow, 2, 2)
    # The batch norm takes a constant out again: Adam would make steps of its gradient's rounding errors.
    nn.init.zeros_(enlarge.bias)
    enlarge.bias.requires_grad_(False)
    return nn.Sequential(
        _conv3x3(channels, narrow, fused=fused),
        norm(narrow, relu=True),
        nn.Identity(),  # MhLiao's ReLU, which is in the batch norm here, as is the next one
        enlarge,
        norm(narrow, relu=True),
        nn.Identity(),
        nn.ConvTranspose2d(narrow, 1, 2, 2),
    )


def _rename(module: DBNet, state: dict[str, Any], prefix: str, *_: object) -> None:
    """MhLiao/DB's names without its wrapper, and without the layers of its backbone that it does not use."""
    for name in [name for name in state if name.startswith(prefix)]:
        short = name.removeprefix(prefix).removeprefix(_WRAPPER)
        tensor = state.pop(name)
        if not short.startswith(_UNUSED):
            state[prefix + short] = tensor


def db_loss(logits: Tensor, maps: Tensor) -> Tensor:
    """The mean over pictures of 5 * text + 10 * threshold + binary, as in MhLiao/DB's L1BalanceCELoss.

    text: cross entropy of the pixels of text, and of three times as many without, those with the largest. threshold: L1
    of the threshold in enlarged texts. binary: Dice of sigmoid(50 * (probability - threshold)). Each is of a picture,
    where MhLiao sums over a rank's batch, so that the loss is the same on any number of ranks. Nothing waits for the
    device.

    logits: [N, 2, H, W], floating point; maps: uint8 [N, 4, H, W], see `airank_fast.data.images.text_maps`. Returns a
    float32 scalar.
    """
    text_logits, threshold_logits = logits.float().flatten(2).unbind(1)
    text, counted, level, near = maps.flatten(2).float().unbind(1)
    threshold = threshold_logits.sigmoid()
    binary = (SHARPNESS * (text_logits.sigmoid() - threshold)).sigmoid()
    target = LOWEST + (HIGHEST - LOWEST) / 255 * level
    threshold_loss = ((threshold - target).abs() * near).sum(1) / near.sum(1).clamp(min=1)
    there, marked = text * counted, binary * counted
    dice = 1 - 2 * (marked * text).sum(1) / (marked.sum(1) + there.sum(1)).clamp(min=1e-6)
    parts = TEXT_WEIGHT * _text_loss(text_logits, text, there, counted) + THRESHOLD_WEIGHT * threshold_loss + dice
    return parts.mean()


def _text_loss(logits: Tensor, text: Tensor, there: Tensor, counted: Tensor) -> Tensor:
    """Of each picture [N, pixels] the mean cross entropy of the pixels of text and the hardest others: [N]."""
    losses = F.binary_cross_entropy_with_logits(logits, text, reduction="none")
    others = counted - there
    positives, pixels = there.sum(1), text.shape[1]
    fewest = torch.full_like(positives, round(FEWEST * pixels))
    negatives = torch.where(positives > 0, NEGATIVES * positives, fewest).minimum(others.sum(1))
    hardest = (losses * others).sort(1, descending=True).values
    is_chosen = torch.arange(pixels, device=logits.device) < negatives[:, None]
    total = (losses * there).sum(1) + (hardest * is_chosen).sum(1)
    return total / (positives + negatives).clamp(min=1)
