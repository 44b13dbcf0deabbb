"""The data set that comes with the package: 1,797 handwritten digits of 8 x 8 pixels.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/): the part that the donors set aside for testing. `digits.npz`
holds `images` uint8 [1797, 8, 8], grey levels 0 ... 16, and `labels` uint8 [1797]; the changes are
`materialise`'s: 0 ... 255, enlarged four times, a black border, RGB JPEG.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from airank_fast.data.cache import made_once

NAME = "UCI optical digits (CC BY 4.0)"
NUM_CLASSES = 10
PICTURE_SIZE = 40  # 8 pixels enlarged to 32, and a border of 4 on each side: room to shift by 1 source pixel
_ENLARGED_SIZE = 32
_FOLDER = "uci-digits-v1"  # a change of what is written needs another version
_HOLD_OUT = 5  # every fifth picture of a class is in val


def load() -> tuple[np.ndarray, np.ndarray]:
    """The embedded pictures, uint8 [1797, 8, 8] of 0 ... 16, and labels, uint8 [1797]."""
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        return archive["images"], archive["labels"]


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which of the digits with these labels, in the order of `load`, are in val: bool [n]."""
    ranks = np.empty(len(labels), np.int64)  # of a digit among those of its class
    for label in range(NUM_CLASSES):
        its = labels == label
        ranks[its] = np.arange(its.sum())
    return ranks % _HOLD_OUT == _HOLD_OUT - 1


def materialise(cache_dir: str | os.PathLike | None = None) -> Path:
    """Write the digits as an ImageFolder tree, once, and return its path.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """
    return made_once(_FOLDER, _write, "embedded data set", "--data with a directory of pictures", cache_dir)


def _write(root: Path) -> None:
    images, labels = load()
    for side in ("train", "val"):
        for label in range(NUM_CLASSES):
            (root / side / str(label)).mkdir(parents=True)
    border = (PICTURE_SIZE - _ENLARGED_SIZE) // 2
    for number, (pixels, label, is_val) in enumerate(zip(images, labels, held_out(labels), strict=True)):
        grey = Image.fromarray((pixels.astype(np.uint16) * 255 // 16).astype(np.uint8))
        picture = Image.new("L", (PICTURE_SIZE, PICTURE_SIZE))
        enlarged = grey.resize((_ENLARGED_SIZE, _ENLARGED_SIZE), Image.Resampling.BICUBIC)
        picture.paste(enlarged, (border, border))
        side = "val" if is_val else "train"
        picture.convert("RGB").save(root / side / str(label) / f"{number:04d}.JPEG", quality=95)
