"""The scenes of embedded digits (digit_objects.py) in the form of COCO 2017: boxes, masks, categories 1 to 10."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from airank_fast.data.cache import made_once
from airank_fast.data.images import digit_objects
from airank_fast.data.images.coco import ANNOTATIONS, PICTURES
from airank_fast.data.images.digit_objects import NUM_HELD_OUT, NUM_TRAIN
from airank_fast.data.images.run_lengths import encode, outlines

NAME = digit_objects.NAME
NUM_CLASSES = 10
_FOLDER = "digit-coco-v1"  # a change of what is written needs another version


def materialise(cache_dir: str | os.PathLike | None = None) -> Path:
    """Write the scenes to train and to evaluate on, once, and return their folder.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """
    return made_once(_FOLDER, _write, "embedded data set", "--data with a folder in the form of COCO", cache_dir)


def _write(root: Path) -> None:
    write(root, "train", NUM_TRAIN)
    write(root, "val", NUM_HELD_OUT)


def write(root: Path, side: str, number: int, seed: int = 0) -> None:
    """Write so many scenes of one side, train or val, with their annotations; the digits of val are held out."""
    folder = root / PICTURES[side]
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(number):
        scene = digit_objects.scene(seed, index, held_out=side == "val")
        name, (height, width) = f"{index + 1:012d}.png", scene.picture.shape[:2]
        Image.fromarray(scene.picture).save(folder / name, compress_level=1)
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        masks = digit_objects.masks(scene)
        runs, corners = encode(masks), digit_objects.boxes(scene)
        for row, digit in enumerate(scene.digits):
            left, top, right, bottom = corners[row].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": 1 + digit.label,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(np.count_nonzero(masks[row])),
                    "iscrowd": 0,
                    "segmentation": [each.astype(int).ravel().tolist() for each in outlines(runs.of(row), height)],
                }
            )
    categories = [{"id": 1 + label, "name": str(label)} for label in range(NUM_CLASSES)]
    path = root / ANNOTATIONS[side]
    path.parent.mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
