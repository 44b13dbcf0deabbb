"""Batches of pictures with boxes, classes and masks, from data sets in the form of COCO: see detection_batch.py.

reader = DetectionReader(train, val, stream, place, layout, masks=True)
for batch in prefetch(reader.train(), device, torch.float32, MEAN, STD): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airank_fast.data.images.batches import Normalise
from airank_fast.data.images.coco import Coco
from airank_fast.data.images.detection_batch import DetectionBatch, Window
from airank_fast.data.images.object_layouts import Layout
from airank_fast.data.images.place import Place
from airank_fast.data.images.run_lengths import pack_polygons
from airank_fast.data.images.segmentation_reader import PADDING
from airank_fast.data.images.workers import Broken, WorkerReader
from airank_fast.data.prefetch import moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import Request, TrainStream

_ON_DEVICE = 8  # of a batch's tensors, the first ones; the others stay on the host


class _Batches(Dataset):
    """Request -> the tensors of a batch: pictures uint8 [b, H, W, 3], then those of DetectionBatch in its order."""

    def __init__(self, coco: Coco, layout: Layout, masks: bool, padding: Sequence[int]):
        self.coco, self.layout, self.masks, self.padding = coco, layout, masks, padding

    def __getitem__(self, request: Request) -> tuple[Tensor, ...] | Broken:
        coco, layout = self.coco, self.layout
        numbers = request.indices.tolist()
        draws = [None] * len(numbers) if request.draws is None else list(request.draws)
        corners = [_corners(coco, number) for number in numbers]
        sizes = [(int(height), int(width)) for height, width in coco.sizes[request.indices]]
        placed = [
            layout.place(size, boxes, its_draws, request.step)
            for size, boxes, its_draws in zip(sizes, corners, draws, strict=True)
        ]
        shape = layout.shape(placed, request.step)
        pictures = np.empty((len(numbers), *shape, 3), np.uint8)
        pictures[:] = self.padding
        boxes, labels, crowd, splits = [], [], [], []
        polygons: list[list[np.ndarray]] = []
        for number, image, place, its_corners, its_draws in zip(numbers, pictures, placed, corners, draws, strict=True):
            picture = coco.read(number)
            if isinstance(picture, Broken):
                return picture
            place.draw(picture, image)
            its_boxes = place.boxes(its_corners)
            keep = np.ones(len(its_boxes), bool)
            if its_draws is not None:
                layout.recolour(image, its_draws)
                keep = _centred(its_boxes, place.window)
            its = coco.objects_of(number)
            boxes.append(_cut(its_boxes, place.window)[keep])
            labels.append(coco.labels[its][keep])
            crowd.append(coco.crowd[its][keep])
            splits.append(int(keep.sum()))
            if self.masks:
                outlines = coco.outlines_of(number)
                polygons += [[place.points(each) for each in outlines[row]] for row in np.flatnonzero(keep)]
            else:
                polygons += [[]] * splits[-1]
        packed = pack_polygons(polygons)
        positions = np.zeros(len(numbers), np.int64) if request.draws is None else np.arange(len(numbers))
        arrays = (
            pictures,
            np.concatenate(boxes).astype(np.float32),
            np.concatenate(labels),
            np.concatenate(crowd),
            packed.points.astype(np.float32),
            packed.polygon_offsets,
            packed.object_offsets,
            positions + request.position,
            np.array(splits),
            np.array([place.window for place in placed]),
            np.array(sizes),
            request.indices,
        )
        return tuple(map(torch.from_numpy, arrays))


def _corners(coco: Coco, number: int) -> np.ndarray:
    """Boxes (x1, y1, x2, y2) of a picture's objects, cut to the picture: float64 [n, 4]."""
    boxes = coco.boxes[coco.objects_of(number)]
    height, width = coco.sizes[number]
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).clip(0, [width, height] * 2)


def _centred(boxes: np.ndarray, window: Window) -> np.ndarray:
    """Which boxes have their centre in the window: bool [n]."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - [window.left, window.top]
    return ((centres >= 0) & (centres < [window.width, window.height])).all(1)


def _cut(boxes: np.ndarray, window: Window) -> np.ndarray:
    low, high = [window.left, window.top], [window.left + window.width, window.top + window.height]
    return boxes.clip(low * 2, high * 2)


class DetectionReader(WorkerReader):
    """Pictures of a training set, and all of a validation set, with their objects.

    train: without crowds, see `Coco.to_train_on`. layout, eval_layout: of training and evaluation; an evaluation has no
    random part of it. masks: polygons are in the batches. padding: the colour beside pictures.
    """

    name = "torch"

    def __init__(
        self,
        train: Coco,
        val: Coco,
        stream: TrainStream,
        place: Place,
        layout: Layout,
        *,
        eval_layout: Layout | None = None,
        masks: bool,
        padding: Sequence[int] = PADDING,
    ):
        training = _Batches(train, layout, masks, padding)
        evaluation = _Batches(val, eval_layout or layout, masks, padding)
        super().__init__(training, evaluation, len(val), stream, place)


def prefetch(
    batches: Iterable[tuple[Tensor, ...]],
    device: torch.device | str,
    dtype: torch.dtype,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[DetectionBatch]:
    """A reader's batches on the device, normalised. Closing it closes `batches`."""
    device = torch.device(device)
    normalise = Normalise(mean, std, dtype, device)

    def move(item: tuple[Tensor, ...]) -> DetectionBatch:
        on_device = moved((part.numpy() for part in item[:_ON_DEVICE]), device)
        pictures, boxes, labels, crowd, points, polygon_offsets, object_offsets, positions = on_device
        splits, windows, sizes, ids = (part.tolist() for part in item[_ON_DEVICE:])
        return DetectionBatch(
            normalise(pictures),
            boxes,
            labels,
            crowd,
            points,
            polygon_offsets,
            object_offsets,
            positions,
            splits=tuple(splits),
            windows=tuple(Window(*window) for window in windows),
            sizes=tuple((height, width) for height, width in sizes),
            ids=tuple(ids),
        )

    return any_prefetch(batches, device, move)
