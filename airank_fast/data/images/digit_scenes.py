"""Scenes composed of the embedded handwritten digits, which are known in every pixel: lines of text, moving digits.

    scene = digit_scenes.line(seed=0, index=7, held_out=False)
    scene.picture                    # uint8 [32, 64], grey
    scene.text                       # "4072"; each of scene.digits has its label, place and ink
    clip = digit_scenes.clip(seed=0, index=7, held_out=False)
    clip.frames                      # uint8 [8, 32, 32], grey
    digit_scenes.MOTIONS[clip.label]  # "shrinking"

A scene is a pure function of seed and index. Held-out scenes are of held-out digits (`digits.held_out`), so that no
digit is in both halves. `digit_objects` composes scenes with masks and boxes, from the same draws and digits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from airank_fast.data.cache import made_once
from airank_fast.data.images import digits
from airank_fast.data.sampling import Purpose, philox

NAME = "lines of UCI optical digits (CC BY 4.0)"
LINE_HEIGHT, LINE_WIDTH = 32, 64
SHORTEST, LONGEST = 2, 4  # lines, in digits
NUM_TRAIN, NUM_HELD_OUT = 6000, 1000
_FOLDER = "digit-lines-v2"  # a change of what is written needs another version
CLIPS_NAME = "moving UCI optical digits (CC BY 4.0)"
MOTIONS = ("right", "left", "down", "up", "clockwise", "anticlockwise", "growing", "shrinking")
CLIP_FRAMES, CLIP_SIZE = 8, 32
_MARGIN = 2  # pixels between a line's digits and its left and right border, at least
_NUM_DRAWS = 64  # uniforms of a line


class Digit(NamedTuple):
    """A digit in a scene.

    source: its number in the embedded set. top, left: of its ink in the picture, which it may overhang. ink: how much
    of each pixel it covers, float32 [h, w] in [0, 1].
    """

    label: int
    source: int
    top: int
    left: int
    ink: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, uint8 [H, W], and the digits that were drawn into it, the first ones below later ones."""

    picture: np.ndarray
    digits: list[Digit]

    @property
    def text(self) -> str:
        """The labels of the digits in their order, which in a line is from left to right."""
        return "".join(str(digit.label) for digit in self.digits)


