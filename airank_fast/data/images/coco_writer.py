"""Writes pictures with boxes or masks in the form of COCO 2017: see coco.py.

write_side(root, "train", [Sample(picture, labels, masks=masks), ...], names=["crown"])
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from airank_fast.data.images.coco import ANNOTATIONS, PICTURES
from airank_fast.data.images.run_lengths import encode, outlines


class Sample(NamedTuple):
    """A picture, uint8 [H, W, 3], and its n objects. labels: n classes from 0 on.

    masks: bool [n, H, W], none of them empty; or boxes: n times (x1, y1, x2, y2), where there are no masks.
    """

    picture: np.ndarray
    labels: Sequence[int]
    masks: np.ndarray | None = None
    boxes: Sequence[Sequence[float]] = ()


def write_side(root: Path, side: str, samples: Iterable[Sample], names: Sequence[str]) -> None:
    """Write the pictures of one side, train or val, as PNGs, and its annotations. names: of the classes.

    Category ids are from 1 on. A mask is written as polygons that cover its pixels.
    """
    folder, path = root / PICTURES[side], root / ANNOTATIONS[side]
    folder.mkdir(parents=True)
    path.parent.mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, 1):
        name, (height, width) = f"{number:012d}.png", sample.picture.shape[:2]
        Image.fromarray(sample.picture).save(folder / name, compress_level=1)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for label, shape in zip(sample.labels, _shapes(sample), strict=True):
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1 + int(label), "iscrowd": 0}
            annotations.append(about | shape)
    categories = [{"id": label, "name": name} for label, name in enumerate(names, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def _shapes(sample: Sample) -> list[dict[str, Any]]:
    """bbox, area and segmentation of each object."""
    if sample.masks is None:
        boxes = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in sample.boxes]
        return [{"bbox": list(box), "area": box[2] * box[3], "segmentation": []} for box in boxes]
    runs, shapes = encode(sample.masks), []
    for row, mask in enumerate(sample.masks):
        ys, xs = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
        box = [xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]]
        polygons = [each.astype(int).ravel().tolist() for each in outlines(runs.of(row), len(mask))]
        shapes.append({"bbox": box, "area": int(np.count_nonzero(mask)), "segmentation": polygons})
    return shapes
