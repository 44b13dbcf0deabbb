"""Small data sets of image translation: pairs side by side, pairs in two folders, and two domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

JOINED = {"train": 4, "val": 2}  # pictures by folder
PAIRS = {"trainA": 4, "trainB": 4, "testA": 2, "testB": 2}
UNPAIRED = {"trainA": 3, "trainB": 5, "testA": 4, "testB": 2}


def picture(number: int, height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray:
    """uint8 [H, W, channels], of blocks of 4 x 4 pixels."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (height // 4, width // 4, channels), np.uint8)
    return np.repeat(np.repeat(blocks, 4, 0), 4, 1)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path)


def write_joined(root: Path, numbers: dict[str, int] = JOINED) -> Path:
    """Picture i is A, and B is its negative."""
    for side, number in numbers.items():
        for index in range(number):
            one = picture(index)
            write(root / side / f"{index}.png", np.concatenate([one, 255 - one], 1))
    return root


def write_folders(root: Path, numbers: dict[str, int], negative: bool = True) -> Path:
    """numbers: of pictures by folder. Those of B are the negatives of A's, or others."""
    for folder, number in numbers.items():
        for index in range(number):
            is_b = folder.endswith("B")
            one = picture(index if negative else 100 * is_b + index)
            write(root / folder / f"{index}.png", 255 - one if is_b and negative else one)
    return root
