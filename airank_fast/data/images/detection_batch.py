"""Batches of pictures with their objects: boxes, classes, crowds, and masks as polygons.

Everything ragged is packed: the objects of all pictures lie one behind the other, as do their polygons and the
polygons' corners. A mask of pixels (an RLE, an embedded scene) comes as polygons that cover the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

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

    def in_picture(self, boxes: Tensor, number: int) -> Tensor:
        """Boxes [k, 4] in pixels of the image `number`, in pixels of its picture's file, cut to the picture."""
        window, (height, width) = self.windows[number], self.sizes[number]
        across, down = width / window.width, height / window.height
        shift = boxes.new_tensor([window.left, window.top, window.left, window.top])
        scaled = (boxes - shift) * boxes.new_tensor([across, down, across, down])
        return scaled.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