class Draws:
    """The random numbers of a scene: uniforms, which are drawn first, and the noise of a picture."""

    def __init__(self, seed: int, index: int, held_out: bool, number: int = _NUM_DRAWS) -> None:
        self._words = philox(seed, Purpose.SCENES, (0, 2 * index + held_out))
        self._uniforms = iter((self._words.random_raw(number) >> np.uint64(11)) * 2.0**-53)

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * next(self._uniforms)

    def one_of(self, number: int) -> int:
        """One of 0 ... number - 1."""
        return int(next(self._uniforms) * number)

    def noise(self, shape: tuple[int, int], largest: float) -> np.ndarray:
        """Uniform in [-largest, largest]: float32."""
        size = shape[0] * shape[1]
        raw = self._words.random_raw(-(-size // 8)).view(np.uint8)[:size].reshape(shape)
        return (raw.astype(np.float32) - 127.5) * np.float32(largest / 127.5)


def line(seed: int, index: int, *, held_out: bool) -> Scene:
    """A line of 2 to 4 digits on a darker ground, grey, [32, 64]."""
    draws = Draws(seed, index, held_out)
    ground, bright = draws.between(0, 60), draws.between(140, 255)
    number = SHORTEST + draws.one_of(LONGEST - SHORTEST + 1)
    heights = [draws.between(18, 28) for _ in range(number)]
    widths = [height * draws.between(0.6, 0.9) for height in heights]
    gaps = [0.0, *(draws.between(-2, 2) for _ in range(number - 1))]
    length = sum(widths) + sum(gaps)
    fit = min(1.0, (LINE_WIDTH - 2 * _MARGIN) / length)
    left = draws.between(_MARGIN, LINE_WIDTH - _MARGIN - fit * length)
    placed, choice = [], embedded(held_out)
    for height, width, gap in zip(heights, widths, gaps, strict=True):
        left += fit * gap
        label, source, bordered = choice[draws.one_of(len(choice))]
        ink = _drawn(bordered, round(height), max(1, round(fit * width)), shear=draws.between(-0.15, 0.25))
        overhang = (ink.shape[1] - fit * width) / 2
        top = round(draws.between(0, LINE_HEIGHT - ink.shape[0]))
        placed.append(Digit(label, source, top, round(left - overhang), ink))
        left += fit * width
    picture = np.full((LINE_HEIGHT, LINE_WIDTH), ground, np.float32)
    for digit in placed:
        blend(picture, digit, bright)
    picture += draws.noise(picture.shape, 14)
    return Scene(picture.clip(0, 255).round().astype(np.uint8), placed)


@cache
def embedded(held_out: bool) -> list[tuple[int, int, Image.Image]]:
    """(label, number, picture with a border) of the digits of one half."""
    images, labels = digits.load()
    grey = (images.astype(np.uint16) * 255 // 16).astype(np.uint8)
    numbers = np.flatnonzero(digits.held_out(labels) == held_out)
    return [(int(labels[number]), int(number), _bordered(grey[number])) for number in numbers]


def _bordered(pixels: np.ndarray) -> Image.Image:
    """With a border of 1 pixel, so that strokes at the edge fade out."""
    return Image.fromarray(np.pad(pixels, 1))


def _drawn(bordered: Image.Image, height: int, width: int, *, shear: float) -> np.ndarray:
    """The ink of a digit of this size, which leans to the right by `shear` pixels a row: float32 [height, >= width]."""
    down, across = (bordered.height - 2) / height, (bordered.width - 2) / width
    extra = round(abs(shear) * height)
    # From a pixel of the result to one of `bordered`: x' = across * (x - extra / 2 + shear * (y - height / 2)) + 1.
    start = 1 - across * (extra / 2 + shear * height / 2)
    inverse = (across, across * shear, start, 0.0, down, 1.0)
    shape = (width + extra, height)
    drawn = bordered.transform(shape, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    return np.asarray(drawn, np.float32) / np.float32(255)


def blend(picture: np.ndarray, digit: Digit, level: float) -> None:
    """Draw a digit in this grey into a picture, float32 [H, W], without what overhangs."""
    top, left = max(0, digit.top), max(0, digit.left)
    window = picture[top : digit.top + digit.ink.shape[0], left : digit.left + digit.ink.shape[1]]
    ink = digit.ink[top - digit.top :, left - digit.left :][: window.shape[0], : window.shape[1]]
    window += ink * (np.float32(level) - window)


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a moving digit, uint8 [T, H, W], and the number of its motion in MOTIONS."""

    frames: np.ndarray
    label: int


def motion(index: int) -> int:
    """The number in MOTIONS of the motion of clip `index`."""
    return index % len(MOTIONS)


def clip(seed: int, index: int, *, held_out: bool) -> Clip:
    """Eight frames of a digit of about half their size that moves, turns or changes its size, grey, [8, 32, 32].

    Clips 2 n and 2 n + 1 have the same frames in opposite order, and opposite motions: 2 m and 2 m + 1. So whatever
    judges frames without their order is right for one of the two at most. Eight clips one after the other have
    different motions.
    """
    pair, is_reversed = divmod(index, 2)
    label = motion(index)
    draws = Draws(seed, pair, held_out)
    ground, bright = draws.between(0, 60), draws.between(140, 255)
    choice = embedded(held_out)
    _, _, bordered = choice[draws.one_of(len(choice))]
    angle, size = draws.between(-20, 20), draws.between(13, 18)
    x, y = (CLIP_SIZE / 2 + draws.between(-2, 2) for _ in range(2))
    speed = draws.between(0.8, 1.6)
    frames = np.full((CLIP_FRAMES, CLIP_SIZE, CLIP_SIZE), ground, np.float32)
    for number, frame in enumerate(frames):
        moved = speed * (number - (CLIP_FRAMES - 1) / 2)
        right, down, turned, grown = (moved if each == label // 2 else 0.0 for each in range(len(MOTIONS) // 2))
        ink = _turned(bordered, x + right, y + down, angle + 7 * turned, size * 1.07**grown)
        frame += ink * (np.float32(bright) - frame)
    frames += draws.noise((CLIP_FRAMES * CLIP_SIZE, CLIP_SIZE), 10).reshape(frames.shape)
    whole = frames.clip(0, 255).round().astype(np.uint8)
    return Clip(whole[::-1] if is_reversed else whole, label)


def _turned(bordered: Image.Image, x: float, y: float, degrees: float, size: float) -> np.ndarray:
    """The ink of a digit around (x, y) of a clip's frame, turned clockwise: float32 [H, W]."""
    scale = (bordered.width - 2) / size
    down, across = (scale * function(math.radians(degrees)) for function in (math.sin, math.cos))
    middle = bordered.width / 2
    inverse = (across, down, middle - across * x - down * y, -down, across, middle + down * x - across * y)
    drawn = bordered.transform((CLIP_SIZE, CLIP_SIZE), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    return np.asarray(drawn, np.float32) / np.float32(255)


def materialise(cache_dir: str | os.PathLike | None = None) -> tuple[Path, Path]:
    """Write 6,000 lines to train on and 1,000 to evaluate on, once, and return their lists; see `text_lines`.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """
    folder = made_once(_FOLDER, _write, "embedded data set", "--data with a list of pictures", cache_dir)
    return folder / "train.txt", folder / "val.txt"


def _write(root: Path) -> None:
    for side, number, held_out in (("train", NUM_TRAIN, False), ("val", NUM_HELD_OUT, True)):
        (root / side).mkdir()
        (root / f"{side}.txt").write_text("".join(_written(root, side, number, held_out)), encoding="utf-8")


def _written(root: Path, side: str, number: int, held_out: bool) -> Iterator[str]:
    for index in range(number):
        scene, name = line(0, index, held_out=held_out), f"{side}/{index:04d}.png"
        Image.fromarray(scene.picture).save(root / name, compress_level=1)
        yield f"{name}\t{scene.text}\n"
