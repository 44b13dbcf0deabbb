"""The heads of Mask R-CNN over regions of interest (RoIs): their class, their box, and the mask of the object in it.

Girshick, "Fast R-CNN", 2015, and He et al., "Mask R-CNN", 2017. Names, constants, first values and arithmetic are
torchvision's; the regions of all pictures are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.models.balanced_samples import Samples, balanced_samples
from airank_fast.models.rpn import Proposals, Truths, at, box_loss, matched, packed
from airank_fast.nn import PatchConv2d, batched_nms, decode_boxes, encode_boxes, match_boxes, multiscale_roi_align

_IGNORED = -100  # cross_entropy's own
_KEY = 0x1E3779B97F4A7C15  # makes a picture's key for regions of the one for anchors
_SMALLEST = 1e-2  # pixels, of a detection's sides
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the codes of boxes


@dataclass(frozen=True)
class RoIOptions:
    """The constants of the heads, by default torchvision's.

    box_size, mask_size: samples of a region on a side, for the box head and the mask head, whose masks have twice as
    many. sampling_ratio, canonical_size, canonical_level: see `multiscale_roi_align`. overlap: IoU with an object from
    which a region is positive. samples, positive_fraction: regions of a picture in the losses. min_score,
    nms_threshold, detections: of the detections of a picture.
    """

    box_size: int = 7
    mask_size: int = 14
    sampling_ratio: int = 2
    canonical_size: int = 224
    canonical_level: int = 4
    overlap: float = 0.5
    samples: int = 512
    positive_fraction: float = 0.25
    min_score: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100


class Detections(NamedTuple):
    """What was found in a batch, picture by picture, the best first.

    boxes: float32 [k, 4], (x1, y1, x2, y2) in pixels of the images. scores: float32 [k]. labels: int64 [k], 1 ...
    num_classes - 1. masks: float32 [k, M, M], the probability of the object at M * M places of its box. splits: the
    number of detections of each picture.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    splits: tuple[int, ...]


class BoxHead(nn.Module):
    """Two hidden layers: [k, channels, s, s] -> [k, width]."""

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(num_inputs, width)
        self.fc7 = nn.Linear(width, width)

    def forward(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(regions.flatten(1)))))


