"""Batches as YOLOv3's loss takes them: objects with the number of their picture and a weight, and mixup."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.images.detection_batch import DetectionBatch
from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.sampling import Purpose, philox

_WORDS = 4  # of a position, of which two are taken


@dataclass
class YoloBatch(Batch):
    """b images on the device with n objects, in the order of the images.

    images: [b, 3, H, W], channels_last. boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels. labels: int64 [n], classes.
    pictures: int64 [n], the number of the image. weights: float32 [n], the object's share in the loss. offsets: int64
    [b + 1], image i has the objects offsets[i] ... offsets[i + 1] - 1.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    pictures: Tensor
    weights: Tensor
    offsets: Tensor

    @property
    def num_samples(self) -> int:
        """Images in this batch."""
        return len(self.images)


def mixup_ratios(seed: int, first_position: int, count: int) -> np.ndarray:
    """Of stream positions: float32 [count], Beta(1.5, 1.5), a pure function of seed and position.

    It is the distribution of a coordinate of a point in a disc, whose density is a half circle.
    """
    words = philox(seed, Purpose.MIXUP, (first_position, 0)).random_raw(count * _WORDS).reshape(count, _WORDS)
    u = (words >> np.uint64(11)) * 2.0**-53
    return (0.5 + 0.5 * np.sqrt(u[:, 0]) * np.cos(2 * np.pi * u[:, 1])).astype(np.float32)


def with_shares(batch: DetectionBatch, ratios: np.ndarray | None = None) -> YoloBatch:
    """A reader's batch, in which each object has its whole share; mixed where there are ratios, float32 [b].

    Image i becomes ratio * image i + (1 - ratio) * its neighbour, and has the objects of both with these weights, its
    own first. Neighbours are images 2 k and 2 k + 1; the last one of an odd number stays as it is.
    """
    num, device = batch.num_samples, batch.images.device
    others = np.minimum(np.arange(num) ^ 1, num - 1)
    ratios = np.ones(num) if ratios is None else np.where(others == np.arange(num), 1, ratios)
    ends = np.cumsum(batch.splits)
    objects_of = np.split(np.arange(ends[-1]), ends[:-1])
    chosen, pictures, weights = [], [], []
    for number, (other, ratio) in enumerate(zip(others, ratios, strict=True)):
        for source, weight in ((number, ratio), (other, 1 - ratio)):
            if weight > 0:
                chosen.append(objects_of[source])
                pictures.append(np.full(len(objects_of[source]), number))
                weights.append(np.full(len(objects_of[source]), weight, np.float32))
    of_objects = [np.concatenate(parts) for parts in (chosen, pictures, weights)]
    offsets = np.searchsorted(of_objects[1], np.arange(num + 1))
    arrays = *of_objects, offsets, ratios.astype(np.float32), others
    objects, number_of, weight_of, first_of, shares, neighbours = moved(arrays, device)
    images = batch.images
    if (ratios < 1).any():
        images = torch.lerp(images[neighbours], images, shares.to(images.dtype).view(-1, 1, 1, 1))
    return YoloBatch(
        images,
        batch.boxes[objects],
        batch.labels[objects],
        number_of,
        weight_of,
        first_of,
        seconds=batch.seconds,
        span=batch.span,
    )
