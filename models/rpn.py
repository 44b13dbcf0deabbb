"""The region proposal network (RPN): which anchors contain an object, and where exactly it is.

Ren et al., "Faster R-CNN", 2015, over a feature pyramid. Names, constants, first values and arithmetic are
torchvision's; the losses and proposals of all pictures are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.models.balanced_samples import balanced_samples
from airank_fast.nn import PatchConv2d, decode_boxes, encode_boxes, match_boxes, nms_padded

SMOOTH_L1_BETA = 1 / 9  # of the losses of boxes, here and in the heads
_SMALLEST = 1e-3  # pixels, of a proposal's sides


@dataclass(frozen=True)
class RPNOptions:
    """The constants of a region proposal network, by default torchvision's.

    sizes: of anchors, in pixels, one per level. aspect_ratios: height / width. before_nms, after_nms: proposals, of a
    level and of a picture, in (training, evaluation). nms_threshold: proposals of a level that overlap more than this
    are removed. foreground, background: IoU with an object from which, and below which, an anchor is positive or
    negative. samples, positive_fraction: anchors of a picture in the losses.
    """

    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    before_nms: tuple[int, int] = (2000, 1000)
    after_nms: tuple[int, int] = (2000, 1000)
    nms_threshold: float = 0.7
    foreground: float = 0.7
    background: float = 0.3
    samples: int = 256
    positive_fraction: float = 0.5


class Truths(NamedTuple):
    """The objects of a batch, those of the first picture first, and what else the losses need.

    boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of the images, each with an area. labels: int64 [n], 1 ...
    num_classes - 1. splits: the number of objects of each picture, on the host; offsets: int64 [N + 1], where they
    begin, on the device. keys: int64 [N], from which the sampled anchors and regions of each picture follow; see
    `balanced_samples`. mask_targets: makes of regions [k, 4] and the indices [k] of their objects these objects' masks
    in them, [k, M, M], from 0 to 1.
    """

    boxes: Tensor
    labels: Tensor
    splits: tuple[int, ...]
    offsets: Tensor
    keys: Tensor
    mask_targets: Callable[[Tensor, Tensor], Tensor]


class Proposals(NamedTuple):
    """Proposed boxes of each picture, the best first: float32 [N, P, 4], and whether there is one: bool [N, P]."""

    boxes: Tensor
    there: Tensor


class RPNHead(nn.Module):
    """A 3x3 convolution and two 1x1 ones, for the logit and the box of each anchor, on every level.

    Levels [N, channels, H_i, W_i] -> logits [N, A] and codes [N, A, 4] of all A anchors, in the order of `anchors`.
    """

    def __init__(self, channels: int, num_anchors: int, *, fused: bool) -> None:
        super().__init__()
        convolution = (PatchConv2d if fused else nn.Conv2d)(channels, channels, 3, 1, 1)
        self.conv = nn.Sequential(nn.Sequential(convolution, nn.ReLU(inplace=True)))
        self.cls_logits = nn.Conv2d(channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * num_anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits, codes = [], []
        for level in levels:
            hidden = self.conv(level)
            logits.append(self.cls_logits(hidden).permute(0, 2, 3, 1).flatten(1))
            codes.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(len(hidden), -1, 4))
        return torch.cat(logits, 1), torch.cat(codes, 1)


class RPN(nn.Module):
    """The head, its anchors, its proposals and its losses; see `RPNOptions`."""

    def __init__(self, channels: int, options: RPNOptions, *, fused: bool = True) -> None:
        super().__init__()
        self.options = options
        self.head = RPNHead(channels, len(options.aspect_ratios), fused=fused)
        self._anchors: dict[object, list[Tensor]] = {}

    def forward(
        self, images: Tensor, levels: list[Tensor], sizes: Tensor, truths: Truths | None = None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """The proposals, and with truths the losses "objectness" and "rpn_box".

        images: [N, 3, H, W], of which the shape alone is read. sizes: float32 [N, 2], height and width of each picture
        in its image.
        """
        logits, codes = (output.float() for output in self.head(levels))
        anchors = self.anchors(images, levels)
        proposals = self.proposals(logits.detach(), codes.detach(), anchors, sizes)
        losses = {} if truths is None else self.losses(logits, codes, torch.cat(anchors), truths)
        return proposals, losses

    def anchors(self, images: Tensor, levels: list[Tensor]) -> list[Tensor]:
        """The anchors of each level, float32 [H_i * W_i * ratios, 4], around the top left corner of each cell."""
        key = images.shape[2:], *(level.shape[2:] for level in levels), images.device
        if key not in self._anchors:
            self._anchors[key] = [
                _grid(size, self.options.aspect_ratios, images.shape[2:], level)
                for size, level in zip(self.options.sizes, levels, strict=True)
            ]
        return self._anchors[key]

    @torch.no_grad()
    def proposals(self, logits: Tensor, codes: Tensor, anchors: list[Tensor], sizes: Tensor) -> Proposals:
        """The best boxes of each level, without those that overlap a better one: the best of all levels."""
        options, phase = self.options, 0 if self.training else 1
        best, group, first = [], [], 0
        for level, boxes in enumerate(anchors):
            found = logits[:, first : first + len(boxes)].topk(min(options.before_nms[phase], len(boxes))).indices
            best.append(found + first)
            group.append(torch.full_like(found, level))
            first += len(boxes)
        chosen, num_levels = torch.cat(best, 1), len(anchors)
        scores = logits.gather(1, chosen).sigmoid()
        limits = sizes[:, None].expand(-1, chosen.shape[1], -1)
        boxes = decode_boxes(
            at(codes, chosen).flatten(0, 1), torch.cat(anchors)[chosen.flatten()], image_size=limits.flatten(0, 1)
        )
        there = (boxes[:, 2:] - boxes[:, :2] >= _SMALLEST).all(1)
        groups = torch.where(there.view_as(scores), torch.cat(group, 1), num_levels)  # a small one removes no other
        groups += torch.arange(len(groups), device=groups.device)[:, None] * (num_levels + 1)
        kept, _ = nms_padded(boxes, scores.flatten(), options.nms_threshold, groups.flatten())
        places = torch.where(kept < 0, len(kept), kept)  # one more than there are, for the padding
        survives = torch.zeros(len(kept) + 1, dtype=torch.bool, device=kept.device).index_fill_(0, places, True)[:-1]
        scores = torch.where((survives & there).view_as(scores), scores, -1)
        scores, order = scores.topk(min(options.after_nms[phase], scores.shape[1]))
        return Proposals(at(boxes.view(*chosen.shape, 4), order), scores >= 0)

    def losses(self, logits: Tensor, codes: Tensor, anchors: Tensor, truths: Truths) -> dict[str, Tensor]:
        """Cross entropy and smooth L1 of sampled anchors, both divided by their number in the batch."""
        options = self.options
        with torch.no_grad():
            matches, _ = match_boxes(
                anchors, truths.boxes, truths.offsets, options.foreground, options.background, True
            )
            samples = balanced_samples(
                matches >= 0, matches == -1, truths.keys, options.samples, options.positive_fraction
            )
            objects = packed(matches.gather(1, samples.indices), truths.offsets)
            targets = encode_boxes(matched(truths.boxes, objects), anchors[samples.indices])
        number = samples.taken.sum().clamp(min=1)
        chosen = logits.gather(1, samples.indices)
        entropy = F.binary_cross_entropy_with_logits(chosen, samples.positive.float(), reduction="none")
        codes = at(codes, samples.indices)
        return {
            "objectness": torch.where(samples.taken, entropy, 0).sum() / number,
            "rpn_box": box_loss(codes, targets, samples.positive) / number,
        }


def at(boxes: Tensor, indices: Tensor) -> Tensor:
    """Of each picture the boxes [N, P, 4] at these indices, [N, S]: [N, S, 4]."""
    return boxes.gather(1, indices[..., None].expand(-1, -1, 4))


def packed(matches: Tensor, offsets: Tensor) -> Tensor:
    """The numbers among all objects of those of a picture each, [N, S]; -1 where there is none."""
    return torch.where(matches < 0, -1, matches + offsets[:-1, None])


def matched(boxes: Tensor, objects: Tensor) -> Tensor:
    """The boxes of objects of these numbers, [..., 4]; of a negative number any box."""
    return (boxes if len(boxes) else boxes.new_zeros(1, 4))[objects.clamp(min=0)]


def box_loss(codes: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """The sum of smooth L1 over the codes [..., 4] that are counted, bool [...]: torchvision's, with beta 1/9."""
    counted = counted[..., None]
    targets = torch.where(counted, targets, 0)  # what does not count may be infinite, which the gradient must not see
    losses = F.smooth_l1_loss(codes, targets, reduction="none", beta=SMOOTH_L1_BETA)
    return torch.where(counted, losses, 0).sum()


def _grid(size: float, ratios: tuple[float, ...], image: torch.Size, level: Tensor) -> Tensor:
    """The anchors of a level; torchvision's, whose sides are rounded to even numbers of pixels."""
    height = torch.tensor(ratios).sqrt()
    half = (torch.stack([1 / height, height], 1) * size / 2).round()
    rows, columns = (torch.arange(n) * (whole // n) for n, whole in zip(level.shape[2:], image, strict=True))
    corner = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2)[:, :, None]
    return torch.cat([corner - half, corner + half], 3).view(-1, 4).to(level.device)