class BoxPredictor(nn.Module):
    """The logits of the classes, of which 0 is the background, and a box for each: [k, C] and [k, C, 4]."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, num_classes)
        self.bbox_pred = nn.Linear(width, 4 * num_classes)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(hidden), self.bbox_pred(hidden).unflatten(1, (-1, 4))


class MaskHead(nn.Sequential):
    """3x3 convolutions, each with a ReLU: [k, channels, s, s] -> [k, widths[-1], s, s]."""

    def __init__(self, channels: int, widths: tuple[int, ...], *, fused: bool) -> None:
        convolution = PatchConv2d if fused else nn.Conv2d
        inputs = (channels, *widths[:-1])
        layers = [convolution(*sides, 3, 1, 1) for sides in zip(inputs, widths, strict=True)]
        super().__init__(*(nn.Sequential(layer, nn.ReLU(inplace=True)) for layer in layers))
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)


class MaskPredictor(nn.Module):
    """A transposed convolution that doubles the size and a 1x1 one: [k, channels, s, s] -> [k, C, 2 s, 2 s]."""

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(channels, width, 2, 2)
        self.mask_fcn_logits = nn.Conv2d(width, num_classes, 1)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.mask_fcn_logits(F.relu(self.conv5_mask(x), inplace=True))


class RoIHeads(nn.Module):
    """The heads, their losses and their detections; see `RoIOptions`.

    Levels are [N, channels, H_i, W_i] of stride 4, 8, 16 and 32.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        box_width: int,
        mask_widths: tuple[int, ...],
        options: RoIOptions,
        *,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.options = options
        self.box_head = BoxHead(channels * options.box_size**2, box_width)
        self.box_predictor = BoxPredictor(box_width, num_classes)
        self.mask_head = MaskHead(channels, mask_widths, fused=fused)
        self.mask_predictor = MaskPredictor(mask_widths[-1], mask_widths[-1], num_classes)

    def losses(self, levels: list[Tensor], proposals: Proposals, truths: Truths) -> dict[str, Tensor]:
        """The losses "classifier", "box" and "mask" of sampled regions, each a mean over those of the batch."""
        regions, objects, samples = self.sampled(proposals, truths)
        labels = torch.where(samples.positive, _label(truths.labels, objects), 0)
        logits, codes = (output.float() for output in self._boxes(levels, regions))
        targets = encode_boxes(matched(truths.boxes, objects), regions, _WEIGHTS)
        of_label = codes.gather(1, labels.view(-1, 1, 1).expand(-1, 1, 4)).view_as(targets)
        counted = torch.where(samples.taken, labels, _IGNORED).flatten()
        number = samples.taken.sum().clamp(min=1)
        return {
            "classifier": F.cross_entropy(logits, counted, reduction="sum") / number,
            "box": box_loss(of_label, targets, samples.positive) / number,
            "mask": self._mask_loss(levels, regions, labels, objects, truths),
        }

    @torch.no_grad()
    def sampled(self, proposals: Proposals, truths: Truths) -> tuple[Tensor, Tensor, Samples]:
        """Regions [N, S, 4] of the proposals and the objects themselves, the numbers of the objects that they match,
        int64 [N, S], and the samples that they are, positives first."""
        options = self.options
        objects = _padded(truths.boxes, truths.splits)
        candidates = torch.cat([proposals.boxes, objects.boxes], 1)
        there = torch.cat([proposals.there, objects.there], 1)
        matches, _ = match_boxes(candidates, truths.boxes, truths.offsets, options.overlap, options.overlap)
        positive, negative = there & (matches >= 0), there & (matches < 0)
        keys = truths.keys ^ _KEY
        samples = balanced_samples(positive, negative, keys, options.samples, options.positive_fraction)
        objects = packed(matches.gather(1, samples.indices), truths.offsets)
        return at(candidates, samples.indices), objects, samples

    def _boxes(self, levels: list[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N * S, C] and codes [N * S, C, 4] of regions [N, S, 4]."""
        return self.box_predictor(self.box_head(self._aligned(levels, list(regions), self.options.box_size)))

    def _masks(self, levels: list[Tensor], regions: list[Tensor], labels: Tensor) -> Tensor:
        """Logits [k, M, M] of the masks of these classes, in k regions, a tensor per picture."""
        logits = self.mask_predictor(self.mask_head(self._aligned(levels, regions, self.options.mask_size)))
        return logits[torch.arange(len(labels), device=labels.device), labels].float()

    def _aligned(self, levels: list[Tensor], regions: list[Tensor], size: int) -> Tensor:
        return multiscale_roi_align(
            levels[:-1],
            regions,
            size,
            [1 / 4, 1 / 8, 1 / 16, 1 / 32],
            self.options.sampling_ratio,
            canonical_scale=self.options.canonical_size,
            canonical_level=self.options.canonical_level,
        )

    def _mask_loss(
        self, levels: list[Tensor], regions: Tensor, labels: Tensor, objects: Tensor, truths: Truths
    ) -> Tensor:
        """The mean cross entropy over the masks of positive regions; 0 where there is none.

        On a CPU the head sees these alone; elsewhere, where their number is not known without waiting, as many regions
        as may be positive.
        """
        limit = int(self.options.samples * self.options.positive_fraction)
        regions, labels, objects = (tensor[:, :limit] for tensor in (regions, labels, objects))
        counted = labels > 0
        if _number_is_known(counted):
            each = [boxes[of_picture] for boxes, of_picture in zip(regions, counted, strict=True)]
            labels, objects, counted = labels[counted], objects[counted], counted[counted]
        else:
            each = list(regions)
            labels, objects, counted = labels.flatten(), objects.flatten(), counted.flatten()
        logits = self._masks(levels, each, labels)
        targets = truths.mask_targets(torch.cat(each), objects.clamp(min=0)).to(logits.dtype)
        targets = torch.where(counted[:, None, None], targets, 0)  # those of no object may be NaN
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
        return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)

    def detections(self, levels: list[Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """The detections of each picture; see `RoIOptions`. sizes: as of `RPN`. Waits for the device."""
        options = self.options
        logits, codes = (output.float() for output in self._boxes(levels, proposals.boxes))
        num_pictures, per_picture = proposals.there.shape
        scores = logits.softmax(1)[:, 1:]
        region, label = torch.where((scores > options.min_score) & proposals.there.view(-1, 1))
        scores, picture, label = scores[region, label], region // per_picture, label + 1
        references = proposals.boxes.flatten(0, 1)[region]
        boxes = decode_boxes(codes[region, label], references, _WEIGHTS, image_size=sizes[picture])
        is_large = (boxes[:, 2:] - boxes[:, :2] >= _SMALLEST).all(1)
        boxes, scores, picture, label = (tensor[is_large] for tensor in (boxes, scores, picture, label))
        kept = batched_nms(boxes, scores, picture * logits.shape[1] + label, options.nms_threshold)
        kept = kept[picture[kept].argsort(stable=True)]  # by picture, the best first
        numbers = picture[kept].bincount(minlength=num_pictures)
        rank = torch.arange(len(kept), device=kept.device) - (numbers.cumsum(0) - numbers)[picture[kept]]
        kept = kept[rank < options.detections]
        splits = tuple(numbers.clamp(max=options.detections).tolist())
        boxes, scores, label = boxes[kept], scores[kept], label[kept]
        masks = self._masks(levels, list(boxes.split(splits)), label).sigmoid()
        return Detections(boxes, scores, label, masks, splits)


def _number_is_known(tensor: Tensor) -> bool:
    """Whether the host sees how many elements of the tensor are true without waiting for a device."""
    return tensor.is_cpu


def _label(labels: Tensor, objects: Tensor) -> Tensor:
    """The labels of objects of these numbers; of a negative number any label."""
    return (labels if len(labels) else labels.new_zeros(1))[objects.clamp(min=0)]


def _padded(boxes: Tensor, splits: tuple[int, ...]) -> Proposals:
    """Packed boxes [n, 4] as [N, G, 4], with the largest number of a picture's as G; padding has no area."""
    padded = nn.utils.rnn.pad_sequence(list(boxes.split(splits)), batch_first=True)
    return Proposals(padded, padded[..., 2] > padded[..., 0])
