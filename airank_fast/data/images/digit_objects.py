"""Scenes of 1 to 5 embedded digits on a cloudy ground, in colour, with the digits' masks, boxes and label images.

    scene = digit_objects.scene(seed=0, index=7, held_out=False)
    scene.picture                    # uint8 [96, 96, 3]
    masks(scene), boxes(scene)       # of the visible part of each of scene.digits
    label_image(scene)               # uint8 [96, 96]: 0 is the ground, 1 to 10 are the digits 0 to 9

A scene is a pure function of seed and index; held-out scenes are of held-out digits, as lines are (`digit_scenes`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from airank_fast.data.cache import made_once
from airank_fast.data.images.digit_scenes import Digit, Draws, Scene, blend, embedded

NAME = "scenes of UCI optical digits (CC BY 4.0)"
SIDE = 96
MOST = 5  # digits of a scene
NUM_CLASSES = 11
IGNORED = 255
NUM_TRAIN, NUM_HELD_OUT = 2000, 300
_FOLDER = "digit-objects-v2"  # a change of what is written needs another version
_PLACES = 4  # that are tried for a digit
_NUM_DRAWS = 96  # uniforms of a scene
_OVERLAP = 0.15  # the largest part of a digit's box that a later one's may cover
_INK = 0.35  # a pixel with at least that much ink is the digit's


def scene(seed: int, index: int, *, held_out: bool) -> Scene:
    """1 to 5 digits of 24 to 44 pixels' height, leaning up to 15 degrees either way, on a darker ground: [96, 96, 3].

    A digit that at four places would cover more than 15 % of an earlier one's box is left out.
    """
    draws = Draws(seed, index, held_out, number=_NUM_DRAWS)
    picture = ground(draws, (SIDE, SIDE))
    placed: list[Digit] = []
    choice = embedded(held_out)
    for _ in range(1 + draws.one_of(MOST)):
        label, source, bordered = choice[draws.one_of(len(choice))]
        height = draws.between(24, 44)
        ink = turned(bordered, height, height * draws.between(0.7, 0.95), degrees=draws.between(-15, 15))
        colour = [draws.between(140, 255) for _ in range(3)]
        for _ in range(_PLACES):
            top, left = (int(draws.between(0, SIDE - size + 1)) for size in ink.shape)
            digit = Digit(label, source, top, left, ink)
            if all(_covered(earlier, digit) <= _OVERLAP for earlier in placed):
                placed.append(digit)
                for channel, level in enumerate(colour):
                    blend(picture[:, :, channel], digit, level)
                break
    picture += draws.noise((SIDE, SIDE), 6)[:, :, None]
    return Scene(picture.clip(0, 255).round().astype(np.uint8), placed)


def ground(draws: Draws, shape: tuple[int, int]) -> np.ndarray:
    """Clouds of grey levels from 20 to 90, tinted: float32 [H, W, 3]."""
    cells = 2 + draws.one_of(5)
    tint = np.array([draws.between(0.6, 1.2) for _ in range(3)], np.float32)
    clouds = Image.fromarray(55 + draws.noise((cells, cells), 35)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(clouds)[:, :, None] * tint


def turned(bordered: Image.Image, height: float, width: float, *, degrees: float) -> np.ndarray:
    """A picture with a border of 1 pixel, scaled to this size and turned clockwise, as ink: float32 [h, w] in [0, 1].

    h and w are those of the turned box, around whose centre it is turned.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    shape = round(abs(cos) * width + abs(sin) * height), round(abs(sin) * width + abs(cos) * height)
    across, down = (bordered.width - 2) / width, (bordered.height - 2) / height
    # From a pixel of the result, counted from its centre, to one of `bordered`, counted from its centre.
    matrix = (across * cos, across * sin), (-down * sin, down * cos)
    inverse: list[float] = []
    for (x, y), size in zip(matrix, bordered.size, strict=True):
        inverse += [x, y, size / 2 - x * shape[0] / 2 - y * shape[1] / 2]
    drawn = bordered.transform(shape, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    return np.asarray(drawn, np.float32) / np.float32(255)


def _covered(earlier: Digit, later: Digit) -> float:
    """The part of the earlier digit's box that is in the later one's."""
    height, width = earlier.ink.shape
    down = min(earlier.top + height, later.top + later.ink.shape[0]) - max(earlier.top, later.top)
    across = min(earlier.left + width, later.left + later.ink.shape[1]) - max(earlier.left, later.left)
    return max(0, down) * max(0, across) / (height * width)


def masks(scene: Scene) -> np.ndarray:
    """The visible pixels of each digit: bool [n, H, W]; a later digit hides those of earlier ones."""
    found = np.zeros((len(scene.digits), *scene.picture.shape[:2]), bool)
    for number, digit in enumerate(scene.digits):
        (height, width), its = digit.ink.shape, digit.ink >= _INK
        window = slice(digit.top, digit.top + height), slice(digit.left, digit.left + width)
        found[(slice(number), *window)] &= ~its
        found[(number, *window)] = its
    return found


def boxes(scene: Scene) -> np.ndarray:
    """(left, top, right, bottom) of the visible pixels of each digit, right and bottom exclusive: int64 [n, 4]."""
    found = np.empty((len(scene.digits), 4), np.int64)
    for box, mask in zip(found, masks(scene), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return found


def label_image(scene: Scene) -> np.ndarray:
    """The class of each pixel: 0 of the ground, 1 + the digit's label, IGNORED where the ground touches a digit."""
    labels = np.zeros(scene.picture.shape[:2], np.uint8)
    for digit, mask in zip(scene.digits, masks(scene), strict=True):
        labels[mask] = 1 + digit.label
    inked = np.pad(labels > 0, 1)
    touches = inked[:-2, 1:-1] | inked[2:, 1:-1] | inked[1:-1, :-2] | inked[1:-1, 2:]
    labels[touches & (labels == 0)] = IGNORED
    return labels


def materialise(cache_dir: str | os.PathLike | None = None) -> tuple[Path, Path]:
    """Write the scenes to train and to evaluate on with their label images, once, and return their lists.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """
    folder = made_once(_FOLDER, _write, "embedded data set", "--data with pictures and label images", cache_dir)
    return folder / "train.txt", folder / "val.txt"


def _write(root: Path) -> None:
    for side, number, held_out in (("train", NUM_TRAIN, False), ("val", NUM_HELD_OUT, True)):
        (root / side).mkdir()
        (root / f"{side}.txt").write_text("".join(_written(root, side, number, held_out)), encoding="utf-8")


def _written(root: Path, side: str, number: int, held_out: bool) -> Iterator[str]:
    for index in range(number):
        one = scene(0, index, held_out=held_out)
        names = f"{side}/{index:04d}.png", f"{side}/{index:04d}_labels.png"
        for name, pixels in zip(names, (one.picture, label_image(one)), strict=True):
            Image.fromarray(pixels).save(root / name, compress_level=1)
        yield "\t".join(names) + "\n"
