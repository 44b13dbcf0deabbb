"""The loss and the prediction of networks whose logits are smaller than the picture: both enlarge them bilinearly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the enlarged logits, summed over the labelled pixels, divided by the number of all pixels.

    So a pixel has the same weight in every batch, with any number of ranks and micro-batches; mmsegmentation's default
    (avg_non_ignore=False).

    logits: [N, C, h, w], floating point; labels: uint8 [N, H, W], below C or IGNORED. Returns a float32 scalar.
    """
    enlarged = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(enlarged, labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def pixel_classes(logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """The class of each pixel of a picture of this size: int64 [N, H, W], from logits [N, C, h, w]."""
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False).argmax(1)
