"""Batches of pictures with their objects: boxes, classes, crowds, and masks as polygons.

Everything ragged is packed: the objects of all pictures lie one behind the other, as do their polygons and the
polygons' corners. A mask of pixels (an RLE, an embedded scene) comes as polygons that cover the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.data.prefetch import Batch


class Window(NamedTuple):
    """The part of an image of a batch that a picture fills, in the image's pixels; the rest is padding."""

    top: int
    left: int
    height: int
    width: int


@dataclass
class DetectionBatch(Batch):
    """b pictures on the device with n objects, in the order of the pictures; splits, windows, sizes and ids are host's.

    images: [b, 3, H, W], channels_last, normalised. boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of `images`.
    labels: int64 [n], classes from 0 on. crowd: bool [n], objects that are ignored; there are none in training.
    points: float32 [p, 2], corners (x, y) of polygons in pixels of `images`. polygon_offsets: int64 [q + 1], polygon j
    has points[polygon_offsets[j] : polygon_offsets[j + 1]]. object_offsets: int64 [n + 1], the mask of object i is the
    union of polygons object_offsets[i] ... object_offsets[i + 1] - 1. There are no polygons where masks were not
    requested.
    positions: int64 [b], of the pictures in the training stream, for random numbers; 0 in evaluation.
    splits: the number of objects of each picture. windows: where the picture lies in its image. sizes: (height, width)
    of the picture in its file. ids: its number in the data set, for the meter.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    points: Tensor
    polygon_offsets: Tensor
    object_offsets: Tensor
    positions: Tensor
    splits: tuple[int, ...]
    windows: tuple[Window, ...]
    sizes: tuple[tuple[int, int], ...]
    ids: tuple[int, ...]

    @property
    def num_samples(self) -> int:
        """Pictures in this batch."""
        return len(self.splits)

    @classmethod
    def merged(cls, batches: Sequence[DetectionBatch]) -> DetectionBatch:
        """See Batch.merged; smaller images are padded at the right and at the bottom, as the reader pads them."""
        parts = [replace(batch, images=images) for batch, images in zip(batches, _of_one_size(batches), strict=True)]
        of_polygons = _shifted([batch.polygon_offsets for batch in batches])
        of_objects = _shifted([batch.object_offsets for batch in batches])
        return replace(super().merged(parts), polygon_offsets=of_polygons, object_offsets=of_objects)

    def in_picture(self, boxes: Tensor, number: int) -> Tensor:
        """Boxes [k, 4] in pixels of the image `number`, in pixels of its picture's file, cut to the picture."""
        window, (height, width) = self.windows[number], self.sizes[number]
        across, down = width / window.width, height / window.height
        shift = boxes.new_tensor([window.left, window.top, window.left, window.top])
        scaled = (boxes - shift) * boxes.new_tensor([across, down, across, down])
        return scaled.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def _of_one_size(batches: Sequence[DetectionBatch]) -> list[Tensor]:
    """The images of each batch, zeros, which are about the mean colour, beside the smaller ones."""
    sides = [tuple(batch.images.shape[2:]) for batch in batches]
    if len(set(sides)) == 1:
        return [batch.images for batch in batches]
    height, width = (max(side) for side in zip(*sides, strict=True))
    padding = [(0, width - its_width, 0, height - its_height) for its_height, its_width in sides]
    return [F.pad(batch.images, its) for batch, its in zip(batches, padding, strict=True)]


def _shifted(offsets: Sequence[Tensor]) -> Tensor:
    """Offsets of parts as those of the parts one behind the other."""
    lengths = torch.cat([each.diff() for each in offsets])
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
