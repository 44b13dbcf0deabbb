"""Small data sets in the form of COCO 2017: scenes of digits, and annotations that a test changes."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from airank_fast.data.images import digit_coco
from airank_fast.data.images.coco import ANNOTATIONS, PICTURES


def write_digits(root, num_train: int = 6, num_val: int = 4):
    """Scenes of digits, the evaluation's of held-out ones; returns the folder."""
    for side, number in (("train", num_train), ("val", num_val)):
        digit_coco.write(root, side, number, seed=3)
    return root


def change(root, side: str, edit) -> None:
    """Let `edit` change the content of a side's JSON."""
    path = root / ANNOTATIONS[side]
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def write_coco(root, side: str, pictures, annotations, categories=(1, 3)) -> None:
    """Pictures of (id, name, height, width), grey, and annotations as they are."""
    folder = root / PICTURES[side]
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number, name, height, width in pictures:
        Image.fromarray(np.full((height, width, 3), number % 256, np.uint8)).save(folder / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    path = root / ANNOTATIONS[side]
    path.parent.mkdir(exist_ok=True)
    content = {"info": {"year": 2017}, "images": images, "licenses": [], "annotations": annotations}
    path.write_text(json.dumps(content | {"categories": [{"id": number} for number in categories]}))


def annotation(number: int, picture: int, box, **more) -> dict:
    """An annotation of category 1 whose mask is its box."""
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    made = {"id": number, "image_id": picture, "category_id": 1, "bbox": list(box), "area": width * height}
    return made | {"iscrowd": 0, "segmentation": [polygon]} | more
