"""The loss and the prediction of networks whose logits are smaller than the picture: both enlarge them bilinearly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.nn import UpsampleCrossEntropyLoss, upsample_argmax

IGNORED = 255
_loss = UpsampleCrossEntropyLoss(IGNORED)


def pixel_loss(logits: Tensor, labels: Tensor, *, fused: bool = True) -> Tensor:
    """Cross entropy of the enlarged logits, summed over the labelled pixels, divided by the number of all pixels.

    So a pixel has the same weight in every batch, with any number of ranks and micro-batches; mmsegmentation's default
    (avg_non_ignore=False).

    logits: [N, C, h, w], floating point; labels: uint8 [N, H, W], below C or IGNORED. fused: airank_fast.nn's loss;
    without, torch's own. Returns a float32 scalar.
    """
    if fused:
        return _loss(logits, labels, labels.numel())
    total = F.cross_entropy(_enlarged(logits, labels.shape[1:]), labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def pixel_classes(logits: Tensor, size: torch.Size | tuple[int, int], *, fused: bool = True) -> Tensor:
    """The class of each pixel of a picture of this size: int64 [N, H, W], from logits [N, C, h, w]."""
    return upsample_argmax(logits, tuple(size)) if fused else _enlarged(logits, size).argmax(1)


def _enlarged(logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
