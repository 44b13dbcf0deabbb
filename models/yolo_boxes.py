"""From YOLOv3's logits to boxes, (x1, y1, x2, y2) in pixels: where its cells are, its loss, and its detections.

The arithmetic is that of darknet's yolo_layer.c, for whole batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.models.yolov3 import ANCHORS_OF_CELL, STRIDES
from airank_fast.nn import batched_nms, match_boxes

ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))


@dataclass(frozen=True)
class Grid:
    """The places of a network's predictions for images of one size.

    Of each prediction, in the order of `YOLOv3`: corner, float32 [cells, 2], the top left corner (x, y) of its cell;
    stride, float32 [cells, 1]; anchor, float32 [cells, 2], width and height. Of each anchor, in the order of the cfg:
    anchors, float32 [9, 2]; strides, float32 [9, 1]; sides, int64 [9, 2], cells across and down; first, int64 [9], the
    number of its prediction in the first cell. Places and sizes are in pixels.
    """

    corner: Tensor
    stride: Tensor
    anchor: Tensor
    anchors: Tensor
    strides: Tensor
    sides: Tensor
    first: Tensor

    @classmethod
    def of(
        cls,
        height: int,
        width: int,
        anchors: Sequence[Sequence[float]] = ANCHORS,
        device: torch.device | str = "cpu",
    ) -> Grid:
        """For images of this size, multiples of 32. anchors: nine, of which the last three are those of stride 32."""
        shapes = torch.tensor(anchors, dtype=torch.float32)
        each = ANCHORS_OF_CELL
        of_cells: list[list[Tensor]] = []
        of_anchors: list[list[Tensor]] = []
        number = 0
        for stride, level in zip(STRIDES, shapes.split(each)[::-1], strict=True):
            down, across = height // stride, width // stride
            y, x = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
            corner = (stride * torch.stack([x, y], 2)).float().view(-1, 2).repeat_interleave(each, 0)
            of_cells.append([corner, torch.full((len(corner), 1), float(stride)), level.repeat(down * across, 1)])
            sides = torch.tensor([[across, down]]).expand(each, 2)
            of_anchors.append([torch.full((each, 1), float(stride)), sides, number + torch.arange(each)])
            number += len(corner)
        corner, cell_stride, anchor = (torch.cat(parts) for parts in zip(*of_cells, strict=True))
        strides, sides, first = (torch.cat(parts) for parts in zip(*of_anchors[::-1], strict=True))
        found = corner, cell_stride, anchor, shapes, strides, sides, first
        return cls(*(part.to(device) for part in found))

    def decode(self, logits: Tensor) -> Tensor:
        """The boxes of logits [..., cells, 4 or more]: float32 [..., cells, 4]."""
        x_y, w_h = logits[..., :2].float(), logits[..., 2:4].float()
        centre, half = self.corner + x_y.sigmoid() * self.stride, w_h.exp() * self.anchor / 2
        return torch.cat([centre - half, centre + half], -1)

    def assign(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction that has to find each of the boxes [n, 4], int64 [n], and its goals, float32 [n, 4].

        It is that of the box's centre and of the anchor whose shape has the largest IoU with the box's. The goals are x
        and y of the centre in the cell, in [0, 1], and the logarithms of width and height over the anchor's.
        """
        size = boxes[:, 2:] - boxes[:, :2]
        shared = torch.minimum(size[:, None], self.anchors).prod(2)
        best = (shared / (size.prod(1)[:, None] + self.anchors.prod(1) - shared)).argmax(1)
        place = (boxes[:, 2:] + boxes[:, :2]) / 2 / self.strides[best]
        sides = self.sides[best]
        cell = torch.minimum(place.floor().long().clamp(min=0), sides - 1)  # a centre on the border is in the last cell
        prediction = self.first[best] + ANCHORS_OF_CELL * (cell[:, 1] * sides[:, 0] + cell[:, 0])
        return prediction, torch.cat([place - cell, (size / self.anchors[best]).log()], 1)


class Truth(NamedTuple):
    """The n objects of a batch on the device, in the order of its pictures.

    boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of the images, of a positive area. labels: int64 [n], classes.
    pictures: int64 [n], ascending. weights: float32 [n], of an object's share in the loss: 1, or less under mixup.
    offsets: int64 [N + 1], picture i has the objects offsets[i] ... offsets[i + 1] - 1.
    """

    boxes: Tensor
    labels: Tensor
    pictures: Tensor
    weights: Tensor
    offsets: Tensor


