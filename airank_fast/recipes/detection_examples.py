"""Pictures of detections for a run's report: what is found beside what is true, with boxes, classes and masks."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from airank_fast.data.images.batches import as_pictures
from airank_fast.data.images.detection_batch import DetectionBatch
from airank_fast.data.images.run_lengths import decode
from airank_fast.job import Example
from airank_fast.quality.coco_ap import Detections

SIDE = 320  # pixels of a picture's longer side
_CROWD = (170, 170, 170)
_OPAQUE = 0.45  # a mask's colour over the picture
_LEAST = 0.5  # a detection of a lower score is not shown


class _Object(NamedTuple):
    """An object to be drawn. box: in pixels of the drawing; text: above it; mask: bool [h, w] of any size, or None."""

    box: np.ndarray
    text: str
    colour: tuple[int, int, int]
    mask: np.ndarray | None


def examples(
    outputs: Sequence[Detections],
    batch: DetectionBatch,
    names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> list[Example]:
    """Each picture of a batch with the detections of at least 0.5, and beside it with the objects; crowds are grey.

    names: of the classes. mean, std: those of the batch's pictures.
    """
    found = []
    truths = np.split(np.arange(len(batch.boxes)), np.cumsum(batch.splits)[:-1])
    for number, (pixels, its) in enumerate(zip(as_pictures(batch.images, mean, std), outputs, strict=True)):
        window = batch.windows[number]
        picture = Image.fromarray(
            pixels[window.top : window.top + window.height, window.left : window.left + window.width]
        )
        scale = SIDE / max(picture.size)
        large = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
        height, width = batch.sizes[number]
        of_file = np.tile([large.width / width, large.height / height], 2)
        detected = [
            _Object(
                its.boxes[row] * of_file,
                f"{names[its.labels[row]]} {its.scores[row]:.2f}",
                _colour(int(its.labels[row])),
                None if its.masks is None else decode(its.masks, row),
            )
            for row in np.flatnonzero(its.scores >= _LEAST).tolist()
        ]
        true = [_true(batch, row, number, scale, large.size, names) for row in truths[number].tolist()]
        found.append(Example(np.hstack([_drawn(large, detected), _drawn(large, true)])))
    return found


def _true(
    batch: DetectionBatch, row: int, number: int, scale: float, size: tuple[int, int], names: Sequence[str]
) -> _Object:
    """An object of a batch; size: (width, height) of the drawing."""
    window = batch.windows[number]
    shift = np.array([window.left, window.top])
    is_crowd, label = bool(batch.crowd[row]), int(batch.labels[row])
    first, last = batch.object_offsets[row : row + 2].tolist()
    mask = None
    if last > first:
        image = Image.new("1", size)
        draw = ImageDraw.Draw(image)
        offsets = batch.polygon_offsets[first : last + 1].tolist()
        for start, end in pairwise(offsets):
            corners = (batch.points[start:end].cpu().numpy() - shift) * scale
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill=1)
        mask = np.asarray(image)
    box = (batch.boxes[row].cpu().numpy() - np.tile(shift, 2)) * scale
    return _Object(box, names[label], _CROWD if is_crowd else _colour(label), mask)


def _drawn(picture: Image.Image, objects: Sequence[_Object]) -> np.ndarray:
    """A picture with objects, uint8 [H, W, 3]; the first ones are on top."""
    pixels = np.array(picture, np.float32)
    for each in reversed(objects):
        if each.mask is not None:
            mask = np.asarray(Image.fromarray(each.mask).resize(picture.size, Image.Resampling.NEAREST))
            pixels[mask] += _OPAQUE * (np.array(each.colour, np.float32) - pixels[mask])
    image = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12)
    for each in reversed(objects):
        draw.rectangle(each.box.tolist(), outline=each.colour, width=2)
        corner = each.box[0] + 3, max(0, each.box[1] - 14)
        draw.text(corner, each.text, fill=each.colour, font=font, stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def _colour(label: int) -> tuple[int, int, int]:
    """Of a class: neighbours differ in their hue."""
    red, green, blue = colorsys.hsv_to_rgb(0.618034 * label % 1, 0.7, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
