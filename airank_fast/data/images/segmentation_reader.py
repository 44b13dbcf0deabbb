"""Batches of pictures with their label images: crops at a random scale to train on, whole pictures to evaluate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airank_fast.data.images.batches import Normalise
from airank_fast.data.images.geometry import scaled_crop
from airank_fast.data.images.label_images import IGNORED, Pairs
from airank_fast.data.images.place import Place
from airank_fast.data.images.workers import Broken, Refused, WorkerReader
from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import Request, TrainStream, flip_draws, offset_draws

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, on which backbones are trained
STD = (0.229, 0.224, 0.225)
PADDING = tuple(round(255 * mean) for mean in MEAN)  # nearly 0 for the network


class Crops(NamedTuple):
    """Training crops of `height` x `width` pixels from pictures that are scaled by min_scale to max_scale, uniformly.

    flip: half of them are mirrored. What a picture does not fill is padding, whose label is IGNORED.
    """

    height: int
    width: int
    min_scale: float
    max_scale: float
    flip: bool


@dataclass
class SegmentationBatch(Batch):
    """b pictures on the device. images: [b, 3, H, W], channels_last; labels: uint8 [b, H, W], a class or IGNORED."""

    images: Tensor
    labels: Tensor

    @property
    def num_samples(self) -> int:
        """Pictures in this batch."""
        return len(self.labels)


class _Crops(Dataset):
    """Request -> pictures uint8 [b, H, W, 3], labels uint8 [b, H, W]."""

    def __init__(self, pairs: Pairs, crops: Crops):
        self.pairs, self.crops = pairs, crops

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor] | Broken:
        crops, u = self.crops, request.draws
        assert u is not None, "only evaluation requests have no draws"
        shape = len(request.indices), crops.height, crops.width
        pictures = np.empty((*shape, 3), np.uint8)
        pictures[:] = PADDING
        labels = np.full(shape, IGNORED, np.uint8)
        scales = crops.min_scale + (crops.max_scale - crops.min_scale) * u[:, 0]
        offsets, flips = offset_draws(u), flip_draws(u) & crops.flip
        for row, number in enumerate(request.indices):
            options = {"scale": scales[row], "offset": offsets[row], "mirrored": bool(flips[row])}
            found = self.pairs.read_crop(number, partial(scaled_crop, crop=shape[1:], **options))
            if isinstance(found, Broken):
                return found
            picture, its_labels, crop = found
            crop.draw(picture, pictures[row])
            crop.draw_nearest(its_labels, labels[row])
        return torch.from_numpy(pictures), torch.from_numpy(labels)


class _Whole(Dataset):
    """Request -> pictures uint8 [b, H, W, 3], labels uint8 [b, H, W], of pictures of one size."""

    def __init__(self, pairs: Pairs):
        self.pairs = pairs

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor] | Broken | Refused:
        pictures, labels = [], []
        for number in request.indices:
            found = self.pairs.read(number)
            if isinstance(found, Broken):
                return found
            pictures.append(found[0])
            labels.append(found[1])
            if labels[-1].shape != labels[0].shape:
                (h, w), (height, width) = labels[-1].shape, labels[0].shape
                what = f"must be of {width} x {height} pixels, as others of its batch, or evaluated alone"
                where = self.pairs.pictures[number]
                return Refused(f"{where}: {what} (--eval-batch-size as the number of ranks), got {w} x {h}")
        return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(labels))


class SegmentationReader(WorkerReader):
    """Crops of a training set, and whole pictures of a validation set."""

    name = "torch"

    def __init__(self, train: Pairs, val: Pairs, stream: TrainStream, place: Place, crops: Crops):
        super().__init__(_Crops(train, crops), _Whole(val), len(val), stream, place)


def prefetch(
    batches: Iterable[tuple[Tensor, ...]], device: torch.device | str, dtype: torch.dtype
) -> Iterator[SegmentationBatch]:
    """A reader's batches on the device, normalised. Closing it closes `batches`."""
    device = torch.device(device)
    normalise = Normalise(MEAN, STD, dtype, device)

    def move(item: tuple[Tensor, ...]) -> SegmentationBatch:
        pictures, labels = moved((part.numpy() for part in item), device)
        return SegmentationBatch(normalise(pictures), labels)

    return any_prefetch(batches, device, move)