def yolo_loss(
    logits: Tensor, grid: Grid, truth: Truth, *, ignore_iou: float = 0.7, label_smoothing: float = 0.0
) -> Tensor:
    """The mean over pictures of the sum over their predictions, whose gradient is that of darknet's yolo_layer.c.

    - object: cross entropy of each prediction, with 1 where it has to find an object (`Grid.assign`). A prediction that
      has to find none, and whose box has an IoU above `ignore_iou` with any object of the picture, does not count.
    - x, y: cross entropy with the place in the cell; width, height: half of the squared difference of the logarithms.
      Both are weighted by 2 - width * height of the object, as parts of the image's.
    - classes: cross entropy of each, with 1 - label_smoothing for the object's, label_smoothing for the others.

    Where several objects fall to one prediction, it has the box and the weight of the last one, and the classes of all.
    An object's weight multiplies all parts at its prediction. gluon-cv and PaddleDetection have the absolute
    difference of the logarithms instead. Nothing waits for the device.

    logits: [N, cells, 5 + C], floating point. Returns a float32 scalar.
    """
    num, cells, outputs = logits.shape
    logits = logits.float()
    prediction, goals = grid.assign(truth.boxes)
    flat = truth.pictures * cells + prediction
    order = torch.arange(len(flat), device=flat.device)
    # The last object at each prediction: a maximum, since the order of writes to one place is not defined.
    last = torch.full((num * cells,), -1, device=flat.device).scatter_reduce(0, flat, order, "amax")
    owner = last[flat]
    weight = truth.weights * (owner == order)

    at_objects = logits.view(-1, outputs)[flat]
    width_height = truth.boxes[:, 2:] - truth.boxes[:, :2]
    image = (grid.sides * grid.strides).amax(0)
    scale = 2 - (width_height / image).prod(1)
    x_y = _cross_entropy(at_objects[:, :2], goals[:, :2]).sum(1)
    w_h = (at_objects[:, 2:4] - goals[:, 2:]).square().sum(1) / 2
    classes = torch.full((len(flat), outputs - 5), label_smoothing, device=flat.device)
    classes = classes.index_put((owner, truth.labels), classes.new_full((), 1 - label_smoothing))
    of_classes = _cross_entropy(at_objects[:, 5:], classes).sum(1)
    at_them = (weight * (scale * (x_y + w_h) + of_classes)).sum()

    shares = torch.zeros(num * cells, device=flat.device).scatter_add(0, flat, weight)
    is_owned = last >= 0
    with torch.no_grad():
        _, ious = match_boxes(grid.decode(logits), truth.boxes, truth.offsets, ignore_iou, ignore_iou)
    counted = torch.where(is_owned, shares, (ious <= ignore_iou).float().view(-1))
    of_objects = _cross_entropy(logits[..., 4].reshape(-1), is_owned.float())
    return (at_them + (counted * of_objects).sum()) / num


def _cross_entropy(logits: Tensor, goals: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, goals, reduction="none")


class Detections(NamedTuple):
    """What is found in a picture, best first: boxes, float32 [k, 4]; scores, float32 [k]; labels, int64 [k]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def detect(
    logits: Tensor,
    grid: Grid,
    *,
    score_threshold: float = 0.005,
    nms_iou: float = 0.45,
    most: int = 100,
    candidates: int = 1000,
) -> list[Detections]:
    """The objects of each picture, from logits [N, cells, 5 + C], boxes in pixels of the images.

    A score is the probability of an object times that of a class; a box may be found for several classes. Of each
    picture the `candidates` best scores above the threshold go through non-maximum suppression, class by class, and the
    `most` best that are left are returned.
    """
    logits = logits.float()
    num, num_classes = len(logits), logits.shape[2] - 5
    all_scores = (logits[..., 4:5].sigmoid() * logits[..., 5:].sigmoid()).flatten(1)
    scores, places = all_scores.topk(min(candidates, all_scores.shape[1]))
    labels = places % num_classes
    which = (places // num_classes)[..., None].expand(-1, -1, 4)
    boxes = grid.decode(logits).gather(1, which)
    pictures = torch.arange(num, device=logits.device)[:, None].expand_as(labels)
    is_left = scores > score_threshold
    flat = boxes[is_left], scores[is_left], labels[is_left], pictures[is_left]
    kept = batched_nms(flat[0], flat[1], flat[3] * num_classes + flat[2], nms_iou)
    boxes, scores, labels, pictures = (part[kept] for part in flat)
    order = pictures.argsort(stable=True)  # by score within a picture, as batched_nms returns them
    counts = torch.bincount(pictures, minlength=num).tolist()
    of_pictures = (part[order].split(counts) for part in (boxes, scores, labels))
    return [Detections(*(part[:most] for part in parts)) for parts in zip(*of_pictures, strict=True)]
