"""Small data sets of pictures with label images, as a list and as Cityscapes' tree."""

from __future__ import annotations

import numpy as np
from PIL import Image

CLASSES = 5


def pixels(number: int, height: int = 40, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 [H, W, 3], in which colours are classes, and its classes with some 255: uint8 [H, W]."""
    rng = np.random.default_rng(number)
    classes = np.repeat(np.repeat(rng.integers(0, CLASSES, (height // 10, width // 10)), 10, 0), 10, 1).astype(np.uint8)
    picture = (50 * classes[:, :, None] + np.array([0, 20, 40]) + rng.integers(0, 10, (height, width, 3))).astype(
        np.uint8
    )
    classes[rng.random((height, width)) < 0.1] = 255
    return picture, classes


def write_list(folder, number=8, name="train", first=0, **size):
    """A folder of pictures with their list."""
    (folder / name).mkdir(parents=True)
    rows = []
    for index in range(number):
        paths = f"{name}/{index}.png", f"{name}/{index}_labels.png"
        for path, content in zip(paths, pixels(first + index, **size), strict=True):
            Image.fromarray(content).save(folder / path)
        rows.append("\t".join(paths) + "\n")
    path = folder / f"{name}.txt"
    path.write_text("".join(rows), encoding="utf-8")
    return path


def write_tree(root, names=(("train", "aachen", 3), ("train", "ulm", 2), ("val", "lindau", 2)), height=8, width=16):
    """Cityscapes' tree, with label ids 0 to 33; returns {picture's stem: ids}."""
    found = {}
    for side, city, number in names:
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / side / city).mkdir(parents=True)
        for index in range(number):
            stem = f"{city}_{index:06d}_000019"
            rng = np.random.default_rng([index, len(found)])
            found[stem] = ids = rng.integers(0, 34, (height, width)).astype(np.uint8)
            picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(picture).save(root / "leftImg8bit" / side / city / f"{stem}_leftImg8bit.png")
            Image.fromarray(ids).save(root / "gtFine" / side / city / f"{stem}_gtFine_labelIds.png")
    return found
