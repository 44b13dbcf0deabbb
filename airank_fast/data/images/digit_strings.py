"""Scenes of 1 to 4 turned strings of embedded digits on a cloudy ground, in colour, with a quadrilateral around each.

    scene = digit_strings.scene(seed=0, index=7, held_out=False)
    scene.picture                    # uint8 [96, 128, 3]
    scene.strings                    # each with its text and corners; the text of one that cannot be read is ###

Bars as bright as the digits, and digits that do not touch, make bright areas other things than texts. A scene is a pure
function of seed and index; held-out scenes are of held-out digits, as lines are (`digit_scenes`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from airank_fast.data.cache import made_once
from airank_fast.data.images.digit_objects import ground, turned
from airank_fast.data.images.digit_scenes import Digit, Draws, blend, embedded
from airank_fast.data.images.quadrilaterals import surroundings
from airank_fast.data.images.text_scenes import FOLDERS, IGNORED

NAME = "strings of UCI optical digits (CC BY 4.0)"
HEIGHT, WIDTH = 96, 128
MOST = 4  # strings of a scene
SHORTEST, LONGEST = 2, 4  # strings, in digits
STEEPEST = 20  # degrees
NUM_TRAIN, NUM_HELD_OUT = 1000, 200
_FOLDER = "digit-strings-v1"  # a change of what is written needs another version
_PLACES = 6  # that are tried for a string or a bar
_NUM_DRAWS = 256  # uniforms of a scene
_MOST_BARS = 3
_APART = 3  # pixels between the boxes of two strings or bars, at least
_SMALL = 1 / 6  # share of strings that are too small to be read

Box = tuple[float, float, float, float]


class String(NamedTuple):
    """A string in a scene. quad: its corners from the top left one on, clockwise as it reads, float64 [4, 2]."""

    text: str
    quad: np.ndarray


@dataclass(frozen=True, eq=False)
class StringScene:
    """A picture, uint8 [H, W, 3], and its strings."""

    picture: np.ndarray
    strings: list[String]


def scene(seed: int, index: int, *, held_out: bool) -> StringScene:
    """A scene [96, 128, 3] of digits of 12 to 20 pixels' height, turned up to 20 degrees either way.

    One string in six is of 5 to 7 pixels' height, and is ignored. What finds no place beside the others is left out.
    """
    draws = Draws(seed, index, held_out, number=_NUM_DRAWS)
    picture = ground(draws, (HEIGHT, WIDTH))
    taken: list[Box] = []
    strings = []
    for _ in range(1 + draws.one_of(MOST)):
        height = draws.between(5, 7) if draws.between(0, 1) < _SMALL else draws.between(12, 20)
        text, strip = _strip(draws, height, held_out)
        degrees = draws.between(-STEEPEST, STEEPEST)
        length = strip.shape[1]
        ink = turned(Image.fromarray(np.pad(strip, 1)), strip.shape[0], length, degrees=degrees)
        colour = _colour(draws)
        place = _place(draws, ink.shape, taken)
        if place is None:
            continue
        for channel, level in enumerate(colour):
            blend(picture[:, :, channel], Digit(0, 0, *place, ink), level)
        centre = place[1] + ink.shape[1] / 2, place[0] + ink.shape[0] / 2
        quad = _rectangle(centre, length, strip.shape[0], degrees)
        strings.append(String(text if height >= 12 else IGNORED, quad))
    for _ in range(draws.one_of(_MOST_BARS + 1)):
        length, width, degrees = draws.between(12, 50), draws.between(2, 8), draws.between(-90, 90)
        cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
        shape = math.ceil(length * sin + width * cos), math.ceil(length * cos + width * sin)
        colour = _colour(draws)
        place = _place(draws, shape, taken)
        if place is not None:
            centre = place[1] + shape[1] / 2, place[0] + shape[0] / 2
            window, inside, distance = surroundings(_rectangle(centre, length, width, degrees), (HEIGHT, WIDTH), 1)
            ink = (np.where(inside, distance, -distance) + 0.5).clip(0, 1)[:, :, None]
            picture[window] += ink * (np.array(colour, np.float32) - picture[window])
    picture += draws.noise((HEIGHT, WIDTH), 6)[:, :, None]
    return StringScene(picture.clip(0, 255).round().astype(np.uint8), strings)


def _colour(draws: Draws) -> list[float]:
    return [draws.between(140, 255) for _ in range(3)]


def _strip(draws: Draws, height: float, held_out: bool) -> tuple[str, np.ndarray]:
    """A string of about this height that is not turned: its text, and its ink as grey levels, uint8 [h, w]."""
    choice = embedded(held_out)
    text = ""
    columns: list[np.ndarray] = []
    for _ in range(SHORTEST + draws.one_of(LONGEST - SHORTEST + 1)):
        label, _, bordered = choice[draws.one_of(len(choice))]
        width = max(3, round(height * draws.between(0.6, 0.85)))
        text += str(label)
        columns.append(np.asarray(bordered.resize((width, round(height)), Image.Resampling.BICUBIC, (1, 1, 9, 9))))
        columns.append(np.zeros((round(height), round(height * draws.between(0.05, 0.2))), np.uint8))
    return text, np.concatenate(columns[:-1], 1)


def _rectangle(centre: tuple[float, float], width: float, height: float, degrees: float) -> np.ndarray:
    """The corners of a rectangle that is turned clockwise: float64 [4, 2]."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    return corners @ np.array([[cos, sin], [-sin, cos]]) + centre


def _place(draws: Draws, shape: tuple[int, ...], taken: list[Box]) -> tuple[int, int] | None:
    """(top, left) of a box of this height and width that is apart from the others, among which it is entered."""
    for _ in range(_PLACES):
        top, left = (int(draws.between(0, side - size + 1)) for side, size in zip((HEIGHT, WIDTH), shape, strict=True))
        bottom, right = top + shape[0] + _APART, left + shape[1] + _APART
        if top < 0 or left < 0:
            continue
        if all(bottom <= box[0] or box[2] <= top or right <= box[1] or box[3] <= left for box in taken):
            taken.append((top, left, bottom, right))
            return top, left
    return None


def materialise(cache_dir: str | os.PathLike | None = None) -> Path:
    """Write the scenes to train and to evaluate on, once, and return their folder, in the form of ICDAR 2015.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """
    return made_once(_FOLDER, _write, "embedded data set", "--data with pictures and lists of their texts", cache_dir)


def _write(root: Path) -> None:
    for side, number, held_out in (("train", NUM_TRAIN, False), ("val", NUM_HELD_OUT, True)):
        pictures, lists = (root / name for name in FOLDERS[side])
        pictures.mkdir()
        lists.mkdir()
        for index in range(number):
            one = scene(0, index, held_out=held_out)
            Image.fromarray(one.picture).save(pictures / f"img_{index + 1}.png", compress_level=1)
            lines = [f"{','.join(f'{value:.1f}' for value in s.quad.ravel())},{s.text}\n" for s in one.strings]
            (lists / f"gt_img_{index + 1}.txt").write_text("".join(lines), encoding="utf-8")
